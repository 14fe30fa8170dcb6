// Shows one question after the other, sends answers, and takes them back.

import { majority } from "./area.js";
import { Clock } from "./clock.js";
import { Looks, classOf, tooMany } from "./looks.js";
import { Outbox } from "./outbox.js";
import { Painter } from "./paint.js";
import * as panel from "./panel.js";
import { Region, UNDECIDED } from "./region.js";
import { decode, encode } from "./runs.js";
import { ScreenTime } from "./screen_time.js";
import { post } from "./session.js";

const $ = panel.$;
const AHEAD = 3;
const KEPT = 60; // the regions of this visit whose history is kept
const ABSENT = 300_000; // milliseconds without a move, after which the question is given back to others

const REVOKED = "This link is not valid any more. What is not saved yet stays in this browser, and is sent when you open your new link here.";

export class Annotator {
  constructor(session, view, settings, guidelines) {
    Object.assign(this, { session, view, settings, guidelines });
    this.clock = new Clock();
    this.clicks = 0;
    this.pressed = undefined; // the time at which the key or button was pressed that is being acted upon
    this.screenTime = new ScreenTime((open) => this.#mayAnswer(open));
    this.leased = new Set(); // the questions that were leased to others since the last poll
    this.skipping = null; // the question whose skip the person is asked to confirm
    this.formerNames = new Set(); // names this window had; a question leased under one of them is not another person's
    this.order = session.questions.map((q) => q.id);
    this.id = null;
    this.value = undefined;
    this.guess = undefined;
    this.segmentation = null;
    this.automatic = false; // whether the page chooses the class of what is painted
    this.ranking = null; // the two likeliest classes of each pixel, where the class is automatic
    this.regions = new Map(); // by question, with their history
    this.sent = new Set(); // tokens of this tab
    this.takenBack = []; // the answers that redo gives again
    this.recent = []; // classes, the last one used first
    this.locks = new Map(); // by domain: 1 for each class that is locked
    this.painter = new Painter(view, this);
    this.outbox = new Outbox({ ledger: session.about.ledger, send: post, notify: (...event) => this.#outboxEvent(...event), annotator: session.about.named ? this.me : null });
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

  // ── Answers, with those that are still on their way ──

  answersTo(question) {
    let answers = question.answers;
    for (const entry of this.outbox.entries) {
      if (entry.question !== question.id) continue;
      if (entry.kind === "retract") answers = answers.filter((a) => a.token !== entry.takes_back);
      else answers = [...answers.filter((a) => a.annotator !== entry.annotator), { ...entry, id: Infinity }];
    }
    return answers;
  }

  ownAnswer(question = this.question) {
    return this.answersTo(question).find((a) => a.annotator === this.me);
  }

  // The number of annotators that each question waits for; infinite where some questions are asked again.
  get each() {
    return this.session.about.each ?? Infinity;
  }

  // A question is open to people who have not answered it, until enough others have.
  isOpen(question, answers = this.answersTo(question)) {
    return !answers.some((a) => a.annotator === this.me) && (this.settings.every || answers.length < this.each);
  }

  // The other people who look at a question and have not answered it yet.
  holders(question, answers = this.answersTo(question)) {
    const own = (name) => name === this.me || this.formerNames.has(name);
    return this.session.holders(question.id).filter((name) => !own(name) && !answers.some((a) => a.annotator === name));
  }

  // Whether as many others have answered or look at a question as it waits for.
  isHeld(question, answers = this.answersTo(question)) {
    if (this.settings.every || this.each === Infinity) return false;
    return this.leased.has(question.id) || answers.length + this.holders(question, answers).length >= this.each;
  }

  // The open questions after this one, in the order of asking, and then from the beginning.
  open() {
    const at = this.order.indexOf(this.id) + 1;
    const waiting = new Set(this.outbox.entries.map((e) => e.question));
    const round = [...this.order.slice(at), ...this.order.slice(0, Math.max(at - 1, 0))];
    return round.filter((id) => {
      const question = this.session.byId.get(id);
      const answers = waiting.has(id) ? this.answersTo(question) : question.answers;
      return this.isOpen(question, answers) && !this.isHeld(question, answers);
    });
  }

  // ── Showing ──

  async start() {
    const [first] = this.open();
    if (first === undefined) this.#end();
    else await this.show(first, true);
  }

  // Shows a question. With `turn`, the next question is shown instead where enough others are at this one.
  async show(id, turn = false) {
    const token = (this.showing = {});
    this.painter.leave();
    this.screenTime.forget();
    this.skipping = null;
    let detail, bitmap, granted;
    try {
      [detail, bitmap, granted] = await Promise.all([this.session.detail(id), this.session.image(id), this.session.lease(this.me, id)]);
    } catch (error) {
      if (token !== this.showing) return;
      this.id = id;
      this.region = null;
      this.view.clear();
      panel.notice(`Question ${id} cannot be shown: ${error.message}`, ["Next", () => this.next()], ["Try again", () => this.show(id)]);
      return;
    }
    if (token !== this.showing) return;
    if (!granted) this.leased.add(id);
    if (turn && this.isHeld(this.session.byId.get(id))) {
      this.next();
      return;
    }
    this.clock.take();
    this.clicks = 0;
    this.painter.smart.forget(); // a selection that was begun while this was loading belongs to the question before
    Object.assign(this, { id, detail, guess: undefined, segmentation: null, ranking: null });
    this.#done(false);
    document.body.classList.toggle("point", this.point);
    const same = this.looks?.domain === this.question.domain;
    if (!same) this.setLooks();
    else this.#classes();
    this.region = this.#region(detail);
    panel.notice(this.#elsewhere(detail.answers));
    this.view.show(bitmap, detail, this.region, this.looks, this.point);
    this.screenTime.renew();
    this.#describe();
    this.#expect(id, token);
    if (this.painter.tool === "segment") this.#cut(id, token);
    if (this.automatic) this.#rank(id, token);
    if (this.prepares) this.session.prepare(id);
    requestAnimationFrame(() => requestAnimationFrame(() => token === this.showing && (this.view.canvas.dataset.shown = id)));
    const ahead = this.open().slice(0, AHEAD);
    this.session.prefetch(ahead);
    if (this.prepares) for (const next of ahead) this.session.prepare(next);
  }

  // Sets the colours of the question's classes, after a change of the domain or of the settings.
  setLooks() {
    const { domain } = this.question;
    this.looks = new Looks(this.session.about.domains[domain], this.settings);
    this.looks.guided = this.guidelines.classesOf(domain);
    if (this.looksOf !== domain) {
      this.value = undefined;
      this.recent = [];
    }
    this.looks.domain = this.looksOf = domain;
    this.#classes();
  }

  // Shows the classes' buttons. Where there are more classes than keys, the classes of the guess come first, and then
  // those that were used last.
  #classes() {
    this.likely = null;
    if (tooMany(this.looks.names.length)) {
      const guessed = this.guess?.values ? panel.share(this.guess.values).map(([value]) => value) : [];
      this.likely = [...new Set([...guessed, ...this.recent])].filter((value) => value < this.looks.names.length).slice(0, 9);
    }
    panel.showClasses(this.looks, this.point, this.value, this.likely, this.#locks, (value, event) => this.act(() => this.choose(value), event));
    panel.markLock(this.value !== undefined && this.#locks[this.value]);
  }

  get #locks() {
    const { domain } = this.question;
    if (!this.locks.has(domain)) this.locks.set(domain, new Uint8Array(256));
    return this.locks.get(domain);
  }

  // Locks the chosen class, so that no tool changes it where it shows; or unlocks it.
  lock() {
    if (!this.region || this.point) return;
    if (this.value === undefined || this.value === UNDECIDED) {
      panel.notice("Choose the class to be locked first.");
      return;
    }
    this.#locks[this.value] ^= 1;
    this.#classes();
  }

  refreshLooks() {
    if (!this.region) return;
    this.setLooks();
    this.view.looks = this.looks;
    this.view.paint();
    panel.showGuess(this.guess, this.region, this.looks);
  }

  // The name has changed: regions that were painted under another name are dropped.
  renamed(before) {
    this.formerNames.add(before);
    this.formerNames.delete(this.me);
    this.regions.clear();
    this.takenBack.length = 0;
    this.#progress();
    this.refreshLooks();
    return this.id !== null && this.isOpen(this.question) ? this.show(this.id) : this.start();
  }

  #region({ id, width, height, inside, answers }) {
    let region = this.regions.get(id);
    if (!region) {
      const ownAnswer = answers.find((a) => a.annotator === this.me && a.values), draft = sessionStorage.getItem(this.#draft(id));
      const values = draft ?? ownAnswer?.values;
      region = new Region({ width, height, inside, values: values && decode(values, width * height) });
      region.answered = ownAnswer !== undefined; // an answered region shows the answer and no guess
    }
    region.locked = this.#locks;
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
    if (guess) this.screenTime.renew(); // a confirmation would save something else now
    this.view.paint();
    panel.showGuess(guess, this.region, this.looks);
    if (this.likely) this.#classes();
    this.#painted();
    this.view.canvas.dataset.guessed = id;
    if (this.settings.neighbours && !this.point) this.#around(id, token);
    $("spoken").textContent = `${$("where").textContent}. ${panel.guessInWords(guess, this.looks)}`;
  }

  // Draws the answers around the region as a picture of the image's size.
  async #around(id, token) {
    const values = await this.session.answersAround(id, this.detail.size).catch(() => null);
    if (token !== this.showing || !values) return;
    const [height, width] = this.detail.size, colours = this.looks.pixels(1);
    const canvas = Object.assign(document.createElement("canvas"), { width, height });
    const pen = canvas.getContext("2d"), data = pen.createImageData(width, height), pixels = new Uint32Array(data.data.buffer);
    for (let i = 0; i < pixels.length; i++) pixels[i] = colours[values[i]];
    pen.putImageData(data, 0, 0);
    this.view.beside = canvas;
    this.view.requestDraw();
  }

  async #cut(id, token) {
    try {
      const cut = await this.session.segmentation(id);
      if (token !== this.showing) return;
      this.segmentation = cut;
      this.view.requestDraw();
    } catch (error) {
      panel.notice(`No superpixels: ${error.message}`);
    }
  }

  async #rank(id, token) {
    if (this.point) return;
    try {
      const ranking = await this.session.likely(id);
      if (token !== this.showing) return;
      this.ranking = ranking;
      this.view.canvas.dataset.ranked = id;
    } catch (error) {
      if (token === this.showing) panel.notice(`No automatic class: ${error.message}`);
    }
  }

  #describe() {
    const { question } = this, same = this.order.filter((id) => this.session.byId.get(id).image === question.image);
    const image = same.length > 1 ? ` · ${same.indexOf(this.id) + 1} of ${same.length} in this image` : "";
    panel.showState({ question, position: this.order.indexOf(this.id) + 1, of: this.order.length, image, size: this.detail.size, answer: this.ownAnswer() });
    this.#painted();
  }

  #painted() {
    panel.showPainted(this.region, this.point, this.guess, true);
  }

  #elsewhere(answers) {
    const others = answers.filter((a) => a.annotator !== this.me && !this.sent.has(a.token));
    const holders = this.isHeld(this.question) ? this.holders(this.question) : [];
    if (holders.length) return `${holders.join(", ")} ${holders.length > 1 ? "are" : "is"} at this question now. If you answer too, your answer counts ${this.#beside}.`;
    if (this.settings.every || !others.length || answers.length < this.each) return null;
    return `${others.map((a) => a.annotator).join(", ")} ${others.at(-1).kind === "skip" ? "skipped" : "answered"} this. Your answer would count ${this.#beside}.`;
  }

  get #beside() {
    return this.session.about.decide === "latest" ? "as the later one" : "beside theirs";
  }

  #done(done) {
    $("end").hidden = !done;
    document.body.classList.toggle("done", done);
  }

  // Marks whether the question on the screen may be answered yet.
  #mayAnswer(open) {
    if (open) this.view.canvas.dataset.open = this.id;
    else delete this.view.canvas.dataset.open;
  }

  // Runs the action of a key or button, with the time at which it was pressed.
  act(action, event) {
    this.pressed = event?.timeStamp;
    try {
      return action();
    } finally {
      this.pressed = undefined;
    }
  }

  #end() {
    this.painter.leave();
    this.screenTime.forget();
    this.id = null;
    this.region = null;
    this.showing = {};
    this.view.clear();
    panel.notice(null);
    this.#done(true);
    const held = this.session.questions.filter((q) => this.isOpen(q) && this.isHeld(q)).length;
    panel.showEnd(this.others, held, this.session.about.command, this.session.watched);
    this.session.lease(this.me, null);
    $("where").textContent = "";
    $("state").textContent = "";
    $("expected").replaceChildren();
    $("spoken").textContent = "No question is open any more.";
    delete this.view.canvas.dataset.shown;
  }

  // ── Painting ──

  // The painter calls it on each action; `ready` says whether it can paint.
  click(ready) {
    this.clicks++;
    if (!ready) panel.notice(this.automatic ? "The likeliest classes are still being computed." : "Choose a class first: press its key, or its button.");
  }

  // Whether there is a class to paint with.
  get ready() {
    return this.automatic ? this.ranking !== null : this.value !== undefined;
  }

  // The class that an area gets: the chosen one or, if it is automatic, the likeliest one that is not what shows at
  // pixel i. Without a pixel it is not what most of the area shows.
  valueFor(area, i) {
    if (!this.automatic) return this.value;
    const { region } = this, { first, second } = this.ranking;
    const refused = i === undefined ? majority(region, area, (k) => region.shown(k)) : region.shown(i);
    return majority(region, area, (k) => (first[k] === refused ? second[k] : first[k]));
  }

  // The painter calls it with the class that the page has chosen.
  painted(value) {
    panel.markClass(value);
    $("spoken").textContent = this.looks.name(value);
  }

  // Lets the page choose the class of what is painted, or the person again.
  setAutomatic(on) {
    if (!this.session.about.learns || on === this.automatic) return;
    this.automatic = on;
    this.painter.decided = null;
    panel.markAutomatic(on);
    panel.markClass(on ? undefined : this.value);
    if (on && this.id !== null) this.#rank(this.id, this.showing);
  }

  toggleAutomatic() {
    if (!this.region || this.point) return;
    this.clicks++;
    panel.notice(null);
    this.setAutomatic(!this.automatic);
  }

  changed(done, box = null) {
    if (done) {
      this.takenBack.length = 0;
      this.skipping = null;
      this.#keepDraft();
      panel.notice(null);
    }
    this.view.paint(box);
    if (done) this.#painted();
  }

  // Whether smart select is in use.
  get selects() {
    return this.painter.tool === "smart";
  }

  // Whether features of images should be computed ahead.
  get prepares() {
    return this.selects || this.session.about.learns;
  }

  selection(prompt) {
    return this.session.selection(this.id, prompt);
  }

  hint(text) {
    panel.notice(text);
  }

  // The painter calls it when a tool has failed.
  failed(error) {
    panel.notice(`Smart select: ${error.message ?? error}`);
  }

  // The painter calls it with a selection's new reach.
  reached(reach) {
    this.clock.beat();
    panel.showReach(reach);
  }

  // The pointer closed a polygon: it has to be on the screen for a moment before it is saved.
  closed() {
    this.screenTime.renew();
  }

  // The painter calls it with the class that is picked from the image.
  pick(value) {
    this.clicks++;
    this.setAutomatic(false);
    this.#use(value);
  }

  #use(value) {
    this.value = value;
    this.chosenHere = this.id;
    panel.notice(null);
    panel.markClass(value);
    panel.markLock(this.#locks[value]);
    this.#used(value);
  }

  #draft(id) {
    return `fewmask/${this.session.about.ledger}/draft/${id}/${this.me}`;
  }

  #keepDraft() {
    try {
      if (this.region.values.every((value) => value === UNDECIDED)) sessionStorage.removeItem(this.#draft(this.id));
      else sessionStorage.setItem(this.#draft(this.id), encode(this.region.values));
    } catch {
      // Without storage a draft lives as long as the page.
    }
  }

  #forgetDraft() {
    sessionStorage.removeItem(this.#draft(this.id));
  }

  // Whether something is painted that only this window has.
  get unsaved() {
    if (this.region && !this.region.answered && this.region.worked) return true;
    const prefix = `fewmask/${this.session.about.ledger}/draft/`;
    return Object.keys(sessionStorage).some((key) => key.startsWith(prefix));
  }

  choose(value) {
    if (!this.region || this.painter.stroking) return;
    if (this.point && value !== UNDECIDED) {
      if (!this.screenTime.longEnough(this.pressed)) return;
      this.#used(value);
      this.#whole(value);
      this.answer(false);
    } else if (!this.point) {
      this.clicks++;
      if (this.painter.repaint(value)) {
        this.#used(value);
        panel.markClass(value);
        return;
      }
      this.setAutomatic(false);
      if (this.value === value && this.chosenHere === this.id) this.#whole(value);
      this.#use(value);
    }
  }

  // The class that a key means on the screen; undefined where it means none.
  classOfKey(key) {
    return this.looks && this.region ? classOf(key, this.looks.names.length, this.likely) : undefined;
  }

  // The class that the guess has most pixels of; undefined where there is no guess.
  get likeliest() {
    return this.guess?.values && panel.share(this.guess.values)[0]?.[0];
  }

  key(key) {
    const value = this.classOfKey(key);
    // A key that has just got another class was not pressed for it.
    if (value !== undefined && this.likely && !this.screenTime.longEnough(this.pressed)) return true;
    if (value !== undefined) this.choose(value);
    return value !== undefined;
  }

  #used(value) {
    if (value < this.looks.names.length) this.recent = [value, ...this.recent.filter((earlier) => earlier !== value)].slice(0, 9);
  }

  #whole(value) {
    this.region.begin();
    this.region.put(this.region.whole, value);
    this.changed(this.region.end());
  }

  tool(name) {
    this.clicks++;
    this.painter.choose(name);
    panel.markTool(name);
    if (name === "segment" && this.id !== null) this.#cut(this.id, this.showing);
    if (this.selects && this.id !== null) this.session.prepare(this.id);
  }

  // ── Answering ──

  // Saves what is painted, with the guess for the rest or without it, and shows the next question.
  answer(withGuess) {
    if (this.painter.smart.pending) {
      panel.notice("The selection is still being computed. Press Esc to cancel it.");
      return;
    }
    if (!this.region || this.painter.close() || !this.screenTime.longEnough(this.pressed)) return;
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

  // Skips the question. Where something is painted, it asks first and skips when it is called again.
  skip() {
    if (!this.region || this.painter.stroking || !this.screenTime.longEnough(this.pressed)) return;
    const answered = this.ownAnswer()?.kind === "answer";
    if ((this.region.worked || answered) && this.skipping !== this.id) {
      this.skipping = this.id;
      this.screenTime.renew(); // the request has to be read first
      const consequence = answered ? "You have answered this question; skipping takes the answer's place." : "What you painted here is not saved by skipping; it stays here as a draft.";
      panel.notice(`${consequence} Press x again to skip.`, ["Skip", (event) => this.act(() => this.skip(), event)], ["Do not skip", () => this.#stay()]);
      return;
    }
    this.clicks++;
    this.#send({ kind: "skip" }, true);
    this.next();
  }

  #stay() {
    this.skipping = null;
    panel.notice(null);
  }

  #send(fields, draft = false) {
    const token = crypto.randomUUID();
    this.sent.add(token);
    const entry = { ledger: this.session.about.ledger, token, question: this.id, annotator: this.me, values: null, takes_back: null, seconds: this.clock.take(), clicks: this.clicks, ...fields };
    this.clicks = 0;
    if (!draft) this.#forgetDraft();
    this.outbox.put(entry);
  }

  next() {
    const [id] = this.open();
    if (id === undefined) this.#end();
    else this.show(id, true);
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

  // Cancels the selection that is being computed, or gives up the polygon.
  cancel() {
    if (this.painter.smart.cancel()) panel.notice("The selection is cancelled.");
    else this.painter.drop();
  }

  async undo() {
    this.clicks++;
    if (this.painter.stroking || this.painter.shorten()) return;
    if (this.region?.undo()) {
      this.#stepped();
      return;
    }
    await this.takeBack();
  }

  #stepped() {
    this.skipping = null;
    this.#keepDraft();
    this.view.paint(this.region.touched);
    this.#painted();
  }

  // Takes back the newest standing answer or skip of this annotator, from any time and any tab.
  async takeBack() {
    let newest = null;
    for (const question of this.session.questions) {
      const answer = this.ownAnswer(question);
      if (answer && (!newest || this.#order(answer) > this.#order(newest.answer))) newest = { question, answer };
    }
    if (!newest || this.busy) {
      if (!newest) panel.notice("There is nothing left to undo.");
      return;
    }
    this.busy = true;
    try {
      const { question, answer } = newest;
      await this.show(question.id); // as it was answered
      if (this.id !== question.id) return;
      this.takenBack.push({ question: question.id, kind: answer.kind, values: answer.kind === "answer" ? encode(this.region.values) : null });
      this.#send({ kind: "retract", takes_back: answer.token });
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

  // A number that is greater for later answers. Answers on their way are the latest.
  #order(answer) {
    const at = this.outbox.entries.findIndex((e) => e.token === answer.token);
    return at >= 0 ? 2 ** 53 - 1e6 + at : answer.id;
  }

  redo() {
    this.clicks++;
    if (this.painter.stroking) return;
    if (this.region?.redo()) {
      this.#stepped();
      return;
    }
    const undone = this.takenBack.at(-1);
    if (!undone || undone.question !== this.id) return;
    this.takenBack.pop();
    this.region.answered = true;
    this.region.guess = null;
    this.#send({ kind: undone.kind, values: undone.values });
    this.next();
  }

  // ── Events ──

  #outboxEvent(event, entry, body, status) {
    if (event === "saved") this.session.setAnswers(entry.question, body.answers, body);
    if (event === "refused" && entry.kind !== "retract") panel.notice(`An answer to question ${entry.question} was not saved: ${body?.error ?? "refused"}`, ["Show it", () => this.show(entry.question)]);
    if (event === "unsaved" && status === 403) panel.notice(REVOKED);
    // The region of this tab keeps what was painted.
    panel.showSaved(this.outbox?.waiting.size ?? 0, event === "unsaved");
    this.#progress();
    if (this.id !== null && entry.question === this.id && this.region) this.#describe();
  }

  // Reads the answers of other tabs and other people, and new questions.
  async poll() {
    this.outbox.adopt();
    this.leased.clear();
    let touched;
    const { learned } = this.session;
    try {
      const present = this.id !== null && performance.now() - this.clock.last < ABSENT;
      if (present) await this.session.lease(this.me, this.id);
      touched = await this.session.changes();
    } catch (error) {
      if (error.status === 403) panel.notice(REVOKED);
      return; // the next time
    }
    if (this.outbox.waiting.size) this.outbox.flush();
    this.order = this.session.questions.map((q) => q.id);
    if (learned !== this.session.learned && this.id !== null) this.session.prefetch(this.open().slice(0, AHEAD));
    this.#progress();
    for (const id of touched) {
      const foreign = this.session.byId.get(id)?.answers.filter((a) => !this.sent.has(a.token)) ?? [];
      if (!foreign.length) continue;
      if (id === this.id) {
        const { annotator, kind } = foreign.at(-1);
        const isOwn = annotator === this.me, source = isOwn ? "in another window" : `by ${annotator}`;
        const counts = isOwn ? "as the later one" : this.#beside;
        if (!this.isOpen(this.question)) panel.notice(`This question was just ${kind === "skip" ? "skipped" : "answered"} ${source}. If you answer too, your answer counts ${counts}.`, ["Next", () => this.next()]);
        this.#describe();
      } else if (foreign.some((a) => a.annotator === this.me)) this.regions.delete(id); // it is read again with the other window's answer
    }
    if (this.id === null && this.open().length) this.start();
    else if (this.id === null) panel.showNext(this.session.about.command, this.session.watched);
  }

  #progress() {
    const counts = { answered: 0, skipped: 0, open: 0, others: 0, cost: 0, answers: 0 };
    const waiting = new Set(this.outbox?.entries.map((e) => e.question));
    for (const question of this.session.questions) {
      const answers = waiting.has(question.id) ? this.answersTo(question) : question.answers;
      const answered = answers.some((a) => a.annotator === this.me), missing = Math.max(this.each - answers.length, 0);
      counts.answers += answers.length;
      if (missing && !answered) counts.open++;
      else if (answers.some((a) => a.kind === "answer")) counts.answered++;
      else counts.skipped++;
      if (missing && answered && this.each < Infinity) counts.others++;
      if (missing) counts.cost += this.each < Infinity ? (question.cost * missing) / this.each : answered ? 0 : question.cost;
    }
    this.others = counts.others;
    panel.showProgress({ ...counts, unit: this.session.about.unit, seconds: this.session.seconds, clicks: this.session.clicks });
  }
}
