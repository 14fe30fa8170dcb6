// Areas that a click would paint: what smart select and the superpixel tool show before it.
//
// A mask has a 1 for each pixel of the region's box that belongs to the area, row by row; bounds are [x0, y0, x1, y1],
// the ends excluded.

// The pixels whose score is at least the threshold and that hang together with a seed, edge by edge; without seeds all of
// them. {mask, bounds}, or null where there are none.
export function areaOf(region, { scores, threshold }, seeds) {
  const { width, height } = region, mask = new Uint8Array(width * height), open = [];
  const belongs = (i) => !mask[i] && scores[i] >= threshold && region.has(i);
  let [x0, y0, x1, y1] = [width, height, -1, -1];
  const add = (i) => {
    const x = i % width, y = (i - x) / width;
    mask[i] = 1;
    if (x < x0) x0 = x;
    if (x > x1) x1 = x;
    if (y < y0) y0 = y;
    if (y > y1) y1 = y;
    return x;
  };
  if (!seeds.length) {
    for (let i = 0; i < mask.length; i++) if (belongs(i)) add(i);
  }
  // What was pointed at belongs to it, whatever its score is.
  for (const i of seeds) if (region.has(i)) open.push(i);
  for (const i of seeds) if (region.has(i)) add(i);
  while (open.length) {
    const i = open.pop(), x = i % width;
    for (const [k, there] of [[i - 1, x > 0], [i + 1, x + 1 < width], [i - width, i >= width], [i + width, i + width < mask.length]]) {
      if (there && belongs(k)) {
        add(k);
        open.push(k);
      }
    }
  }
  return x1 < 0 ? null : { mask, bounds: [x0, y0, x1 + 1, y1 + 1] };
}

// Superpixels: their map, and the bounds of each.
export function cutInto(map, width) {
  const bounds = [];
  for (let i = 0; i < map.length; i++) {
    const x = i % width, y = (i - x) / width, box = (bounds[map[i]] ??= [x, y, x + 1, y + 1]);
    if (x < box[0]) box[0] = x;
    if (x >= box[2]) box[2] = x + 1;
    if (y >= box[3]) box[3] = y + 1;
  }
  return { map, bounds };
}

// The superpixel of pixel i, as {mask, bounds}; the mask is of the bounds alone.
export function superpixel({ map, bounds }, width, i) {
  const [x0, y0, x1, y1] = bounds[map[i]], mask = new Uint8Array((x1 - x0) * (y1 - y0));
  for (let y = y0, k = 0; y < y1; y++) for (let x = x0; x < x1; x++, k++) mask[k] = map[y * width + x] === map[i] ? 1 : 0;
  return { mask, bounds: bounds[map[i]] };
}

// A picture of an area: a light veil over it and a line along its edges; {canvas, bounds}.
export function drawn(region, { mask, bounds }) {
  const [x0, y0, x1, y1] = bounds, wide = x1 - x0, high = y1 - y0, own = mask.length === wide * high;
  const at = own ? (x, y) => y * wide + x : (x, y) => (y + y0) * region.width + x + x0;
  const canvas = Object.assign(document.createElement("canvas"), { width: wide, height: high });
  const pen = canvas.getContext("2d"), data = pen.createImageData(wide, high), pixels = new Uint32Array(data.data.buffer);
  const there = (x, y) => x >= 0 && y >= 0 && x < wide && y < high && mask[at(x, y)] === 1;
  for (let y = 0, i = 0; y < high; y++) {
    for (let x = 0; x < wide; x++, i++) {
      if (!mask[at(x, y)] || !region.has((y + y0) * region.width + x + x0)) continue;
      const inner = there(x - 1, y) && there(x + 1, y) && there(x, y - 1) && there(x, y + 1);
      pixels[i] = inner ? 0x66ffffff : 0xe6ffffff;
    }
  }
  pen.putImageData(data, 0, 0);
  return { canvas, bounds };
}

// The borders between superpixels, as a picture of the region's box.
export function borders(region, { map }) {
  const { width, height } = region, canvas = Object.assign(document.createElement("canvas"), { width, height });
  const pen = canvas.getContext("2d"), data = pen.createImageData(width, height), pixels = new Uint32Array(data.data.buffer);
  for (let y = 0, i = 0; y < height; y++) {
    for (let x = 0; x < width; x++, i++) {
      const edge = (x + 1 < width && map[i] !== map[i + 1]) || (y + 1 < height && map[i] !== map[i + width]);
      if (edge && region.has(i)) pixels[i] = 0x99ffffff;
    }
  }
  pen.putImageData(data, 0, 0);
  return { canvas, bounds: [0, 0, width, height] };
}
