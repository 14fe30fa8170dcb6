// A picture of the values that are painted in a region, opaque and in the classes' colours, with masks of the classes
// that have a pattern. Only changed parts are drawn again.

import { UNDECIDED } from "./region.js";

const GUESSED = 0.62; // the opacity of a guess, as a fraction of that of painted pixels

export class Layer {
  constructor() {
    this.canvas = document.createElement("canvas");
    this.outlines = false; // draw the classes' edges alone
    this.banks = new Map(); // by pattern: {canvas, pen, data, pixels}
  }

  get masks() {
    return [...this.banks].map(([bank, { canvas }]) => [bank, canvas]);
  }

  // Draws a box of the region's pixels again, or all with null. `scale` is the size of a pixel on the screen.
  draw(region, looks, box, scale) {
    const { width, height } = region, whole = box === null || this.region !== region || this.looks !== looks;
    if (whole) this.#begin(region, looks);
    const thick = this.outlines ? Math.max(1, Math.round(1.5 / scale)) : 0;
    const [x0, y0, x1, y1] = whole ? [0, 0, width, height] : [
      Math.max(box[0] - thick, 0), Math.max(box[1] - thick, 0), Math.min(box[2] + thick, width), Math.min(box[3] + thick, height),
    ];
    if (x1 <= x0 || y1 <= y0) return;
    const { values, guess, inside } = region, { pixels } = this, { painted, guessed, bank } = this;
    const shown = (i) => (values[i] !== UNDECIDED || guess === null ? values[i] : guess[i]);
    const edge = (x, y, i, value) =>
      (x >= thick && shown(i - thick) !== value) || (x + thick < width && shown(i + thick) !== value) ||
      (y >= thick && shown(i - thick * width) !== value) || (y + thick < height && shown(i + thick * width) !== value);
    for (let y = y0; y < y1; y++) {
      for (let x = x0, i = y * width + x0; x < x1; x++, i++) {
        if (inside !== null && inside[i] === 0) continue;
        const value = shown(i), isShown = value !== UNDECIDED && (!thick || edge(x, y, i, value));
        pixels[i] = !isShown ? 0 : values[i] === UNDECIDED ? guessed[value] : painted[value];
        const pattern = isShown ? bank[value] : 0;
        if (pattern && !this.banks.has(pattern)) this.#open(pattern, width, height);
        for (const [number, mask] of this.banks) mask.pixels[i] = number === pattern ? pixels[i] : 0;
      }
    }
    this.pen.putImageData(this.data, 0, 0, x0, y0, x1 - x0, y1 - y0);
    for (const { pen, data } of this.banks.values()) pen.putImageData(data, 0, 0, x0, y0, x1 - x0, y1 - y0);
  }

  #begin(region, looks) {
    Object.assign(this, { region, looks }, surface(this.canvas, region.width, region.height));
    this.banks.clear();
    this.painted = looks.pixels(1);
    this.guessed = looks.pixels(GUESSED);
    this.bank = Uint8Array.from({ length: 256 }, (_, value) => looks.bank(value));
  }

  #open(bank, width, height) {
    this.banks.set(bank, surface(document.createElement("canvas"), width, height));
  }
}

// A canvas that is cleared, with its pixels as numbers.
function surface(canvas, width, height) {
  Object.assign(canvas, { width, height });
  const pen = canvas.getContext("2d"), data = pen.createImageData(width, height);
  return { canvas, pen, data, pixels: new Uint32Array(data.data.buffer) };
}
