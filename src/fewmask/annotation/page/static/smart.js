// Smart select: requests scores of pixels for the place that the person points at, one request at a time.
//
// The server scores the pixels once for each place. The page decides how far the selection reaches, so that the wheel
// acts at once. While a request is on its way, only the last place that the pointer passes is requested next.

import { areaOf, drawn } from "./area.js";

export class Smart {
  // `host`: {region, selection(prompt) → {scores, threshold}, valueFor(area, i), painted(done, value), widened(),
  // previewed(), failed(error)}. `valueFor` gives the class of a selection whose first point is at pixel i.
  constructor(host) {
    this.host = host;
    this.reach = 0; // how much wider the selection is than the server's threshold proposes
    this.forget();
  }

  // Another question, or another tool.
  forget() {
    this.epoch = {}; // the results of requests with another epoch are not used
    this.preview = null; // {prompt, result, area, picture}
    this.chosen = null; // the last selection: {prompt, result, value, step, widened}
    this.request = this.nextPlace = null;
    this.pending = false; // a click waits for its scores
  }

  // Cancels the selection that a click waits for. Returns whether there was one.
  cancel() {
    if (!this.pending) return false;
    this.epoch = {};
    this.request = this.nextPlace = null;
    this.pending = false;
    return true;
  }

  area(prompt, { scores, threshold }) {
    const { region } = this.host;
    const seeds = prompt.points.filter((p) => p.belongs).map((p) => Math.floor(p.y) * region.width + Math.floor(p.x));
    return areaOf(region, { scores, threshold: Math.min(Math.max(threshold - this.reach, 1), 255) }, seeds);
  }

  // The pointer is at a place {x, y}, or has left with null.
  hover(place) {
    this.over = Boolean(place);
    if (this.pending) return;
    this.nextPlace = place && this.preview && near(this.preview.prompt, place) ? null : place;
    if (!place && this.preview) {
      this.preview = null;
      this.host.previewed();
    }
    if (this.nextPlace && !this.request) this.#requestPreview();
  }

  async #requestPreview() {
    const { epoch } = this;
    while (this.nextPlace && epoch === this.epoch) {
      const prompt = { points: [{ ...this.nextPlace, belongs: true }], frame: null };
      this.nextPlace = null;
      try {
        this.request = this.host.selection(prompt);
        const result = await this.request;
        if (epoch !== this.epoch) return;
        if (!this.over) continue;
        this.preview = { prompt, result };
        this.redraw();
      } catch (error) {
        if (epoch !== this.epoch) return;
        this.nextPlace = null;
        this.host.failed(error);
      }
    }
    if (epoch === this.epoch) this.request = null;
  }

  // Draws the preview with the present reach.
  redraw() {
    if (this.preview) {
      const area = (this.preview.area = this.area(this.preview.prompt, this.preview.result));
      this.preview.picture = area && drawn(this.host.region, area);
    }
    this.host.previewed();
  }

  // Paints the selection of a prompt, unless it is cancelled before its scores are there.
  async choose(prompt) {
    const { preview } = this;
    const isPreviewed = !prompt.frame && prompt.points.length === 1 && preview && near(preview.prompt, prompt.points[0]);
    if (isPreviewed) {
      this.#paint(preview.prompt, preview.result);
      return;
    }
    const result = await this.#wait(prompt);
    if (result) this.#paint(prompt, result);
  }

  // Makes the last selection again without a place.
  async subtract({ x, y }) {
    if (!this.live) return false;
    const { prompt, value } = this.chosen, reduced = { ...prompt, points: [...prompt.points, { x, y, belongs: false }] };
    if (!reduced.points.some((p) => p.belongs)) reduced.points.unshift(middle(prompt.frame));
    const result = await this.#wait(reduced);
    if (result && this.live) this.#again(reduced, result, value);
    return true;
  }

  async #wait(prompt) {
    const { epoch } = this;
    this.pending = true;
    try {
      const result = await this.host.selection(prompt);
      return epoch === this.epoch ? result : null;
    } catch (error) {
      if (epoch === this.epoch) this.host.failed(error);
      return null;
    } finally {
      if (epoch === this.epoch) this.pending = false;
    }
  }

  // Whether nothing was painted since the last selection.
  get live() {
    const { chosen } = this, { region } = this.host;
    return Boolean(chosen && region && region.past.at(-1) === chosen.step);
  }

  // Makes the reach wider or narrower. The last selection follows while the pointer is still at its place.
  widen(by, place) {
    const before = this.reach;
    this.reach = Math.min(Math.max(this.reach + by, -100), 100);
    if (this.reach === before) return;
    const { chosen } = this, first = chosen?.prompt.points[0];
    const still = place && first && Math.hypot(first.x - place.x, first.y - place.y) < 2;
    if (this.live && still) {
      if (!chosen.widened) this.host.widened();
      this.#again(chosen.prompt, chosen.result, chosen.value);
      if (this.chosen) this.chosen.widened = true;
    }
    this.redraw();
  }

  #again(prompt, result, value) {
    this.host.region.undo();
    this.host.painted(false);
    this.#paint(prompt, result, value);
  }

  // With a value, the selection takes the place of another one, whose class it keeps.
  #paint(prompt, result, value) {
    const { region } = this.host, area = this.area(prompt, result), again = value !== undefined;
    if (area) value ??= this.host.valueFor(area, seed(prompt, region));
    region.begin();
    if (area) region.put(area, value);
    const done = region.end();
    this.chosen = done ? { prompt, result, value, step: region.past.at(-1) } : null;
    this.host.painted(done || again, value);
  }

  // The last selection got another class; null where nothing of it is left.
  repainted(value) {
    this.chosen = value === null ? null : { ...this.chosen, value, step: this.host.region.past.at(-1) };
  }
}

// The pixel of a prompt's first point; undefined for a box.
const seed = ({ points: [first] }, region) => first && Math.floor(first.y) * region.width + Math.floor(first.x);

const near = (prompt, { x, y }) => Math.hypot(prompt.points[0].x - x, prompt.points[0].y - y) < 0.75;

const middle = ({ top, left, bottom, right }) => ({ y: (top + bottom) / 2, x: (left + right) / 2, belongs: true });
