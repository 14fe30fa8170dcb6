// The page's copy of the server's data: questions, answers, images and guesses.

import { get, getJson } from "./api.js";
import { cutInto } from "./area.js";
import { decode } from "./runs.js";
import { UNDECIDED } from "./region.js";

const JSON_TYPE = { "Content-Type": "application/json" };
const IMAGES = 5;
const DETAILS = 64;
const NEWER_GUESS = 150; // milliseconds to wait for a newer guess where an older one is there

export async function post(entry) {
  const body = JSON.stringify(entry);
  // With `keepalive` the answer arrives even if the tab closes. Browsers allow it up to 64 KiB.
  const response = await fetch("api/answers", { method: "POST", body, headers: JSON_TYPE, keepalive: body.length < 60_000 });
  return { status: response.status, body: await response.json().catch(() => null) };
}

// The id of this window, which stays the same over a reload.
function thisWindow() {
  try {
    return (sessionStorage["fewmask/window"] ??= crypto.randomUUID());
  } catch {
    return crypto.randomUUID();
  }
}

export class Session {
  static async open() {
    return new Session(await getJson("session"));
  }

  constructor(data) {
    this.about = data;
    this.window = thisWindow();
    this.last = 0;
    this.#load(data);
    this.details = new Map();
    this.guesses = new Map();
    this.olderGuesses = new Map(); // of fewer answers, until the newer ones are there
    this.images = new Map();
    this.segments = new Map();
    this.likelies = new Map();
  }

  #load(data) {
    this.questions = data.questions;
    this.byId = new Map(data.questions.map((q) => [q.id, q]));
    this.#setTotals(data);
    this.last = data.last;
    this.held = data.held;
    this.watched = data.watched;
  }

  #setTotals({ seconds, clicks, learned = 0 }) {
    // Guesses from before the network learned more are requested again. A guess on the screen stays.
    if (learned !== (this.learned ?? 0) && this.guesses) {
      this.olderGuesses = new Map([...this.olderGuesses, ...this.guesses].slice(-DETAILS));
      this.guesses = new Map();
      this.likelies = new Map();
    }
    Object.assign(this, { seconds, clicks, learned });
  }

  // Sets a question's answers, and the totals. `last` stays: others may have answered just before.
  setAnswers(id, answers, totals = this) {
    const question = this.byId.get(id);
    if (question) question.answers = answers;
    this.details.delete(id);
    this.#setTotals(totals);
  }

  // The annotators who look at a question.
  holders(id) {
    return this.held[id] ?? [];
  }

  // Leases a question to this window, or gives the lease back with null. Returns whether the lease was granted.
  async lease(annotator, question, leaving = false) {
    const body = JSON.stringify({ window: this.window, annotator, question });
    const request = fetch("api/leases", { method: "POST", body, headers: JSON_TYPE, keepalive: leaving });
    const reply = await request.then((response) => (response.ok ? response.json() : null), () => null);
    if (reply) this.held = reply.held;
    return reply?.granted ?? true; // without a server, work goes on
  }

  // Reads the answers since the last call. Returns the ids of their questions.
  async changes() {
    const data = await getJson(`changes/${this.last}`);
    const touched = Object.keys(data.answers).map(Number);
    if (data.asked !== this.questions.length) this.#load(await getJson("session"));
    for (const id of touched) this.setAnswers(id, data.answers[id], data);
    this.#setTotals(data); // the guesses may have learned since the last answer
    this.last = data.last;
    this.held = data.held;
    this.watched = data.watched;
    return touched;
  }

  #cached(map, key, make, most = DETAILS, forget = () => {}) {
    let promise = map.get(key);
    if (promise === undefined) {
      promise = make();
      promise.catch(() => map.delete(key));
    }
    map.delete(key); // the newest comes last
    map.set(key, promise);
    for (const [oldest, value] of map) {
      if (map.size <= most) break;
      map.delete(oldest);
      value.then(forget, () => {});
    }
    return promise;
  }

  // A question with all that is needed to show it, except its image.
  detail(id) {
    return this.#cached(this.details, id, async () => {
      const data = await getJson(`questions/${id}`);
      const [y0, x0, y1, x1] = data.box, width = x1 - x0, height = y1 - y0;
      const inside = data.shape && Uint8Array.from(decode(data.shape, width * height));
      return { ...data, x0, y0, width, height, inside };
    });
  }

  image(id) {
    const make = async () => createImageBitmap(await (await get(`images/${id}`)).blob());
    return this.#cached(this.images, this.byId.get(id).image, make, IMAGES, (bitmap) => bitmap.close());
  }

  // {values, confidence}: the class of each pixel of the box; null where nothing is expected. It is the older guess
  // where the newest one is not there within a moment: nobody waits for what was just learned.
  guess(id) {
    const newest = this.newestGuess(id), older = this.olderGuesses.get(id);
    if (!older) return newest;
    const waited = new Promise((resolve) => setTimeout(resolve, NEWER_GUESS));
    return Promise.race([newest.catch(() => older), waited.then(() => older).catch(() => newest)]);
  }

  newestGuess(id) {
    return this.#cached(this.guesses, id, async () => {
      const detail = await this.detail(id), size = detail.width * detail.height;
      const data = this.about.guesses ? await getJson(`guesses/${id}`) : { values: null };
      if (data.values) return { values: Uint8Array.from(decode(data.values, size)), confidence: data.confidence };
      if (detail.guess === null) return null;
      const values = new Uint8Array(size).fill(detail.guess);
      detail.inside?.forEach((isInside, i) => isInside || (values[i] = UNDECIDED));
      return { values, confidence: null };
    });
  }

  // The values of the answers around a question's region, for an image of [H, W] pixels.
  async answersAround(id, [height, width]) {
    return decode((await getJson(`answers-around/${id}`)).values, height * width);
  }

  // The two likeliest classes of each pixel of the box: {first, second}.
  likely(id) {
    return this.#cached(this.likelies, id, async () => {
      const { width, height } = await this.detail(id), { first, second } = await getJson(`likely/${id}`);
      return { first: decode(first, width * height), second: decode(second, width * height) };
    });
  }

  segmentation(id) {
    return this.#cached(this.segments, id, async () => {
      const { width, height } = await this.detail(id);
      return cutInto(decode((await getJson(`segments/${id}`)).values, width * height), width);
    });
  }

  // How similar each pixel of a question's box is to the prompt: {scores, threshold}.
  async selection(id, prompt) {
    const response = await fetch(`api/selections/${id}`, { method: "POST", body: JSON.stringify(prompt), headers: JSON_TYPE });
    if (!response.ok) throw new Error((await response.json().catch(() => ({}))).error ?? `the server says ${response.status}`);
    const bytes = new Uint8Array(await response.arrayBuffer());
    return { threshold: bytes[0], scores: bytes.subarray(1) };
  }

  // Lets the server compute what the first selection in a question's image would wait for.
  prepare(id) {
    get(`prepared/${id}`).catch(() => {}); // the selection then waits for it
  }

  // Loads the next questions with their images and guesses, so that they are shown at once.
  async prefetch(ids) {
    for (const id of ids) {
      const parts = [this.detail(id), this.image(id), this.newestGuess(id)];
      parts[2].catch(() => {}); // the error is shown with the question
      await Promise.allSettled(parts.slice(0, 2));
    }
  }
}
