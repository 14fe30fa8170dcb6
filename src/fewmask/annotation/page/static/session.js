// What the server knows, as far as the page has heard of it: questions, words on them, images and guesses.

import { cutInto } from "./area.js";
import { decode } from "./runs.js";
import { UNDECIDED } from "./region.js";

const JSON_TYPE = { "Content-Type": "application/json" };
const IMAGES = 5;
const DETAILS = 64;

async function get(path) {
  const response = await fetch(`api/${path}`);
  if (response.ok) return response;
  const told = await response.json().catch(() => ({}));
  throw new Error(told.error ?? `the server says ${response.status}`);
}

export async function post(entry) {
  const body = JSON.stringify(entry);
  // `keepalive` lets it arrive though the tab closes; browsers allow 64 KiB for that.
  const response = await fetch("api/answers", { method: "POST", body, headers: JSON_TYPE, keepalive: body.length < 60_000 });
  return { status: response.status, body: await response.json().catch(() => null) };
}

// This window, also after a reload.
function thisWindow() {
  try {
    return (sessionStorage["fewmask/window"] ??= crypto.randomUUID());
  } catch {
    return crypto.randomUUID();
  }
}

export class Session {
  static async open() {
    return new Session(await (await get("session")).json());
  }

  constructor(told) {
    this.about = told;
    this.window = thisWindow();
    this.last = 0;
    this.#take(told);
    this.details = new Map();
    this.guesses = new Map();
    this.images = new Map();
    this.segments = new Map();
  }

  #take(told) {
    this.questions = told.questions;
    this.byId = new Map(told.questions.map((q) => [q.id, q]));
    this.#spent(told);
    this.last = told.last;
    this.held = told.held;
  }

  #spent({ seconds, clicks, learned = 0 }) {
    // Guesses that were made before the network learned more are asked for again; what is on the screen stays.
    if (learned !== (this.learned ?? 0)) this.guesses?.clear();
    Object.assign(this, { seconds, clicks, learned });
  }

  // News of a question's words, and with them the totals. `last` stays: others may have answered just before.
  heard(id, words, totals = this) {
    const question = this.byId.get(id);
    if (question) question.words = words;
    this.details.delete(id);
    this.#spent(totals);
  }

  // Who has a question before them.
  holders(id) {
    return this.held[id] ?? [];
  }

  // Tells that this window is at a question, or at none with null; whether nobody else is to be asked it meanwhile.
  async lease(annotator, question, leaving = false) {
    const body = JSON.stringify({ window: this.window, annotator, question });
    const request = fetch("api/leases", { method: "POST", body, headers: JSON_TYPE, keepalive: leaving });
    const told = await request.then((response) => (response.ok ? response.json() : null), () => null);
    if (told) this.held = told.held;
    return told?.granted ?? true; // without a server work goes on
  }

  // What others did since; the ids of the questions that it is about.
  async changes() {
    const told = await (await get(`changes/${this.last}`)).json();
    const touched = Object.keys(told.words).map(Number);
    if (told.asked !== this.questions.length) this.#take(await (await get("session")).json());
    for (const id of touched) this.heard(id, told.words[id], told);
    this.#spent(told); // a fit may have ended since the words that it learned from came
    this.last = told.last;
    this.held = told.held;
    return touched;
  }

  #cached(map, key, make, most = DETAILS, forget = () => {}) {
    let found = map.get(key);
    if (found === undefined) {
      found = make();
      found.catch(() => map.delete(key));
    }
    map.delete(key); // the newest comes last
    map.set(key, found);
    for (const [old, value] of map) {
      if (map.size <= most) break;
      map.delete(old);
      value.then(forget, () => {});
    }
    return found;
  }

  // A question with all that is needed to show it but its image.
  detail(id) {
    return this.#cached(this.details, id, async () => {
      const told = await (await get(`questions/${id}`)).json();
      const [y0, x0, y1, x1] = told.box, width = x1 - x0, height = y1 - y0;
      const inside = told.shape && Uint8Array.from(decode(told.shape, width * height));
      return { ...told, x0, y0, width, height, inside };
    });
  }

  image(id) {
    const make = async () => createImageBitmap(await (await get(`images/${id}`)).blob());
    return this.#cached(this.images, this.byId.get(id).image, make, IMAGES, (bitmap) => bitmap.close());
  }

  // {values, confidence}: the class of each pixel of the box; null where nothing is expected.
  guess(id) {
    return this.#cached(this.guesses, id, async () => {
      const detail = await this.detail(id), size = detail.width * detail.height;
      const told = this.about.guesses ? await (await get(`guesses/${id}`)).json() : { values: null };
      if (told.values) return { values: Uint8Array.from(decode(told.values, size)), confidence: told.confidence };
      if (detail.guess === null) return null;
      const values = new Uint8Array(size).fill(detail.guess);
      detail.inside?.forEach((there, i) => there || (values[i] = UNDECIDED));
      return { values, confidence: null };
    });
  }

  // What was answered of the image beside a question's region, of [H, W] pixels.
  async known(id, [height, width]) {
    return decode((await (await get(`known/${id}`)).json()).values, height * width);
  }

  segmentation(id) {
    return this.#cached(this.segments, id, async () => {
      const { width, height } = await this.detail(id);
      return cutInto(decode((await (await get(`segments/${id}`)).json()).values, width * height), width);
    });
  }

  // Which pixels of a question's box look like what was pointed at: {scores, threshold}.
  async selection(id, prompt) {
    const response = await fetch(`api/selections/${id}`, { method: "POST", body: JSON.stringify(prompt), headers: JSON_TYPE });
    if (!response.ok) throw new Error((await response.json().catch(() => ({}))).error ?? `the server says ${response.status}`);
    const bytes = new Uint8Array(await response.arrayBuffer());
    return { threshold: bytes[0], scores: bytes.subarray(1) };
  }

  // Has ready what the first selection in a question's image would wait for.
  prepare(id) {
    get(`prepared/${id}`).catch(() => {}); // then the selection waits
  }

  // So that the next question is there when it is its turn. The images of a question and of what comes after it.
  async prefetch(ids) {
    for (const id of ids) {
      const parts = [this.detail(id), this.image(id), this.guess(id)];
      parts[2].catch(() => {}); // told when it is shown
      await Promise.allSettled(parts.slice(0, 2));
    }
  }
}
