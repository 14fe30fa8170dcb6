// The areas that a click of smart select or of the superpixel tool would paint. They are shown before the click.
//
// A mask has a 1 for each pixel of the region's box that belongs to the area, row by row. Bounds are [x0, y0, x1, y1]
// without the ends.

// The area {mask, bounds} of the pixels whose score is at least the threshold and that are connected with a seed by
// their edges. Without seeds it holds all such pixels. It is null where there are none.
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
  // The pixels that were pointed at belong to the area, whatever their scores are.
  for (const i of seeds) if (region.has(i)) open.push(i);
  for (const i of seeds) if (region.has(i)) add(i);
  while (open.length) {
    const i = open.pop(), x = i % width;
    for (const [k, exists] of [[i - 1, x > 0], [i + 1, x + 1 < width], [i - width, i >= width], [i + width, i + width < mask.length]]) {
      if (exists && belongs(k)) {
        add(k);
        open.push(k);
      }
    }
  }
  return x1 < 0 ? null : { mask, bounds: [x0, y0, x1 + 1, y1 + 1] };
}

// The superpixels of a map, with the bounds of each.
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

// The area of one pixel of a box.
export function pixel(i, width) {
  const x = i % width, y = (i - x) / width;
  return { mask: new Uint8Array([1]), bounds: [x, y, x + 1, y + 1] };
}

// The value that most pixels of an area have by `valueAt(i)`; null for an area without a pixel of the region.
export function majority(region, area, valueAt) {
  const counts = new Uint32Array(256);
  let best = null;
  for (const i of pixelsOf(region, area)) {
    const value = valueAt(i);
    counts[value]++;
    if (best === null || counts[value] > counts[best]) best = value;
  }
  return best;
}

// The pixels of the region that belong to an area.
function* pixelsOf({ width, inside }, { mask, bounds: [x0, y0, x1, y1] }) {
  const cropped = mask.length === (x1 - x0) * (y1 - y0);
  for (let y = y0; y < y1; y++) {
    for (let x = x0, i = y * width + x0; x < x1; x++, i++) {
      if (mask[cropped ? (y - y0) * (x1 - x0) + x - x0 : i] && (inside === null || inside[i] === 1)) yield i;
    }
  }
}

// A picture {canvas, bounds} of an area: a light veil over it and a line along its edges.
export function drawn(region, { mask, bounds }) {
  const [x0, y0, x1, y1] = bounds, wide = x1 - x0, high = y1 - y0, cropped = mask.length === wide * high;
  const at = cropped ? (x, y) => y * wide + x : (x, y) => (y + y0) * region.width + x + x0;
  const canvas = Object.assign(document.createElement("canvas"), { width: wide, height: high });
  const pen = canvas.getContext("2d"), data = pen.createImageData(wide, high), pixels = new Uint32Array(data.data.buffer);
  const belongs = (x, y) => x >= 0 && y >= 0 && x < wide && y < high && mask[at(x, y)] === 1;
  for (let y = 0, i = 0; y < high; y++) {
    for (let x = 0; x < wide; x++, i++) {
      if (!mask[at(x, y)] || !region.has((y + y0) * region.width + x + x0)) continue;
      const inner = belongs(x - 1, y) && belongs(x + 1, y) && belongs(x, y - 1) && belongs(x, y + 1);
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
