// The canvas: an image, the asked region with its painted values, and the part of the image that is visible.
//
// A place is (x, y) in pixels of the image; on the screen it is (x · scale + left, y · scale + top). The image with its
// dimmed surroundings does not change while somebody paints, so it is kept as a picture of the screen. Only changed
// parts of the rest are drawn again.

import { adjusted } from "./light.js";
import { tile } from "./looks.js";
import { UNDECIDED } from "./region.js";
import { Layer } from "./layer.js";

const CLOSEST = 48;
const POINT = 60; // the pixels around a point that are shown
// The pixels of the screen that stay free beyond the image's edges, for buttons and notices.
const BESIDE = 12;
const ABOVE = 60;
const NAMES_AFTER = 150; // milliseconds without a change, after which the names on the image are placed again

// Boxes are [x0, y0, x1, y1] without the ends.
export const union = (a, b) => a && b && [Math.min(a[0], b[0]), Math.min(a[1], b[1]), Math.max(a[2], b[2]), Math.max(a[3], b[3])];

const canvasOf = (width = 1, height = 1) => Object.assign(document.createElement("canvas"), { width, height });

export class View {
  constructor(canvas) {
    this.canvas = canvas;
    this.pen = canvas.getContext("2d");
    this.bitmap = null;
    this.opacity = 0.55;
    this.named = true;
    this.dim = 0.48; // how dark the surroundings of the region are
    this.light = { brightness: 0, contrast: 0, gamma: 0 };
    this.smooth = false; // interpolate between the image's pixels also where they are large
    this.above = null; // a function that draws over everything, in pixels of the screen
    this.layer = new Layer();
    this.mask = canvasOf();
    this.scratch = canvasOf();
    this.backdrop = canvasOf();
    this.beside = null; // the answers around the region: a canvas of the image's size
    this.whole = this.moved = false;
    this.ratio = 1;
    new ResizeObserver(() => this.#resize()).observe(canvas);
  }

  // `place` is {x0, y0, width, height, inside, size: [H, W]}.
  show(bitmap, place, region, looks, point) {
    Object.assign(this, { bitmap, place, region, looks, point, beside: null });
    this.outline = point ? null : outline(place);
    this.relight();
    this.#cut();
    this.#resize();
    this.fit(false);
    this.paint();
  }

  clear() {
    this.bitmap = null;
    this.requestDraw();
  }

  // Draws the image again after `light` was changed.
  relight() {
    if (this.bitmap) this.picture = adjusted(this.bitmap, this.light);
    this.requestDraw();
  }

  #resize() {
    const { canvas } = this, ratio = devicePixelRatio || 1;
    const { width, height } = canvas.getBoundingClientRect();
    const [w, h] = [Math.round(width * ratio), Math.round(height * ratio)];
    if (canvas.width === w && canvas.height === h) return;
    if (this.bitmap && this.moved) this.pan((w - canvas.width) / 2, (h - canvas.height) / 2);
    for (const each of [canvas, this.scratch, this.backdrop]) Object.assign(each, { width: w, height: h });
    this.ratio = ratio;
    if (this.bitmap && !this.moved) this.fit(this.whole);
    this.requestDraw();
  }

  // ── The visible part ──

  // Shows the region with its surroundings, or the whole image.
  fit(whole = !this.whole) {
    const { canvas, place } = this, [H, W] = place.size;
    Object.assign(this, { whole, moved: false });
    const all = Math.min(canvas.width / W, canvas.height / H);
    const near = this.point
      ? Math.min(canvas.width, canvas.height) / (2 * POINT)
      : 0.45 * Math.min(canvas.width / place.width, canvas.height / place.height);
    this.scale = whole ? all : Math.min(Math.max(near, all), CLOSEST * this.ratio);
    const [x, y] = whole ? [W / 2, H / 2] : [place.x0 + place.width / 2, place.y0 + place.height / 2];
    // Little beyond the image's edges is visible, and no button covers a part of the region.
    const put = (centre, length, view, pixels) => {
      const free = view - length * this.scale, margin = pixels * this.ratio;
      return free >= 2 * margin ? free / 2 : Math.min(Math.max(view / 2 - centre * this.scale, free - margin), margin);
    };
    this.left = put(x, W, canvas.width, BESIDE);
    this.top = put(y, H, canvas.height, ABOVE);
    this.requestDraw();
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
    this.requestDraw();
  }

  pan(dx, dy) {
    this.left += dx;
    this.top += dy;
    this.moved = true;
    this.requestDraw();
  }

  // The pixel of the canvas at a pointer. `inBox` gives its place in the region's box.
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

  // Draws everything again with the next frame.
  requestDraw() {
    this.stillStale = true;
    this.#request(null);
  }

  // Draws a box of the screen's pixels again, where something above the image has moved. Null stands for all of it.
  requestPart(box) {
    this.#request(box);
  }

  // Draws a box of the region's pixels again after a change; or all of them, after a change of the guess or the colours.
  paint(box = null) {
    this.painted = this.painted === undefined ? box : union(this.painted, box);
    clearTimeout(this.naming);
    if (box === null) {
      this.areas = null;
      this.#request(null);
      return;
    }
    this.naming = setTimeout(() => {
      this.areas = null;
      this.#request(null);
    }, NAMES_AFTER);
    const [x0, y0] = this.onScreen([box[0] - 2, box[1] - 2]), [x1, y1] = this.onScreen([box[2] + 2, box[3] + 2]);
    this.#request([x0 - 2, y0 - 2, x1 + 2, y1 + 2]);
  }

  #request(box) {
    this.part = this.part === undefined ? box : union(this.part, box);
    this.frame ||= requestAnimationFrame(() => {
      this.frame = 0;
      this.draw();
    });
  }

  draw() {
    const { canvas, pen, bitmap, scale, left, top } = this, { part, painted } = this;
    this.part = this.painted = undefined;
    pen.setTransform(1, 0, 0, 1, 0, 0);
    if (!bitmap) {
      pen.clearRect(0, 0, canvas.width, canvas.height);
      return;
    }
    if (painted !== undefined) this.layer.draw(this.region, this.looks, painted, scale / this.ratio);
    if (this.stillStale) this.#still();
    const [x0, y0, x1, y1] = part ?? [0, 0, canvas.width, canvas.height];
    const clip = [Math.max(Math.floor(x0), 0), Math.max(Math.floor(y0), 0), Math.min(Math.ceil(x1), canvas.width), Math.min(Math.ceil(y1), canvas.height)];
    const [wide, high] = [clip[2] - clip[0], clip[3] - clip[1]];
    if (wide <= 0 || high <= 0) return;
    pen.save();
    pen.beginPath();
    pen.rect(clip[0], clip[1], wide, high);
    pen.clip();
    pen.clearRect(clip[0], clip[1], wide, high);
    pen.drawImage(this.backdrop, clip[0], clip[1], wide, high, clip[0], clip[1], wide, high);
    pen.globalAlpha = this.opacity;
    pen.imageSmoothingEnabled = false;
    pen.setTransform(scale, 0, 0, scale, left, top);
    pen.drawImage(this.layer.canvas, this.place.x0, this.place.y0);
    // Patterns have the same size at any zoom: they are cut out on the screen.
    for (const [bank, mask] of this.layer.masks) this.#stamp(pen, mask, tile(bank), "source-in", clip);
    pen.globalAlpha = 1;
    if (this.outline) {
      pen.setTransform(scale, 0, 0, scale, left, top);
      for (const [colour, thick] of [["black", 5], ["white", 2]]) {
        pen.strokeStyle = colour;
        pen.lineWidth = (thick * this.ratio) / scale;
        pen.stroke(this.outline);
      }
    }
    pen.setTransform(1, 0, 0, 1, 0, 0);
    if (this.point) this.#ring();
    else if (this.named && this.opacity > 0) this.#nameAreas();
    this.above?.(pen);
    pen.restore();
  }

  // Draws the image with its dimmed surroundings, and the answers around the region.
  #still() {
    this.stillStale = false;
    const { backdrop, scale, left, top } = this, pen = backdrop.getContext("2d");
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.clearRect(0, 0, backdrop.width, backdrop.height);
    pen.setTransform(scale, 0, 0, scale, left, top);
    pen.imageSmoothingEnabled = this.smooth || scale < 2;
    pen.drawImage(this.picture, 0, 0);
    if (this.point) return;
    if (this.dim) this.#stamp(pen, this.mask, `rgb(0 0 0 / ${100 * this.dim}%)`, "source-out");
    if (!this.beside || !this.opacity) return;
    pen.setTransform(scale, 0, 0, scale, left, top);
    pen.imageSmoothingEnabled = false;
    pen.globalAlpha = 0.6 * this.opacity;
    pen.drawImage(this.beside, 0, 0);
    pen.globalAlpha = 1;
  }

  // Fills the screen's pixels of a mask of the box, or all others. It uses a canvas of its own, because rectangles that
  // meet within a pixel would leave seams.
  #stamp(pen, mask, fill, how, [x0, y0, x1, y1] = [0, 0, this.canvas.width, this.canvas.height]) {
    const { scratch, scale, place } = this;
    const cut = scratch.getContext("2d"), [left, top] = this.onScreen([0, 0]);
    cut.save();
    cut.beginPath();
    cut.rect(x0, y0, x1 - x0, y1 - y0);
    cut.clip();
    cut.globalCompositeOperation = "copy";
    cut.imageSmoothingEnabled = false;
    cut.drawImage(mask, left, top, place.width * scale, place.height * scale);
    cut.globalCompositeOperation = how;
    cut.fillStyle = typeof fill === "string" ? fill : cut.createPattern(fill, "repeat");
    cut.fillRect(x0, y0, x1 - x0, y1 - y0);
    cut.restore();
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.drawImage(scratch, x0, y0, x1 - x0, y1 - y0, x0, y0, x1 - x0, y1 - y0);
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
    this.areas ??= areas(this.region);
    pen.font = `600 ${12 * ratio}px system-ui, sans-serif`;
    pen.textBaseline = "middle";
    pen.textAlign = "center";
    const placed = [];
    for (const { value, x, y, pixels } of this.areas) {
      const text = looks.name(value), wide = pen.measureText(text).width + 10 * ratio, high = 18 * ratio;
      if (pixels * scale * scale < 1.6 * wide * high) continue;
      const [cx, cy] = this.onScreen([x, y]);
      if (placed.some(([ox, oy, width]) => Math.abs(ox - cx) < (wide + width) / 2 && Math.abs(oy - cy) < high)) continue;
      placed.push([cx, cy, wide]);
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
    const pen = this.mask.getContext("2d");
    if (inside === null) {
      pen.fillRect(0, 0, width, height);
      return;
    }
    const data = pen.createImageData(width, height);
    for (let i = 0; i < width * height; i++) data.data[4 * i + 3] = inside[i] ? 255 : 0;
    pen.putImageData(data, 0, 0);
  }
}

// The places of the names: for each shown value, the largest first, its pixel that is nearest to the value's middle.
function areas(region) {
  const { width, height } = region, pixels = new Float64Array(256), xs = new Float64Array(256), ys = new Float64Array(256);
  const each = (visit) => {
    for (let y = 0, i = 0; y < height; y++) {
      for (let x = 0; x < width; x++, i++) {
        const value = region.has(i) ? region.shown(i) : UNDECIDED;
        if (value !== UNDECIDED) visit(value, x, y);
      }
    }
  };
  each((value, x, y) => {
    pixels[value]++;
    xs[value] += x;
    ys[value] += y;
  });
  const best = new Float64Array(256).fill(Infinity), at = new Map();
  each((value, x, y) => {
    const away = (x - xs[value] / pixels[value]) ** 2 + (y - ys[value] / pixels[value]) ** 2;
    if (away >= best[value]) return;
    best[value] = away;
    at.set(value, { value, x: x + 0.5, y: y + 0.5, pixels: pixels[value] });
  });
  return [...at.values()].sort((a, b) => b.pixels - a.pixels);
}

// The outline of the asked pixels, as a path in the image.
function outline({ x0, y0, width, height, inside }) {
  const path = new Path2D();
  if (!inside) {
    path.rect(x0, y0, width, height);
    return path;
  }
  const isInside = (x, y) => x >= 0 && y >= 0 && x < width && y < height && inside[y * width + x] === 1;
  const line = (ax, ay, bx, by) => {
    path.moveTo(x0 + ax, y0 + ay);
    path.lineTo(x0 + bx, y0 + by);
  };
  for (let y = 0; y <= height; y++) {
    for (let x = 0; x <= width; x++) {
      if (isInside(x, y) !== isInside(x, y - 1)) line(x, y, x + 1, y);
      if (isInside(x, y) !== isInside(x - 1, y)) line(x, y, x, y + 1);
    }
  }
  return path;
}
