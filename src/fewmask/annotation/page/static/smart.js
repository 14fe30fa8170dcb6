// Smart select: what the server finds for what the person points at, one request at a time.
//
// The server scores the pixels once for a place; how far the selection reaches is decided here, so that the wheel acts at
// once. Of the places that the pointer passes while a request is on its way only the last one is asked about.

import { areaOf, drawn } from "./area.js";

export class Smart {
  // `host`: {region, selection(prompt) → {scores, threshold}, painted(done), widened(), told(), failed(error)}.
  constructor(host) {
    this.host = host;
    this.reach = 0; // how much wider than the server proposes
    this.forget();
  }

  // Another question, or another tool.
  forget() {
    this.epoch = {}; // what is on its way from before is not used
    this.preview = null; // {prompt, found, area, picture}
    this.chosen = null; // the last selection: {prompt, found, value, step, widened}
    this.asking = this.wanted = null;
    this.pending = false; // a click waits for its scores
  }

  area(prompt, { scores, threshold }) {
    const { region } = this.host;
    const seeds = prompt.points.filter((p) => p.belongs).map((p) => Math.floor(p.y) * region.width + Math.floor(p.x));
    return areaOf(region, { scores, threshold: Math.min(Math.max(threshold - this.reach, 1), 255) }, seeds);
  }

  // The pointer rests on, or passes, a place: {x, y}; null: it has left.
  hover(place) {
    this.over = Boolean(place);
    if (this.pending) return;
    this.wanted = place && this.preview && near(this.preview.prompt, place) ? null : place;
    if (!place && this.preview) {
      this.preview = null;
      this.host.told();
    }
    if (this.wanted && !this.asking) this.#ask();
  }

  async #ask() {
    const { epoch } = this;
    while (this.wanted && epoch === this.epoch) {
      const prompt = { points: [{ ...this.wanted, belongs: true }], frame: null };
      this.wanted = null;
      try {
        this.asking = this.host.selection(prompt);
        const found = await this.asking;
        if (epoch !== this.epoch) return;
        if (!this.over) continue;
        this.preview = { prompt, found };
        this.redraw();
      } catch (error) {
        if (epoch !== this.epoch) return;
        this.wanted = null;
        this.host.failed(error);
      }
    }
    if (epoch === this.epoch) this.asking = null;
  }

  // The preview in another reach.
  redraw() {
    if (this.preview) {
      const area = (this.preview.area = this.area(this.preview.prompt, this.preview.found));
      this.preview.picture = area && drawn(this.host.region, area);
    }
    this.host.told();
  }

  // Paints what a prompt means in a value; whether it is still wanted when it is known.
  async choose(prompt, value) {
    const { preview } = this;
    const known = !prompt.frame && prompt.points.length === 1 && preview && near(preview.prompt, prompt.points[0]);
    if (known) {
      this.#paint(preview.prompt, preview.found, value);
      return;
    }
    const found = await this.#wait(prompt);
    if (found) this.#paint(prompt, found, value);
  }

  // A place does not belong to the last selection, which is made again without it.
  async subtract({ x, y }) {
    if (!this.live) return false;
    const { prompt, value } = this.chosen, without = { ...prompt, points: [...prompt.points, { x, y, belongs: false }] };
    if (!without.points.some((p) => p.belongs)) without.points.unshift(middle(prompt.frame));
    const found = await this.#wait(without);
    if (found && this.live) this.#again(without, found, value);
    return true;
  }

  async #wait(prompt) {
    const { epoch } = this;
    this.pending = true;
    try {
      const found = await this.host.selection(prompt);
      return epoch === this.epoch ? found : null;
    } catch (error) {
      if (epoch === this.epoch) this.host.failed(error);
      return null;
    } finally {
      if (epoch === this.epoch) this.pending = false;
    }
  }

  // Nothing was done since the last selection.
  get live() {
    const { chosen } = this, { region } = this.host;
    return Boolean(chosen && region && region.past.at(-1) === chosen.step);
  }

  // Wider or narrower, also of the selection that was just made where the pointer still is.
  widen(by, place) {
    const before = this.reach;
    this.reach = Math.min(Math.max(this.reach + by, -100), 100);
    if (this.reach === before) return;
    const { chosen } = this, first = chosen?.prompt.points[0];
    const still = place && first && Math.hypot(first.x - place.x, first.y - place.y) < 2;
    if (this.live && still) {
      if (!chosen.widened) this.host.widened();
      this.#again(chosen.prompt, chosen.found, chosen.value);
      if (this.chosen) this.chosen.widened = true;
    }
    this.redraw();
  }

  #again(prompt, found, value) {
    this.host.region.undo();
    this.host.painted(false);
    this.#paint(prompt, found, value, true);
  }

  #paint(prompt, found, value, again = false) {
    const { region } = this.host, area = this.area(prompt, found);
    region.begin();
    if (area) region.put(area, value);
    const done = region.end();
    this.chosen = done ? { prompt, found, value, step: region.past.at(-1) } : null;
    this.host.painted(done || again);
  }
}

const near = (prompt, { x, y }) => Math.hypot(prompt.points[0].x - x, prompt.points[0].y - y) < 0.75;

const middle = ({ top, left, bottom, right }) => ({ y: (top + bottom) / 2, x: (left + right) / 2, belongs: true });
