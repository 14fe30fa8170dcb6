// The canvas: an image, the asked region in it, what is painted there, and where the person looks at.
//
// A place is (x, y) in pixels of the image; on the screen it is (x · scale + left, y · scale + top).

import { UNDECIDED } from "./region.js";
import { tile } from "./looks.js";

const CLOSEST = 48;
const DIM = "rgb(0 0 0 / 48%)";
const GUESSED = 0.62; // how much of the overlay's opacity a guess has beside what is painted
const POINT = 60; // the pixels around a point that are shown
// Pixels of the screen that are kept free beyond the image's edges: buttons and notices lie above and below.
const BESIDE = 12;
const ABOVE = 60;

export class View {
  constructor(canvas) {
    this.canvas = canvas;
    this.pen = canvas.getContext("2d");
    this.bitmap = null;
    this.opacity = 0.55;
    this.named = true;
    this.above = null; // draws over everything, in pixels of the screen
    this.labels = document.createElement("canvas");
    this.mask = document.createElement("canvas");
    this.scratch = document.createElement("canvas");
    this.whole = this.moved = false;
    this.ratio = 1;
    new ResizeObserver(() => this.#resize()).observe(canvas);
  }

  // `place` is {x0, y0, width, height, inside, size: [H, W]}.
  show(bitmap, place, region, looks, point) {
    Object.assign(this, { bitmap, place, region, looks, point });
    this.outline = point ? null : outline(place);
    this.#cut();
    this.#resize();
    this.fit(false);
    this.paint();
  }

  clear() {
    this.bitmap = null;
    this.ask();
  }

  #resize() {
    const { canvas } = this, ratio = devicePixelRatio || 1;
    const { width, height } = canvas.getBoundingClientRect();
    const [w, h] = [Math.round(width * ratio), Math.round(height * ratio)];
    if (canvas.width === w && canvas.height === h) return;
    if (this.bitmap && this.moved) this.pan((w - canvas.width) / 2, (h - canvas.height) / 2);
    Object.assign(canvas, { width: w, height: h });
    this.ratio = ratio;
    if (this.bitmap && !this.moved) this.fit(this.whole);
    this.ask();
  }

  // ── Where one looks ──

  // The region with what is around it, or the whole image.
  fit(whole = !this.whole) {
    const { canvas, place } = this, [H, W] = place.size;
    Object.assign(this, { whole, moved: false });
    const all = Math.min(canvas.width / W, canvas.height / H);
    const near = this.point
      ? Math.min(canvas.width, canvas.height) / (2 * POINT)
      : 0.45 * Math.min(canvas.width / place.width, canvas.height / place.height);
    this.scale = whole ? all : Math.min(Math.max(near, all), CLOSEST * this.ratio);
    const [x, y] = whole ? [W / 2, H / 2] : [place.x0 + place.width / 2, place.y0 + place.height / 2];
    // Little of what is beyond the image's edges, but nothing that is asked about below a button.
    const put = (centre, length, view, pixels) => {
      const free = view - length * this.scale, margin = pixels * this.ratio;
      return free >= 2 * margin ? free / 2 : Math.min(Math.max(view / 2 - centre * this.scale, free - margin), margin);
    };
    this.left = put(x, W, canvas.width, BESIDE);
    this.top = put(y, H, canvas.height, ABOVE);
    this.ask();
  }

  zoom(factor, [x, y] = [this.canvas.width / 2, this.canvas.height / 2]) {
    if (!this.bitmap) return;
    const [H, W] = this.place.size;
    const least = Math.min(this.canvas.width / W, this.canvas.height / H, 1) / 2;
    const scale = Math.min(Math.max(this.scale * factor, least), CLOSEST * this.ratio);
    this.left = x - ((x - this.left) * scale) / this.scale;
    this.top = y - ((y - this.top) * scale) / this.scale;
    this.scale = scale;
    this.moved = true;
    this.ask();
  }

  pan(dx, dy) {
    this.left += dx;
    this.top += dy;
    this.moved = true;
    this.ask();
  }

  // From a pointer to pixels of the canvas, and from there to a place in the region's box.
  at(event) {
    const box = this.canvas.getBoundingClientRect();
    return [(event.clientX - box.left) * this.ratio, (event.clientY - box.top) * this.ratio];
  }

  inBox([x, y]) {
    return [(x - this.left) / this.scale - this.place.x0, (y - this.top) / this.scale - this.place.y0];
  }

  onScreen([x, y]) {
    return [(x + this.place.x0) * this.scale + this.left, (y + this.place.y0) * this.scale + this.top];
  }

  // ── Drawing ──

  ask() {
    this.frame ||= requestAnimationFrame(() => {
      this.frame = 0;
      this.draw();
    });
  }

  draw() {
    const { canvas, pen, bitmap, scale, left, top } = this;
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.clearRect(0, 0, canvas.width, canvas.height);
    if (!bitmap) return;
    if (this.stale) this.#paint();
    const { x0, y0 } = this.place;
    const inImage = () => pen.setTransform(scale, 0, 0, scale, left, top);
    inImage();
    pen.imageSmoothingEnabled = scale < 2;
    pen.drawImage(bitmap, 0, 0);
    pen.imageSmoothingEnabled = false;
    if (!this.point) this.#stamp(this.mask, DIM, "source-out");
    inImage();
    pen.globalAlpha = this.opacity;
    pen.drawImage(this.labels, x0, y0);
    this.#patterns();
    pen.globalAlpha = 1;
    if (this.outline) {
      inImage();
      for (const [colour, wide] of [["black", 5], ["white", 2]]) {
        pen.strokeStyle = colour;
        pen.lineWidth = (wide * this.ratio) / scale;
        pen.stroke(this.outline);
      }
    }
    pen.setTransform(1, 0, 0, 1, 0, 0);
    if (this.point) this.#ring();
    else if (this.named && this.opacity > 0) this.#nameAreas();
    this.above?.(pen);
  }

  // Patterns have the same fineness at any zoom: they are cut out on the screen.
  #patterns() {
    for (const [bank, mask] of this.patterned) this.#stamp(mask, tile(bank), "source-in");
  }

  // Fills the screen's pixels of a mask of the box, or all others, by way of a canvas of its own:
  // rectangles that meet at parts of pixels would leave seams.
  #stamp(mask, fill, how) {
    const { canvas, scratch, pen, scale, place } = this;
    if (scratch.width !== canvas.width || scratch.height !== canvas.height) {
      Object.assign(scratch, { width: canvas.width, height: canvas.height });
    }
    const cut = scratch.getContext("2d"), [left, top] = this.onScreen([0, 0]);
    cut.globalCompositeOperation = "copy";
    cut.imageSmoothingEnabled = false;
    cut.drawImage(mask, left, top, place.width * scale, place.height * scale);
    cut.globalCompositeOperation = how;
    cut.fillStyle = typeof fill === "string" ? fill : cut.createPattern(fill, "repeat");
    cut.fillRect(0, 0, scratch.width, scratch.height);
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.drawImage(scratch, 0, 0);
  }

  #ring() {
    const { pen, ratio, scale } = this, [x, y] = this.onScreen([0.5, 0.5]);
    const radius = Math.max(14 * ratio, scale * 1.5);
    for (const [colour, wide] of [["black", 6], ["white", 2.5]]) {
      pen.strokeStyle = colour;
      pen.lineWidth = wide * ratio;
      pen.beginPath();
      pen.arc(x, y, radius, 0, 7);
      for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
        pen.moveTo(x + dx * radius, y + dy * radius);
        pen.lineTo(x + dx * (radius + 10 * ratio), y + dy * (radius + 10 * ratio));
      }
      pen.stroke();
    }
    const half = Math.max(scale, 3 * ratio) / 2;
    pen.lineWidth = ratio;
    pen.strokeStyle = "black";
    pen.strokeRect(x - half - ratio, y - half - ratio, 2 * half + 2 * ratio, 2 * half + 2 * ratio);
    pen.strokeStyle = "white";
    pen.strokeRect(x - half, y - half, 2 * half, 2 * half);
  }

  #nameAreas() {
    const { pen, ratio, scale, looks } = this;
    pen.font = `600 ${12 * ratio}px system-ui, sans-serif`;
    pen.textBaseline = "middle";
    pen.textAlign = "center";
    const taken = [];
    for (const { value, x, y, pixels } of this.areas) {
      const text = looks.name(value), wide = pen.measureText(text).width + 10 * ratio, high = 18 * ratio;
      if (pixels * scale * scale < 1.6 * wide * high) continue;
      const [cx, cy] = this.onScreen([x, y]);
      if (taken.some(([ox, oy, other]) => Math.abs(ox - cx) < (wide + other) / 2 && Math.abs(oy - cy) < high)) continue;
      taken.push([cx, cy, wide]);
      pen.fillStyle = "rgb(0 0 0 / 72%)";
      pen.beginPath();
      pen.roundRect(cx - wide / 2, cy - high / 2, wide, high, 4 * ratio);
      pen.fill();
      pen.fillStyle = "white";
      pen.fillText(text, cx, cy);
    }
  }

  // The region's pixels, opaque.
  #cut() {
    const { width, height, inside } = this.place;
    Object.assign(this.mask, { width, height });
    const pen = this.mask.getContext("2d"), data = pen.createImageData(width, height);
    for (let i = 0; i < width * height; i++) data.data[4 * i + 3] = inside === null || inside[i] ? 255 : 0;
    pen.putImageData(data, 0, 0);
  }

  // Draws the labels anew, with the next frame: after every change of what is painted, or of the guess or the colours.
  paint() {
    this.stale = true;
    this.ask();
  }

  #paint() {
    this.stale = false;
    const { region, looks, labels } = this, { width, height } = region;
    if (labels.width !== width || labels.height !== height) Object.assign(labels, { width, height });
    const pen = labels.getContext("2d"), data = pen.createImageData(width, height), pixels = data.data;
    const banks = new Map(), sums = new Map();
    for (let i = 0; i < region.size; i++) {
      if (!region.has(i)) continue;
      const value = region.shown(i);
      if (value === UNDECIDED) continue;
      const [r, g, b] = looks.rgb.get(value), alpha = region.values[i] === UNDECIDED ? 255 * GUESSED : 255, at = 4 * i;
      pixels[at] = r;
      pixels[at + 1] = g;
      pixels[at + 2] = b;
      pixels[at + 3] = alpha;
      const bank = looks.bank(value);
      if (bank) {
        if (!banks.has(bank)) banks.set(bank, pen.createImageData(width, height));
        banks.get(bank).data[at + 3] = alpha;
      }
      const sum = sums.get(value) ?? [0, 0, 0];
      sums.set(value, sum);
      sum[0] += i % width;
      sum[1] += Math.floor(i / width);
      sum[2]++;
    }
    pen.putImageData(data, 0, 0);
    this.patterned = [...banks].map(([bank, mask]) => {
      const cut = Object.assign(document.createElement("canvas"), { width, height });
      cut.getContext("2d").putImageData(mask, 0, 0);
      return [bank, cut];
    });
    this.areas = areas(region, sums);
  }
}

// For each value, largest first, the pixel of its own that is nearest to its middle: where its name stands.
function areas(region, sums) {
  const found = new Map();
  for (const [value, [x, y, pixels]] of sums) found.set(value, { value, mx: x / pixels, my: y / pixels, pixels, best: Infinity });
  for (let i = 0; i < region.size; i++) {
    if (!region.has(i)) continue;
    const area = found.get(region.shown(i));
    if (!area) continue;
    const x = i % region.width, y = (i - x) / region.width, away = (x - area.mx) ** 2 + (y - area.my) ** 2;
    if (away < area.best) Object.assign(area, { best: away, x: x + 0.5, y: y + 0.5 });
  }
  return [...found.values()].sort((a, b) => b.pixels - a.pixels);
}

// The edges between pixels that are asked about and those that are not, as a path in the image.
function outline({ x0, y0, width, height, inside }) {
  const path = new Path2D();
  if (!inside) {
    path.rect(x0, y0, width, height);
    return path;
  }
  const there = (x, y) => x >= 0 && y >= 0 && x < width && y < height && inside[y * width + x] === 1;
  const line = (ax, ay, bx, by) => {
    path.moveTo(x0 + ax, y0 + ay);
    path.lineTo(x0 + bx, y0 + by);
  };
  for (let y = 0; y <= height; y++) {
    for (let x = 0; x <= width; x++) {
      if (there(x, y) !== there(x, y - 1)) line(x, y, x + 1, y);
      if (there(x, y) !== there(x - 1, y)) line(x, y, x, y + 1);
    }
  }
  return path;
}
