// The colours, patterns and keys of classes.

import { UNDECIDED, VOID } from "./region.js";

// Okabe and Ito's colours, which the colour-blind can tell apart ("Color Universal Design", 2008), with white instead of
// black, which would be lost on dark images. From the ninth class on they repeat with a pattern.
const SAFE = ["#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7", "#ffffff"];
const VOID_COLOUR = "#3c3c3c";
const TILE = 10;
// The lines of the patterns, in fractions of a tile. The last pattern is void's.
const PATTERNS = [
  [],
  [[0, 1, 1, 0]],
  [[0, 0, 1, 1]],
  [[0.5, 0, 0.5, 1]],
  [[0, 0.5, 1, 0.5]],
  [[0.5, 0, 0.5, 1], [0, 0.5, 1, 0.5]],
  [[0, 0, 1, 1], [0, 1, 1, 0]],
];

// The keys of classes: digits, then letters that no tool has, then the same letters with Shift.
const LETTERS = [..."cdgijklmnoqtuyz"];
const CLASS_KEYS = [..."1234567890", ...LETTERS, ...LETTERS.map((c) => c.toUpperCase())];

// The settings of the labelling page that change colours, with their defaults.
export const COLOURS = { safe: false, bright: true };

// A setting of the labelling page that is true or false.
export const stored = (name, fallback) => (localStorage.getItem(`fewmask/${name}`) ?? String(fallback)) === "true";

// The looks of each domain, by the labelling page's settings.
export function looksOf(domains) {
  const settings = Object.fromEntries(Object.entries(COLOURS).map(([name, fallback]) => [name, stored(name, fallback)]));
  return Object.fromEntries(Object.entries(domains).map(([name, space]) => [name, new Looks(space, settings)]));
}

export class Looks {
  // With `safe`, the colour-blind can tell the colours apart. With `bright`, the dataset's colours are made light enough
  // for dark images.
  constructor({ classes, colours }, { safe, bright }) {
    this.names = classes;
    this.colours = colours.map((colour, i) => (safe ? SAFE[i % SAFE.length] : `rgb(${(bright ? lit(colour) : colour).join(" ")})`));
    this.bank = (value) => {
      if (value === VOID) return PATTERNS.length - 1;
      return safe ? Math.floor(value / SAFE.length) % (PATTERNS.length - 1) : 0;
    };
  }

  // The classes' colours as pixels by value, with an opacity from 0 to 1.
  pixels(opacity) {
    const pixels = new Uint32Array(256), alpha = Math.round(255 * opacity);
    for (const value of [...this.names.keys(), VOID]) {
      const [r, g, b] = parse(this.colour(value));
      pixels[value] = ((alpha << 24) | (b << 16) | (g << 8) | r) >>> 0;
    }
    return pixels;
  }

  name(value) {
    return value === VOID ? "void" : value === UNDECIDED ? "not decided" : this.names[value];
  }

  colour(value) {
    return value === VOID ? VOID_COLOUR : this.colours[value];
  }

  // A small canvas in the class's colour and pattern.
  swatch(value) {
    const canvas = document.createElement("canvas"), side = 2 * TILE;
    Object.assign(canvas, { className: "swatch", width: side, height: side });
    if (value === UNDECIDED) return canvas;
    const pen = canvas.getContext("2d"), lines = tile(this.bank(value));
    for (const fill of [this.colour(value), lines && pen.createPattern(lines, "repeat")]) {
      if (!fill) continue;
      pen.fillStyle = fill;
      pen.fillRect(0, 0, side, side);
    }
    return canvas;
  }
}

// Whether there are more classes than keys. The keys 1 to 9 are then those of the likeliest classes.
export const tooMany = (count) => count > CLASS_KEYS.length;

// The key of a class. `likely` holds the classes of the keys 1 to 9; it is null where each class has its own key.
export function keyOf(value, likely = null) {
  if (value === VOID) return "v";
  if (value === UNDECIDED) return "e";
  if (!likely) return CLASS_KEYS[value] ?? "";
  const at = likely.indexOf(value);
  return at >= 0 && at < 9 ? String(at + 1) : "";
}

// The class of a key among `count` classes; undefined where the key has none.
export function classOf(key, count, likely = null) {
  if (key === "v") return VOID;
  if (key === "e") return UNDECIDED;
  if (likely) return key >= "1" && key <= "9" && key.length === 1 ? likely[Number(key) - 1] : undefined;
  const index = CLASS_KEYS.indexOf(key);
  return index >= 0 && index < count ? index : undefined;
}

// A colour that can be told from a dark image, by its lightness in OKLab (Ottosson, 2020). Lightnesses below LIGHT are
// mapped to DARKEST … LIGHT in the same order, so that two colours stay different.
const [DARKEST, LIGHT] = [0.48, 0.66];

function lit(rgb) {
  const [r, g, b] = rgb.map((v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
  const l = Math.cbrt(0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b);
  const m = Math.cbrt(0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b);
  const s = Math.cbrt(0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b);
  const L = 0.2104542553 * l + 0.793617785 * m - 0.0040720468 * s;
  const A = 1.9779984951 * l - 2.428592205 * m + 0.4505937099 * s;
  const B = 0.0259040371 * l + 0.7827717662 * m - 0.808675766 * s;
  if (L >= LIGHT) return rgb;
  const light = DARKEST + ((LIGHT - DARKEST) * L) / LIGHT;
  const [x, y, z] = [light + 0.3963377774 * A + 0.2158037573 * B, light - 0.1055613458 * A - 0.0638541728 * B, light - 0.0894841775 * A - 1.291485548 * B].map((v) => v ** 3);
  return [4.0767416621 * x - 3.3077115913 * y + 0.2309699292 * z, -1.2684380046 * x + 2.6097574011 * y - 0.3413193965 * z, -0.0041960863 * x - 0.7034186147 * y + 1.707614701 * z].map((v) => {
    const part = Math.min(Math.max(v, 0), 1);
    return Math.round(255 * (part <= 0.0031308 ? 12.92 * part : 1.055 * part ** (1 / 2.4) - 0.055));
  });
}

const tiles = new Map();

// The tile of a pattern, in dark and light lines, so that it shows on any colour; null for no pattern.
export function tile(bank) {
  if (!PATTERNS[bank].length) return null;
  if (!tiles.has(bank)) {
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = TILE;
    const pen = canvas.getContext("2d");
    for (const [colour, width] of [["rgb(0 0 0 / 75%)", 3], ["rgb(255 255 255 / 80%)", 1]]) {
      pen.strokeStyle = colour;
      pen.lineWidth = width;
      for (const [x0, y0, x1, y1] of PATTERNS[bank]) {
        for (const shift of [-1, 0, 1]) {
          pen.beginPath();
          const move = x0 === x1 || y0 === y1 ? 0 : shift;
          pen.moveTo((x0 + move) * TILE, y0 * TILE);
          pen.lineTo((x1 + move) * TILE, y1 * TILE);
          pen.stroke();
        }
      }
    }
    tiles.set(bank, canvas);
  }
  return tiles.get(bank);
}

function parse(colour) {
  if (colour.startsWith("#")) return [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
  return colour.match(/\d+/g).map(Number);
}
