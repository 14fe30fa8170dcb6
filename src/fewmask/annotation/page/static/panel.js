// Everything around the canvas. Names come from datasets and people, so they are inserted as text and never as markup.

import { keyOf } from "./looks.js";
import { UNDECIDED, VOID } from "./region.js";

export const $ = (id) => document.getElementById(id);

export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const percent = (part) => (part > 0 && part < 0.01 ? "<1 %" : `${Math.round(100 * part)} %`);
const number = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

function shortcut(key) {
  return key.length === 1 && key >= "A" && key <= "Z" ? `Shift+${key}` : key.toUpperCase();
}

// ── Classes and tools ──

const FIND = 12; // with more classes than this the page has a search field

// `likely` holds the classes that come first and have the keys 1 to 9. It is null where each class has its own key.
export function showClasses(looks, point, chosen, likely, locks, choose) {
  const names = [...looks.names.keys()], order = likely ? [...likely, ...names.filter((value) => !likely.includes(value))] : names;
  const button = (value) => {
    const key = keyOf(value, likely), swatch = looks.swatch(value);
    const text = make("span", { class: "name" }, value === UNDECIDED ? "erase" : looks.name(value));
    const element = make("button", { type: "button", "data-value": value, title: looks.name(value) }, swatch, text);
    if (looks.guided?.has(value)) {
      element.classList.add("guided");
      element.append(make("span", { class: "unseen" }, "with a guideline"));
    }
    if (locks[value]) element.append(make("span", { class: "locked", title: "locked" }, drawn(LOCK), make("span", { class: "unseen" }, "locked")));
    if (key) {
      element.append(make("kbd", { "aria-hidden": "true" }, key));
      element.setAttribute("aria-keyshortcuts", shortcut(key));
    }
    if (!point) element.setAttribute("aria-pressed", String(value === chosen));
    element.addEventListener("click", (event) => choose(value, event));
    return element;
  };
  $("ask").textContent = point ? "Which class is the marked pixel?" : "Class";
  $("list").classList.toggle("many", names.length > 7);
  $("list").replaceChildren(...order.map(button));
  $("always").replaceChildren(...[VOID, ...(point ? [] : [UNDECIDED])].map(button));
  $("search").hidden = names.length <= FIND;
  if ($("search").hidden) $("find").value = "";
  findClass();
}

// Shows the classes whose names contain the query. Returns the first of them, or undefined.
export function findClass() {
  const query = $("find").value.trim().toLowerCase();
  const buttons = [...$("list").children];
  for (const button of buttons) button.hidden = !button.title.toLowerCase().includes(query);
  const matches = buttons.filter((button) => !button.hidden);
  $("none").hidden = matches.length > 0;
  return query ? (matches.find((button) => button.title.toLowerCase() === query) ?? matches[0]) : undefined;
}

export function markClass(value) {
  for (const button of document.querySelectorAll("#classes button[data-value]")) {
    if (button.hasAttribute("aria-pressed")) button.setAttribute("aria-pressed", String(Number(button.dataset.value) === value));
  }
}

export function markAutomatic(automatic) {
  $("automatic").setAttribute("aria-pressed", String(automatic));
}

export function markLock(locked) {
  $("lock").setAttribute("aria-pressed", String(Boolean(locked)));
}

export function showTools(tools, chosen, choose) {
  $("toolbar").replaceChildren(
    ...tools.map(({ name, title, key, icon }) => {
      const button = make("button", { type: "button", role: "radio", "data-tool": name, title: `${title} (${key})`, "aria-label": title, "aria-keyshortcuts": key.toUpperCase() });
      button.append(drawn(icon), make("kbd", { "aria-hidden": "true" }, key));
      button.addEventListener("click", () => choose(name));
      return button;
    }),
  );
  markTool(chosen);
}

const LOCK = "M4 7h8v7H4zM5.500 7V5a2.500 2.500 0 0 1 5 0v2";

function drawn(outline) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  svg.setAttribute("viewBox", "0 0 16 16");
  svg.setAttribute("aria-hidden", "true");
  path.setAttribute("d", outline);
  svg.append(path);
  return svg;
}

export function markTool(chosen) {
  for (const button of $("toolbar").children) button.setAttribute("aria-checked", String(button.dataset.tool === chosen));
  $("sizes").hidden = chosen !== "brush";
  $("reaches").hidden = chosen !== "smart";
}

export function showReach(reach) {
  $("reach").value = reach;
}

// ── The question ──

// `guess` is undefined while it is computed, null where there is none, and an Error where it failed.
export function showGuess(guess, region, looks) {
  const rows = [];
  if (guess === undefined) rows.push(make("p", { class: "faint" }, "is being computed …"));
  else if (guess instanceof Error) rows.push(make("p", { class: "faint" }, `none: ${guess.message}`));
  else if (guess === null) rows.push(make("p", { class: "faint" }, "none: nothing is trained yet"));
  else {
    const shares = share(guess.values).slice(0, 3);
    for (const [value, part] of shares) {
      rows.push(make("p", { class: "expected" }, looks.swatch(value), make("span", { class: "name" }, looks.name(value)), region.size > 1 && guess.confidence !== null ? percent(part) : ""));
    }
    if (guess.confidence !== null) {
      rows.push(make("p", { class: "sure" }, make("meter", { min: 0, max: 1, value: guess.confidence, "aria-hidden": "true" }), `${percent(guess.confidence)} sure`));
    }
  }
  $("expected").replaceChildren(...rows);
}

// The values of the guess with their shares, the largest first: [[value, part], …].
export function share(values) {
  const counts = new Map();
  for (const value of values) if (value !== UNDECIDED) counts.set(value, (counts.get(value) ?? 0) + 1);
  const all = [...counts.values()].reduce((a, b) => a + b, 0);
  return [...counts].sort((a, b) => b[1] - a[1]).map(([value, count]) => [value, count / all]);
}

export function guessInWords(guess, looks) {
  if (!guess || guess instanceof Error) return "The model has no guess.";
  const [[value]] = share(guess.values);
  return `The model expects ${looks.name(value)}${guess.confidence === null ? "" : `, ${percent(guess.confidence)} sure`}.`;
}

export function showState({ question, position, of, image, size, answer }) {
  const answered = answer && (answer.kind === "skip" ? " · skipped" : " · answered");
  $("where").textContent = `${position}/${of} · ${question.domain} · ${question.stem} · ${size[1]}×${size[0]}${image}${answered ?? ""}`;
}

export function showPainted(region, point, guess, unsent) {
  const all = region.counts(true), pixels = [...all.values()].reduce((a, b) => a + b, 0);
  const undecided = all.get(UNDECIDED) ?? 0, painted = pixels - undecided;
  const guessed = region.guess !== null && undecided > 0;
  $("state").textContent = point ? "" : !painted ? "" : `${percent(painted / pixels)} painted${undecided ? (guessed ? ", the rest is the guess" : ", the rest is not decided") : ""}`;
  const label = guessed && !painted ? "Confirm guess" : guessed ? "Save with guess" : painted ? (unsent ? "Save" : "Keep") : "Confirm";
  $("confirm").firstChild.textContent = `${label} `;
  $("confirm").disabled = guess === undefined ? !painted : !painted && !guessed;
  $("partial").hidden = point || !painted || !guessed;
}

// `open` counts the questions that wait for this annotator, `others` those that this annotator answered and that wait
// for others.
export function showProgress({ answered, skipped, open, others, cost, answers, unit, seconds, clicks }) {
  const all = answered + skipped + open;
  $("bar").style.width = `${all ? (100 * (answered + skipped)) / all : 0}%`;
  $("progress").setAttribute("aria-valuemax", all);
  $("progress").setAttribute("aria-valuenow", answered + skipped);
  const each = answers ? seconds / answers : 0;
  const parts = [`${number.format(answered + skipped)} of ${number.format(all)}`];
  if (open) parts.push(`${number.format(cost)} ${cost === 1 ? unit.slice(0, -1) : unit} left${each ? `, about ${time(each * open)}` : ""}`);
  $("counts").textContent = parts.join(" · ");
  $("counts").title = `${answered} answered, ${skipped} skipped, ${open} open${others ? `, ${others} waiting for others` : ""}; ${time(seconds)} of work and ${number.format(clicks)} clicks so far`;
}

function time(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

// `others` counts the questions that wait for other annotators, `held` those that others look at now. `command` goes on
// with the run.
export function showEnd(others, held, command, watched) {
  const sentences = [
    ["You have answered all your questions."],
    others && [`${questions(others, "waits", "wait")} for other annotators.`],
    held && [`${questions(held, "is", "are")} shown to other annotators now; questions that they leave come here by themselves.`],
    ["The answers are in the run's ledger."],
  ];
  $("waiting").hidden = !others && !held;
  $("finished").hidden = Boolean(others || held);
  $("waiting").textContent = sentences.filter(Boolean).flat().join(" ");
  showNext(command, watched);
}

// Says who goes on: a process that watches the run, or a command.
export function showNext(command, watched) {
  $("command").textContent = command;
  $("then").hidden = watched;
  $("watched").hidden = !watched;
}

function questions(count, singular, plural) {
  return count === 1 ? `1 question ${singular}` : `${number.format(count)} questions ${plural}`;
}

export function showSaved(waiting, failing) {
  const text = !waiting ? "All saved" : failing ? `${waiting} not saved yet: no server. Trying again` : "Saving …";
  if ($("saved").textContent !== text) $("saved").textContent = text;
  $("saved").dataset.state = !waiting ? "saved" : failing ? "unsaved" : "waiting";
}

export function notice(text, ...buttons) {
  $("notice").hidden = !text;
  $("notice").replaceChildren(text ?? "", ...buttons.map(([label, act]) => {
    const button = make("button", { type: "button" }, label);
    button.addEventListener("click", (event) => act(event));
    return button;
  }));
}

// ── Help ──

const KEYS = [
  ["Answer", [
    ["↵ or Space", "confirm: what is painted, and the guess for the rest"],
    ["⇧ ↵", "save only what is painted; the rest stays not labelled"],
    ["1 … 9, 0, letters", "choose a class, as on its button; of a marked pixel it is the answer"],
    ["a", "automatic class: the page chooses it by the network; a class's key then corrects what was just painted"],
    ["the same key again", "give the whole region that class"],
    ["!", "the guideline of the chosen class; a class's key leads to that class, and ! closes the guidelines"],
    ["/", "search a class; Enter chooses the first one found"],
    ["v", "void: none of the classes"],
    ["e", "erase: the guess shows again"],
    ["x", "skip; where something is painted it asks first"],
    ["← →", "back, next, without an answer"],
  ]],
  ["Paint", [
    ["r w s b p f", "whole region, smart select, superpixel, brush, polygon, fill what hangs together"],
    ["[ ]", "width of the brush, reach of smart select"],
    ["wheel", "smart select: wider, narrower; with Ctrl it zooms"],
    ["right click, or ⇧ and a click", "smart select: take this away from the last selection"],
    ["drag", "smart select: what is in a box; superpixel: all that the pointer passes"],
    ["↵, double click, or the ring", "close the polygon, and save nothing; Backspace removes a corner, Esc gives it up"],
    ["Esc", "cancel a selection that is being computed, or the polygon"],
    ["⇧ and a click", "brush: a straight line from where the last stroke ended"],
    ["; or Alt and a click", "choose the class below the pointer"],
    ["Ctrl+Z, Ctrl+⇧+Z", "undo, redo without end; undo with nothing painted takes the last answer back, also after a restart"],
  ]],
  ["Look", [
    ["wheel, pinch, + −", "zoom"],
    ["Space or right button, and drag", "move the image; on a tablet with two fingers"],
    ["Home", "the region, or the whole image"],
    ["h", "hide the overlay, and light what is dimmed, while the key is held"],
    [", .", "overlay weaker, stronger"],
    ["?", "this list"],
  ]],
];

export function fillKeys() {
  $("key-list").replaceChildren(
    ...KEYS.map(([title, rows]) => {
      const table = make("table", {}, make("caption", {}, title));
      for (const [keys, description] of rows) table.append(make("tr", {}, make("th", { scope: "row" }, keys), make("td", {}, description)));
      return table;
    }),
  );
}
