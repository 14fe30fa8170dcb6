// The values that are painted in a region's box, the model's guess below them, and an unlimited history. It needs no
// canvas. Values are stored row by row: pixel (x, y) of the box is at y · width + x, and its centre is (x + ½, y + ½).

export const UNDECIDED = 254;
export const VOID = 255;

export class Region {
  constructor({ width, height, inside = null, values = null, guess = null }) {
    this.width = width;
    this.height = height;
    this.inside = inside; // 1 where the pixel is asked about; null where all are
    this.values = values ? Uint8Array.from(values) : new Uint8Array(width * height).fill(UNDECIDED);
    this.guess = guess;
    this.past = [];
    this.future = [];
    this.before = null;
    this.touched = null; // the box that was touched since `begin`: [x0, y0, x1, y1], without the ends
    this.corners = []; // the corners of a polygon that is not closed yet
    this.locked = new Uint8Array(256); // 1 for the values that no tool changes where they show
  }

  get size() {
    return this.width * this.height;
  }

  has(i) {
    return this.inside === null || this.inside[i] === 1;
  }

  // The value that is shown at a pixel: the painted one, or the guess.
  shown(i) {
    const value = this.values[i];
    return value !== UNDECIDED || this.guess === null ? value : this.guess[i];
  }

  // The number of the region's pixels that show each value; with `painted`, without the guess.
  counts(painted = false) {
    const { values, guess, inside } = this, counts = new Float64Array(256);
    for (let i = 0; i < values.length; i++) {
      if (inside !== null && inside[i] === 0) continue;
      counts[painted || guess === null || values[i] !== UNDECIDED ? values[i] : guess[i]]++;
    }
    return new Map([...counts.entries()].filter(([, pixels]) => pixels));
  }

  // Whether anything is painted or begun.
  get worked() {
    return this.corners.length > 0 || this.values.some((value) => value !== UNDECIDED);
  }

  // The values of an answer, with the guess where nothing is painted, or without it.
  answer(withGuess) {
    return withGuess ? Uint8Array.from(this.values, (_, i) => (this.has(i) ? this.shown(i) : UNDECIDED)) : this.values;
  }

  // ── History ──

  begin() {
    if (this.before) return;
    this.before = this.values.slice();
    this.touched = null;
  }

  cancel() {
    if (this.before) this.values = this.before;
    this.before = null;
  }

  // Ends the step that `begin` began, which can be undone. Returns whether it changed anything.
  end() {
    const { before, touched, width, values } = this;
    this.before = null;
    if (!before || !touched) return false;
    let [x0, y0, x1, y1] = [width, this.height, -1, -1];
    for (let y = touched[1]; y < touched[3]; y++) {
      for (let x = touched[0], i = y * width + x; x < touched[2]; x++, i++) {
        if (values[i] === before[i]) continue;
        if (x < x0) x0 = x;
        if (x > x1) x1 = x;
        if (y < y0) y0 = y;
        y1 = y;
      }
    }
    if (x1 < 0) return false;
    const rows = (from) => {
      const box = new Uint8Array((x1 - x0 + 1) * (y1 - y0 + 1));
      for (let y = y0; y <= y1; y++) box.set(from.subarray(y * width + x0, y * width + x1 + 1), (y - y0) * (x1 - x0 + 1));
      return box;
    };
    this.past.push({ x0, y0, x1, y1, before: rows(before), after: rows(values) });
    this.future.length = 0;
    return true;
  }

  undo() {
    return this.#step(this.past, this.future, "before");
  }

  redo() {
    return this.#step(this.future, this.past, "after");
  }

  #step(from, to, which) {
    this.cancel();
    const step = from.pop();
    if (!step) return false;
    const { x0, y0, x1, y1 } = step, wide = x1 - x0 + 1;
    this.touched = [x0, y0, x1 + 1, y1 + 1];
    for (let y = y0; y <= y1; y++) this.values.set(step[which].subarray((y - y0) * wide, (y - y0 + 1) * wide), y * this.width + x0);
    to.push(step);
    return true;
  }

  // Gives the pixels that the last step changed another value, in its place.
  repaint(value) {
    const { x0, y0, x1, y1, before, after } = this.past.at(-1);
    this.undo();
    this.future.length = 0;
    this.begin();
    this.put({ mask: after.map((later, k) => (later !== before[k] ? 1 : 0)), bounds: [x0, y0, x1 + 1, y1 + 1] }, value);
    return this.end();
  }

  // ── Tools: each paints a value, UNDECIDED erases; or it gives the area {mask, bounds} that `put` paints. ──

  #put(i, value) {
    if (this.has(i) && !this.locked[this.shown(i)]) this.values[i] = value;
  }

  // Marks a box that a tool is about to change, clipped to the region's. Returns it.
  #touch(x0 = 0, y0 = 0, x1 = this.width, y1 = this.height) {
    const box = [Math.max(x0, 0), Math.max(y0, 0), Math.min(x1, this.width), Math.min(y1, this.height)];
    const all = this.touched;
    this.touched = all ? [Math.min(all[0], box[0]), Math.min(all[1], box[1]), Math.max(all[2], box[2]), Math.max(all[3], box[3])] : box;
    return box;
  }

  get nothing() {
    return { mask: new Uint8Array(this.size), bounds: [0, 0, this.width, this.height] };
  }

  get whole() {
    const { mask, bounds } = this.nothing;
    return { mask: mask.fill(1), bounds };
  }

  // Paints an area, whose mask is of its bounds or of the whole box. Returns the touched box.
  put({ mask, bounds }, value) {
    const touched = this.#touch(...bounds), [x0, y0, x1, y1] = bounds, cropped = mask.length === (x1 - x0) * (y1 - y0);
    for (let y = y0; y < y1; y++) {
      for (let x = x0, i = y * this.width + x0; x < x1; x++, i++) if (mask[cropped ? (y - y0) * (x1 - x0) + x - x0 : i]) this.#put(i, value);
    }
    return touched;
  }

  // Paints the guess wherever nothing is painted.
  accept() {
    if (this.guess === null) return;
    this.#touch();
    for (let i = 0; i < this.size; i++) if (this.has(i)) this.values[i] = this.shown(i);
  }

  // Paints the pixels whose centres are at most a radius away from the line between two points. Returns the touched box.
  stroke([ax, ay], [bx, by], radius, value) {
    const dx = bx - ax, dy = by - ay, long = Math.hypot(dx, dy);
    const touched = this.#touch(
      Math.floor(Math.min(ax, bx) - radius), Math.floor(Math.min(ay, by) - radius),
      Math.ceil(Math.max(ax, bx) + radius) + 1, Math.ceil(Math.max(ay, by) + radius) + 1,
    );
    for (let y = touched[1]; y < touched[3]; y++) {
      // The row cuts the discs at both ends and the band between them in one piece.
      const row = y + 0.5;
      let [from, to] = [Infinity, -Infinity];
      for (const [cx, cy] of [[ax, ay], [bx, by]]) {
        const half = Math.sqrt(radius * radius - (row - cy) ** 2);
        if (half >= 0) [from, to] = [Math.min(from, cx - half), Math.max(to, cx + half)];
      }
      if (long > 0) {
        const py = row - ay;
        const along = between(dx, py * dy, 0, long * long), across = between(-dy, py * dx, -radius * long, radius * long);
        const [left, right] = [Math.max(along[0], across[0]) + ax, Math.min(along[1], across[1]) + ax];
        if (left <= right) [from, to] = [Math.min(from, left), Math.max(to, right)];
      }
      const last = Math.min(Math.floor(to - 0.5), this.width - 1);
      for (let x = Math.max(Math.ceil(from - 0.5), 0); x <= last; x++) this.#put(y * this.width + x, value);
    }
    // A brush that is finer than a pixel still paints the pixel below it.
    const [x, y] = [Math.floor(bx), Math.floor(by)];
    if (x >= 0 && y >= 0 && x < this.width && y < this.height) this.#put(y * this.width + x, value);
    return touched;
  }

  // The pixels whose centres lie in a polygon, by the even-odd rule.
  polygon(points) {
    const { mask, bounds } = this.nothing;
    for (let y = 0; y < this.height; y++) {
      const cuts = [];
      points.forEach(([ax, ay], k) => {
        const [bx, by] = points[(k + 1) % points.length], centre = y + 0.5;
        if (ay <= centre !== by <= centre) cuts.push(ax + ((centre - ay) * (bx - ax)) / (by - ay));
      });
      cuts.sort((a, b) => a - b);
      for (let k = 0; k + 1 < cuts.length; k += 2) {
        const to = Math.min(Math.ceil(cuts[k + 1] - 0.5), this.width);
        for (let x = Math.max(Math.ceil(cuts[k] - 0.5), 0); x < to; x++) mask[y * this.width + x] = 1;
      }
    }
    return { mask, bounds };
  }

  // The pixels that show the same value as pixel i and are connected with it by their edges.
  connected(i) {
    const same = this.shown(i), { mask, bounds } = this.nothing, open = [i];
    mask[i] = 1;
    while (open.length) {
      const j = open.pop(), x = j % this.width;
      for (const [k, exists] of [[j - 1, x > 0], [j + 1, x + 1 < this.width], [j - this.width, j >= this.width], [j + this.width, j + this.width < this.size]]) {
        if (exists && !mask[k] && this.has(k) && this.shown(k) === same) {
          mask[k] = 1;
          open.push(k);
        }
      }
    }
    return { mask, bounds };
  }
}

// The x for which low ≤ slope · x + offset ≤ high, as [from, to].
function between(slope, offset, low, high) {
  if (slope === 0) return offset >= low && offset <= high ? [-Infinity, Infinity] : [Infinity, -Infinity];
  const [a, b] = [(low - offset) / slope, (high - offset) / slope];
  return [Math.min(a, b), Math.max(a, b)];
}
