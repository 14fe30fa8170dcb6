// One question after the other: showing it, answering it, taking it back.

import { Clock } from "./clock.js";
import { Looks, classOf } from "./looks.js";
import { Outbox } from "./outbox.js";
import { Painter } from "./paint.js";
import * as panel from "./panel.js";
import { Region, UNDECIDED } from "./region.js";
import { decode, encode } from "./runs.js";
import { post } from "./session.js";

const $ = panel.$;
const AHEAD = 3;
const KEPT = 60; // regions of this visit whose history is kept

export class Annotator {
  constructor(session, view, settings) {
    Object.assign(this, { session, view, settings });
    this.clock = new Clock();
    this.clicks = 0;
    this.order = session.questions.map((q) => q.id);
    this.id = null;
    this.value = undefined;
    this.guess = undefined;
    this.segmentation = null;
    this.regions = new Map(); // by question, with their history
    this.sent = new Set(); // tokens of this tab
    this.takenBack = []; // what redo would answer again
    this.painter = new Painter(view, this);
    this.outbox = new Outbox({ ledger: session.about.ledger, send: post, told: (...news) => this.#told(...news) });
    this.outbox.flush();
    this.#progress();
    panel.showSaved(this.outbox.waiting.size, false);
  }

  get question() {
    return this.session.byId.get(this.id);
  }

  get point() {
    return this.question.kind === "points";
  }

  get me() {
    return this.settings.name;
  }

  // ── Who said what, with what is still on its way ──

  words(question) {
    let words = question.words;
    for (const entry of this.outbox.entries) {
      if (entry.question !== question.id) continue;
      if (entry.kind === "retract") words = words.filter((w) => w.token !== entry.takes_back);
      else words = [...words.filter((w) => w.annotator !== entry.annotator), { ...entry, id: Infinity }];
    }
    return words;
  }

  mine(question = this.question) {
    return this.words(question).find((w) => w.annotator === this.me);
  }

  // How many annotators each question waits for; without end where some are asked again.
  get each() {
    return this.session.about.each ?? Infinity;
  }

  // A question is open to those who said nothing of it, until enough others have.
  isOpen(question, words = this.words(question)) {
    return !words.some((w) => w.annotator === this.me) && (this.settings.every || words.length < this.each);
  }

  // The open questions after this one, in the order of asking, and then from the beginning.
  open() {
    const at = this.order.indexOf(this.id) + 1;
    const waiting = new Set(this.outbox.entries.map((e) => e.question));
    const round = [...this.order.slice(at), ...this.order.slice(0, Math.max(at - 1, 0))];
    return round.filter((id) => {
      const question = this.session.byId.get(id);
      return this.isOpen(question, waiting.has(id) ? this.words(question) : question.words);
    });
  }

  // ── Showing ──

  async start() {
    const [first] = this.open();
    if (first === undefined) this.#end();
    else await this.show(first);
  }

  async show(id) {
    const token = (this.showing = {});
    let detail, bitmap;
    try {
      [detail, bitmap] = await Promise.all([this.session.detail(id), this.session.image(id)]);
    } catch (error) {
      if (token !== this.showing) return;
      this.id = id;
      this.region = null;
      this.view.clear();
      panel.notice(`Question ${id} cannot be shown: ${error.message}`, ["Next", () => this.next()], ["Try again", () => this.show(id)]);
      return;
    }
    if (token !== this.showing) return;
    this.clock.take();
    this.clicks = 0;
    Object.assign(this, { id, detail, guess: undefined, segmentation: null });
    this.painter.drop();
    this.#done(false);
    document.body.classList.toggle("point", this.point);
    const same = this.looks?.domain === this.question.domain;
    if (!same) this.dress();
    else panel.showClasses(this.looks, this.point, this.value, (value) => this.choose(value));
    this.region = this.#region(detail);
    panel.notice(this.#elsewhere(detail.words));
    this.view.show(bitmap, detail, this.region, this.looks, this.point);
    this.#describe();
    this.#expect(id, token);
    if (this.painter.tool === "segment") this.#cut(id, token);
    requestAnimationFrame(() => requestAnimationFrame(() => token === this.showing && (this.view.canvas.dataset.shown = id)));
    this.session.prefetch(this.open().slice(0, AHEAD));
  }

  // The looks of the question's classes, after another domain's or other colours.
  dress() {
    const { domain } = this.question;
    this.looks = new Looks(this.session.about.domains[domain], this.settings.safe);
    if (this.looksOf !== domain) this.value = undefined;
    this.looks.domain = this.looksOf = domain;
    panel.showClasses(this.looks, this.point, this.value, (value) => this.choose(value));
  }

  redress() {
    if (!this.region) return;
    this.dress();
    this.view.looks = this.looks;
    this.view.paint();
    panel.showGuess(this.guess, this.region, this.looks);
  }

  // Somebody else sits down: what was painted under another name is not theirs.
  renamed() {
    this.regions.clear();
    this.takenBack.length = 0;
    this.#progress();
    this.redress();
    return this.id !== null && this.isOpen(this.question) ? this.show(this.id) : this.start();
  }

  #region({ id, width, height, inside, words }) {
    let region = this.regions.get(id);
    if (!region) {
      const own = words.find((w) => w.annotator === this.me && w.values), draft = sessionStorage.getItem(this.#draft(id));
      const values = draft ?? own?.values;
      region = new Region({ width, height, inside, values: values && decode(values, width * height) });
      region.answered = own !== undefined; // then nothing is guessed: what is shown is what was answered
    }
    this.regions.delete(id);
    this.regions.set(id, region);
    if (this.regions.size > KEPT) this.regions.delete(this.regions.keys().next().value);
    return region;
  }

  async #expect(id, token) {
    let guess;
    const late = setTimeout(() => panel.showGuess(undefined, this.region, this.looks), 80);
    try {
      guess = await this.session.guess(id);
    } catch (error) {
      guess = error;
    }
    clearTimeout(late);
    if (token !== this.showing) return;
    this.guess = guess;
    if (guess && !(guess instanceof Error) && !this.region.answered) this.region.guess = guess.values;
    this.view.paint();
    panel.showGuess(guess, this.region, this.looks);
    this.#painted();
    this.view.canvas.dataset.guessed = id;
    $("spoken").textContent = `${$("where").textContent}. ${panel.guessInWords(guess, this.looks)}`;
  }

  async #cut(id, token) {
    try {
      const cut = await this.session.segmentation(id);
      if (token === this.showing) this.segmentation = cut;
    } catch (error) {
      panel.notice(`No superpixels: ${error.message}`);
    }
  }

  #describe() {
    const { question } = this, same = this.order.filter((id) => this.session.byId.get(id).image === question.image);
    const image = same.length > 1 ? ` · ${same.indexOf(this.id) + 1} of ${same.length} in this image` : "";
    panel.showState({ question, position: this.order.indexOf(this.id) + 1, of: this.order.length, image, size: this.detail.size, mine: this.mine() });
    this.#painted();
  }

  #painted() {
    panel.showPainted(this.region, this.point, this.guess, true);
  }

  #elsewhere(words) {
    const others = words.filter((w) => w.annotator !== this.me && !this.sent.has(w.token));
    if (this.settings.every || !others.length || words.length < this.each) return null;
    return `${others.map((w) => w.annotator).join(", ")} ${others.at(-1).kind === "skip" ? "skipped" : "answered"} this. Your answer would count ${this.#beside}.`;
  }

  get #beside() {
    return this.session.about.decide === "latest" ? "as the later one" : "beside theirs";
  }

  #done(done) {
    $("end").hidden = !done;
    document.body.classList.toggle("done", done);
  }

  #end() {
    this.id = null;
    this.region = null;
    this.showing = {};
    this.view.clear();
    panel.notice(null);
    this.#done(true);
    panel.showEnd(this.others);
    $("where").textContent = "";
    $("state").textContent = "";
    $("expected").replaceChildren();
    $("spoken").textContent = "Nothing is open any more.";
    delete this.view.canvas.dataset.shown;
  }

  // ── Painting ──

  // Of the painter: something was done, on a class or not.
  click(chosen) {
    this.clicks++;
    if (!chosen) panel.notice("Choose a class first: press its key, or its button.");
  }

  changed(done) {
    if (done) {
      this.takenBack.length = 0;
      this.#keepDraft();
      panel.notice(null);
    }
    this.view.paint();
    if (done) this.#painted();
  }

  #draft(id) {
    return `fewmask/${this.session.about.ledger}/draft/${id}/${this.me}`;
  }

  #keepDraft() {
    try {
      sessionStorage.setItem(this.#draft(this.id), encode(this.region.values));
    } catch {
      // Without storage a draft lives as long as the page.
    }
  }

  choose(value) {
    if (!this.region) return;
    if (this.point && value !== UNDECIDED) {
      this.#whole(value);
      this.answer(false);
    } else if (!this.point) {
      this.clicks++;
      if (this.value === value && this.chosenHere === this.id) this.#whole(value);
      this.value = value;
      this.chosenHere = this.id;
      panel.notice(null);
      panel.markClass(value);
    }
  }

  key(key) {
    const value = this.looks && classOf(key, this.looks.names.length);
    if (value !== undefined) this.choose(value);
    return value !== undefined;
  }

  #whole(value) {
    this.region.begin();
    this.region.whole(value);
    this.region.end();
    this.changed(true);
  }

  tool(name) {
    this.clicks++;
    this.painter.choose(name);
    panel.markTool(name);
    if (name === "segment" && this.id !== null) this.#cut(this.id, this.showing);
  }

  // ── Answering ──

  // Saves what is painted, with the guess for the rest or without; then comes the next question.
  answer(withGuess) {
    if (!this.region || this.painter.close()) return;
    if (withGuess) {
      this.region.begin();
      this.region.accept();
      this.region.end();
    }
    const counts = this.region.counts(true);
    if ([...counts.keys()].every((value) => value === UNDECIDED)) {
      panel.notice(this.guess === undefined ? "The guess is still being computed." : "Nothing is painted yet: choose a class and click, or skip the question (x).");
      return;
    }
    this.clicks++;
    this.region.answered = true;
    this.region.guess = null;
    this.#send({ kind: "answer", values: encode(this.region.values) });
    this.next();
  }

  skip() {
    if (!this.region) return;
    this.clicks++;
    this.#send({ kind: "skip" });
    this.next();
  }

  #send(what) {
    const token = crypto.randomUUID();
    this.sent.add(token);
    const entry = { ledger: this.session.about.ledger, token, question: this.id, annotator: this.me, values: null, takes_back: null, seconds: this.clock.take(), clicks: this.clicks, ...what };
    this.clicks = 0;
    sessionStorage.removeItem(this.#draft(this.id));
    this.outbox.put(entry);
  }

  next() {
    const [id] = this.open();
    if (id === undefined) this.#end();
    else this.show(id);
  }

  back() {
    const at = this.id === null ? this.order.length : this.order.indexOf(this.id);
    if (at > 0) this.show(this.order[at - 1]);
  }

  forward() {
    const at = this.order.indexOf(this.id);
    if (this.id !== null && at + 1 < this.order.length) this.show(this.order[at + 1]);
    else this.next();
  }

  async undo() {
    this.clicks++;
    if (this.painter.shorten()) return;
    if (this.region?.undo()) {
      this.#keepDraft();
      this.view.paint();
      this.#painted();
      return;
    }
    await this.takeBack();
  }

  // Takes the newest answer or skip back that stands, whenever and in whichever tab it was given.
  async takeBack() {
    let newest = null;
    for (const question of this.session.questions) {
      const word = this.mine(question);
      if (word && (!newest || this.#order(word) > this.#order(newest.word))) newest = { question, word };
    }
    if (!newest || this.busy) {
      if (!newest) panel.notice("There is nothing left to undo.");
      return;
    }
    this.busy = true;
    try {
      const { question, word } = newest;
      await this.show(question.id); // as it was answered
      if (this.id !== question.id) return;
      this.takenBack.push({ question: question.id, kind: word.kind, values: word.kind === "answer" ? encode(this.region.values) : null });
      this.#send({ kind: "retract", takes_back: word.token });
      this.region.answered = false;
      if (this.guess && !(this.guess instanceof Error)) this.region.guess = this.guess.values;
      this.#keepDraft();
      this.view.paint();
      this.#describe();
      panel.notice("Taken back: this question is open again.");
    } finally {
      this.busy = false;
    }
  }

  // Later answers are greater; what is on its way is the latest.
  #order(word) {
    const at = this.outbox.entries.findIndex((e) => e.token === word.token);
    return at >= 0 ? 2 ** 53 - 1e6 + at : word.id;
  }

  redo() {
    this.clicks++;
    if (this.region?.redo()) {
      this.#keepDraft();
      this.view.paint();
      this.#painted();
      return;
    }
    const again = this.takenBack.at(-1);
    if (!again || again.question !== this.id) return;
    this.takenBack.pop();
    this.region.answered = true;
    this.region.guess = null;
    this.#send({ kind: again.kind, values: again.values });
    this.next();
  }

  // ── News ──

  #told(what, entry, body) {
    if (what === "saved") this.session.heard(entry.question, body.words, body);
    if (what === "refused" && entry.kind !== "retract") panel.notice(`An answer to question ${entry.question} was not saved: ${body?.error ?? "refused"}`, ["Show it", () => this.show(entry.question)]);
    // The region of this tab keeps what was painted: nothing of it is lost.
    panel.showSaved(this.outbox?.waiting.size ?? 0, what === "unsaved");
    this.#progress();
    if (this.id !== null && entry.question === this.id && this.region) this.#describe();
  }

  // What was done in another tab, or by others, or asked since.
  async poll() {
    this.outbox.adopt();
    let touched;
    try {
      touched = await this.session.changes();
    } catch {
      return; // the next time
    }
    if (this.outbox.waiting.size) this.outbox.flush();
    this.order = this.session.questions.map((q) => q.id);
    this.#progress();
    for (const id of touched) {
      const foreign = this.session.byId.get(id)?.words.filter((w) => !this.sent.has(w.token)) ?? [];
      if (!foreign.length) continue;
      if (id === this.id) {
        const { annotator, kind } = foreign.at(-1);
        const mine = annotator === this.me, who = mine ? "in another window" : `by ${annotator}`;
        const counts = mine ? "as the later one" : this.#beside;
        if (!this.isOpen(this.question)) panel.notice(`This question was just ${kind === "skip" ? "skipped" : "answered"} ${who}. If you answer too, your answer counts ${counts}.`, ["Next", () => this.next()]);
        this.#describe();
      } else if (foreign.some((w) => w.annotator === this.me)) this.regions.delete(id); // it is painted as it was answered there
    }
    if (this.id === null && this.open().length) this.start();
  }

  #progress() {
    const found = { answered: 0, skipped: 0, open: 0, others: 0, cost: 0, words: 0 };
    const waiting = new Set(this.outbox?.entries.map((e) => e.question));
    for (const question of this.session.questions) {
      const words = waiting.has(question.id) ? this.words(question) : question.words;
      const mine = words.some((w) => w.annotator === this.me), missing = Math.max(this.each - words.length, 0);
      found.words += words.length;
      if (missing && !mine) found.open++;
      else if (words.some((w) => w.kind === "answer")) found.answered++;
      else found.skipped++;
      if (missing && mine && this.each < Infinity) found.others++;
      if (missing) found.cost += this.each < Infinity ? (question.cost * missing) / this.each : mine ? 0 : question.cost;
    }
    this.others = found.others;
    panel.showProgress({ ...found, unit: this.session.about.unit, seconds: this.session.seconds, clicks: this.session.clicks });
  }
}
