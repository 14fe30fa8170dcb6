// The gallery of answers for reviewers. Cards are loaded a page at a time, and pictures when they come into view.

import { getJson } from "./api.js";
import { looksOf } from "./looks.js";
import { $, make } from "./panel.js";
import { UNDECIDED } from "./region.js";
import { decode } from "./runs.js";

const PAGE = 48;
const SEEN = 400; // milliseconds that a card has been chosen before a key judges it
const JSON_TYPE = { "Content-Type": "application/json" };
const STATES = { open: "not reviewed", accepted: "accepted", rejected: "rejected: the question is asked again" };
const SOURCES = {
  pool: "by the prediction with which the campaign scored the pool",
  network: "by the guess of the network before it learns from them",
  class: "by the class that the question was asked with",
  none: "without a prediction, last",
};
const WHO = { pool: "The pool's network", network: "The network", class: "The guessed class" };

let about = null; // the last listing
let looks = {}; // by domain
let listings = 0;
const cards = new Map(); // answers by id, as they are shown
let looking = 0; // the timer of the chosen card

function notice(text, again) {
  $("notice").hidden = !text;
  $("notice").replaceChildren(text ?? "");
  if (!again) return;
  const button = make("button", { type: "button" }, "Try again");
  button.addEventListener("click", again);
  $("notice").append(button);
}

// ── The list ──

async function list() {
  const number = ++listings, query = new URLSearchParams({ state: $("reviewed").value });
  const [domain, value] = $("class").value ? JSON.parse($("class").value) : [];
  if (domain !== undefined) query.set("domain", domain);
  if (value !== undefined) query.set("value", value);
  if ($("person").value) query.set("annotator", $("person").value);
  if ($("disputed").checked) query.set("disputed", "true");
  $("cards").setAttribute("aria-busy", "true");
  let found;
  try {
    found = await getJson(`review?${query}`);
  } catch (error) {
    notice(`The answers cannot be shown: ${error.message}`, list);
    return;
  }
  if (number !== listings) return; // the filter was changed meanwhile
  notice();
  about = found;
  $("run").textContent = about.run;
  document.title = `${about.run}: review`;
  looks = looksOf(about.domains);
  if (about.named) $("name").value = about.annotator;
  else $("name").value ||= localStorage.getItem("fewmask/name") ?? about.annotator;
  $("name").readOnly = about.named;
  fillFilters();
  showOrder();
  $("cards").replaceChildren();
  cards.clear();
  await more();
  if (number === listings) $("cards").setAttribute("aria-busy", "false");
}

function fillFilters() {
  const names = Object.keys(about.domains), person = $("person").value, chosen = $("class").value;
  const options = names.map((name) => {
    const values = [...about.domains[name].classes.keys(), 255];
    const parts = values.map((value) => make("option", { value: JSON.stringify([name, value]) }, looks[name].name(value)));
    return names.length > 1 ? make("optgroup", { label: name }, ...parts) : parts;
  });
  $("class").replaceChildren(make("option", { value: "" }, "any"), ...options.flat());
  $("class").value = chosen;
  $("person").replaceChildren(make("option", { value: "" }, "anybody"), ...about.people.map((name) => make("option", { value: name }, name)));
  $("person").value = about.people.includes(person) ? person : "";
}

function showOrder() {
  const used = Object.entries(SOURCES).filter(([source]) => about.sources[source]);
  const parts = used.map(([source, text]) => (used.length > 1 ? `${text} (${about.sources[source]})` : text));
  const order = parts.length ? ` Suspicious answers come first: ${parts.join(", ")}.` : "";
  $("order").textContent = `${about.ids.length} of ${about.total} ${about.total === 1 ? "answer" : "answers"}.${order}`;
  $("none").hidden = about.ids.length > 0;
}

let loading = null;

// Loads the cards of the next page.
function more() {
  loading ??= loadMore().finally(() => (loading = null));
  return loading;
}

async function loadMore() {
  const number = listings, ids = about.ids.slice(cards.size, cards.size + PAGE);
  let found = [];
  try {
    if (ids.length) found = await getJson(`review/cards?${ids.map((id) => `number=${id}`).join("&")}`);
  } catch (error) {
    notice(`The answers cannot be shown: ${error.message}`, list);
    return;
  }
  if (number !== listings) return;
  for (const card of found) {
    const node = make("li", {}, draw(card));
    cards.set(card.id, card);
    $("cards").append(node);
  }
  $("more").hidden = cards.size >= about.ids.length;
  if (!$("cards").querySelector('[tabindex="0"]')) $("cards").querySelector(".card")?.setAttribute("tabindex", "0");
}

// ── A card ──

function draw(card) {
  const look = looks[card.domain], [height, width] = card.size;
  const image = make("img", { loading: "lazy", alt: `Region of ${card.stem}`, width, height, src: `api/review/pictures/${card.question}` });
  const canvas = make("canvas", { width, height, "aria-hidden": "true" });
  canvas.dataset.answer = card.id;
  const pen = canvas.getContext("2d"), pixels = new ImageData(width, height), table = look.pixels(1);
  const words = new Uint32Array(pixels.data.buffer);
  decode(card.values, width * height).forEach((value, i) => value !== UNDECIDED && (words[i] = table[value]));
  pen.putImageData(pixels, 0, 0);
  const sum = Object.values(card.pixels).reduce((a, b) => a + b, 0);
  const legend = Object.entries(card.pixels).sort((a, b) => b[1] - a[1]).slice(0, 5).map(([value, count]) =>
    make("span", {}, look.swatch(Number(value)), `${look.name(Number(value))} ${Math.round((100 * count) / sum)} %`),
  );
  const doubts = card.score === null ? [] : [`${WHO[card.source]} gives it ${Math.round(100 * card.score)} %`];
  if (card.agreement !== null) doubts.push(`people agree on ${Math.round(100 * card.agreement)} %`);
  const judged = card.verdicts.filter(({ kind }) => kind !== "comment").at(-1), isRejected = card.state === "rejected";
  const comments = card.verdicts.filter(({ kind }) => kind === "comment");
  const button = (kind, key, label) => {
    const node = make("button", { type: "button", "aria-keyshortcuts": key.toUpperCase() }, label);
    node.addEventListener("click", (event) => event.detail < 2 && act(card.id, kind));
    return node;
  };
  const article = make(
    "article",
    { class: "card", tabindex: -1, "aria-label": `Answer by ${card.annotator} about ${card.stem}, ${STATES[card.state]}` },
    make("div", { class: "picture" }, image, canvas),
    make("div", { class: "legend" }, ...legend),
    make("p", {}, `${card.annotator} · ${card.stem} · question ${card.question}`),
    make("p", { class: "faint" }, doubts.join(" · ") || "No prediction to compare with"),
    ...(judged ? [make("p", { class: "state" }, `${judged.kind === "restore" ? "rejection undone" : STATES[card.state]} (${judged.reviewer})`)] : []),
    ...comments.map(({ comment, reviewer }) => make("p", { class: "comments" }, `${reviewer}: ${comment}`)),
    make("p", { class: "buttons" }, ...(isRejected ? [button("restore", "u", "Undo rejection")] : [button("accept", "a", "Accept"), button("reject", "r", "Reject")]), button("comment", "c", "Comment")),
  );
  Object.assign(article.dataset, { answer: card.id, state: card.state });
  article.addEventListener("focusin", () => choose(article));
  return article;
}

const cardOf = (id) => $("cards").querySelector(`.card[data-answer="${id}"]`);
const chosen = () => $("cards").querySelector('.card[tabindex="0"]');

// A card is judged by a key only after it was chosen, with its picture, for a while.
function choose(article) {
  const before = chosen();
  if (before === article && "since" in article.dataset) return;
  clearTimeout(looking);
  before?.setAttribute("tabindex", "-1");
  article.setAttribute("tabindex", "0");
  delete article.dataset.seen;
  article.dataset.since = "";
  if (before !== article) delete before?.dataset.since;
  looking = setTimeout(async () => {
    await article.querySelector("img").decode();
    if (article === chosen()) article.dataset.seen = "";
  }, SEEN);
}

// The cards are moved through in their order, or by rows.
async function move(key) {
  const nodes = [...$("cards").querySelectorAll(".card")], at = nodes.indexOf(chosen());
  if (at < 0) return;
  if (!$("cards").contains(document.activeElement)) return nodes[at].focus();
  const columns = nodes.findIndex((node) => node.offsetTop > nodes[0].offsetTop), row = columns < 0 ? nodes.length : columns;
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -row, ArrowDown: row }[key], next = at + step;
  if (next >= nodes.length && cards.size < about.ids.length) {
    await more();
    return move(key);
  }
  nodes[next]?.focus();
}

// ── Verdicts ──

function act(id, kind) {
  const card = cards.get(id);
  if (kind === "comment") return askComment(id);
  if (kind === "restore" ? card.state !== "rejected" : card.state === "rejected") return notice(kind === "restore" ? "This answer is not rejected." : "This answer was rejected before; its question is asked again. u undoes that.");
  if (card.state === "open" || kind !== "accept") send({ answer: id, kind, comment: "" });
}

function askComment(id) {
  $("comment").value = "";
  $("commenting").returnValue = "";
  $("commenting").showModal();
  $("commenting").onclose = () => {
    const comment = $("comment").value.trim();
    if ($("commenting").returnValue === "save" && comment) send({ answer: id, kind: "comment", comment });
    cardOf(id)?.focus();
  };
}

// Sends a verdict until the server has it; the token makes a verdict that is sent twice one verdict.
async function send(fields, token = crypto.randomUUID()) {
  const reviewer = $("name").value.normalize("NFC").trim();
  if (!reviewer) {
    notice("Who reviews? Write your name at the top right.");
    return $("name").focus();
  }
  status("waiting", "Saving");
  let response, body;
  try {
    const entry = JSON.stringify({ ledger: about.ledger, token, reviewer, ...fields });
    response = await fetch("api/verdicts", { method: "POST", body: entry, headers: JSON_TYPE });
    body = await response.json();
  } catch {
    status("unsaved", "Not saved");
    return notice("The server does not answer; the verdict is not saved.", () => send(fields, token));
  }
  if (!response.ok) {
    status("unsaved", "Not saved");
    return notice(`Not saved: ${body.error}`, response.status === 503 ? () => send(fields, token) : undefined);
  }
  status("saved", "Saved");
  notice();
  redraw(body);
}

function status(state, text) {
  $("saved").dataset.state = state;
  $("saved").textContent = text;
}

function redraw(card) {
  const before = cardOf(card.id);
  if (!before) return;
  cards.set(card.id, card);
  const isChosen = before === chosen(), hadFocus = before.contains(document.activeElement), after = draw(card);
  before.replaceWith(after);
  if (isChosen) after.setAttribute("tabindex", "0");
  if (hadFocus) after.focus();
}

// ── Keys ──

addEventListener("keydown", (event) => {
  const { key, target } = event;
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (target.matches?.("input, select, textarea")) return; // somebody types or chooses
  if (key === "h") return document.body.classList.add("plain");
  if (key.startsWith("Arrow")) {
    event.preventDefault();
    move(key);
    return;
  }
  const kind = { a: "accept", r: "reject", u: "restore", c: "comment" }[key], article = chosen();
  if (!kind || event.repeat || !article?.contains(document.activeElement)) return;
  event.preventDefault();
  if (!("seen" in article.dataset)) return; // it was chosen just now: nobody has looked at it yet
  act(Number(article.dataset.answer), kind);
  if (kind !== "comment") move("ArrowRight");
});
addEventListener("keyup", ({ key }) => key === "h" && document.body.classList.remove("plain"));
addEventListener("blur", () => document.body.classList.remove("plain"));
$("name").addEventListener("change", () => localStorage.setItem("fewmask/name", $("name").value.normalize("NFC").trim()));
$("filters").addEventListener("change", ({ target }) => target !== $("opacity") && list());
$("filters").addEventListener("submit", (event) => event.preventDefault());
$("opacity").addEventListener("input", () => document.body.style.setProperty("--overlay", $("opacity").value / 100));
$("more").addEventListener("click", more);
new IntersectionObserver((entries) => about && entries.some((e) => e.isIntersecting) && more(), { root: $("scroll"), rootMargin: "600px" }).observe($("more"));
list();
