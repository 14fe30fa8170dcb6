// Where everything meets: the start, the keys, the buttons and the settings.

import { Annotator } from "./annotator.js";
import { TOOLS } from "./paint.js";
import * as panel from "./panel.js";
import { Session } from "./session.js";
import { View } from "./view.js";

const $ = panel.$;
const POLL = 3000;
const TAP = 400; // milliseconds: a shorter space is a confirmation
export const view = new View($("canvas"));

const settings = {
  name: localStorage.getItem("fewmask/name") ?? "",
  safe: localStorage.getItem("fewmask/safe") === "true",
  names: localStorage.getItem("fewmask/names") !== "false",
  every: localStorage.getItem("fewmask/every") === "true",
};

export let annotator = null;

async function start() {
  panel.fillKeys();
  let session;
  try {
    session = await Session.open();
  } catch (error) {
    panel.notice(`The page cannot be shown: ${error.message}`, ["Try again", () => location.reload()]);
    return;
  }
  $("run").textContent = document.title = session.about.run;
  view.named = settings.names;
  annotator = new Annotator(session, view, settings);
  panel.showTools("whole", (name) => annotator.tool(name));
  if (!settings.name) {
    settings.name = session.about.annotator;
    openSettings();
  }
  listen();
  await annotator.start();
  setInterval(() => document.hidden || annotator.poll(), POLL);
}

// ── Actions ──

const ACTIONS = {
  confirm: () => annotator.answer(true),
  partial: () => annotator.answer(false),
  skip: () => annotator.skip(),
  next: () => annotator.forward(),
  back: () => annotator.back(),
  undo: () => annotator.undo(),
  redo: () => annotator.redo(),
  fit: () => view.bitmap && view.fit(),
  "zoom-in": () => view.zoom(1.4),
  "zoom-out": () => view.zoom(1 / 1.4),
};

function opacity(value) {
  $("opacity").value = value;
  view.opacity = $("opacity").value / 100;
  view.ask();
}

function width(value) {
  $("size").value = value;
  annotator.painter.width = Number($("size").value);
  $("width").textContent = `${$("size").value} px`;
  view.ask();
}

function openSettings() {
  $("name").value = settings.name;
  $("safe").checked = settings.safe;
  $("names").checked = settings.names;
  $("every").checked = settings.every;
  $("options").showModal();
}

function closeSettings() {
  const before = settings.name;
  settings.name = $("name").value.trim() || settings.name;
  for (const id of ["safe", "names", "every"]) settings[id] = $(id).checked;
  for (const [key, value] of Object.entries(settings)) localStorage.setItem(`fewmask/${key}`, value);
  view.named = settings.names;
  if (settings.name === before) annotator.redress();
  else annotator.renamed();
  view.canvas.focus();
}

// ── Keys ──

let spaceSince = 0;

function keyDown(event) {
  annotator.clock.beat();
  if (document.querySelector("dialog[open]")) return;
  const { key, target } = event, control = event.ctrlKey || event.metaKey;
  if (control && key.toLowerCase() === "z") return done(event, event.shiftKey ? ACTIONS.redo : ACTIONS.undo);
  if (control && key.toLowerCase() === "y") return done(event, ACTIONS.redo);
  if (control || event.altKey) return;
  // Whoever walks through the controls by Tab uses them by Enter, Space and arrows.
  const onControl = target.closest?.("button, input");
  if (onControl && ["Enter", " ", "ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Home", "End"].includes(key)) return;
  if (key === " ") {
    event.preventDefault();
    if (!event.repeat) {
      spaceSince = event.timeStamp;
      annotator.painter.moved = false;
      annotator.painter.space = true;
      view.canvas.classList.add("moving");
    }
    return;
  }
  if (key === "h") {
    view.opacity = 0;
    view.ask();
    return;
  }
  const action = {
    Enter: event.shiftKey ? ACTIONS.partial : ACTIONS.confirm,
    x: ACTIONS.skip,
    ArrowLeft: ACTIONS.back,
    ArrowRight: ACTIONS.next,
    Escape: () => annotator.painter.drop(),
    Backspace: () => annotator.painter.shorten(),
    Home: ACTIONS.fit,
    "+": ACTIONS["zoom-in"],
    "=": ACTIONS["zoom-in"],
    "-": ACTIONS["zoom-out"],
    "[": () => width(annotator.painter.width - Math.max(1, Math.round(annotator.painter.width / 6))),
    "]": () => width(annotator.painter.width + Math.max(1, Math.round(annotator.painter.width / 6))),
    ",": () => opacity(Number($("opacity").value) - 10),
    ".": () => opacity(Number($("opacity").value) + 10),
    "?": () => $("keys").showModal(),
  }[key];
  const tool = TOOLS.find((t) => t.key === key);
  if (event.repeat && !["[", "]", "+", "-", "=", ",", ".", "Backspace"].includes(key)) return;
  if (action) done(event, action);
  else if (tool && annotator.region && !annotator.point) done(event, () => annotator.tool(tool.name));
  else if (annotator.key(key)) event.preventDefault();
}

function keyUp(event) {
  if (event.key === "h") opacity($("opacity").value);
  if (event.key !== " " || !annotator.painter.space) return;
  annotator.painter.space = false;
  view.canvas.classList.remove("moving");
  if (!annotator.painter.moved && event.timeStamp - spaceSince < TAP) ACTIONS.confirm();
}

function done(event, action) {
  event.preventDefault();
  action();
}

function listen() {
  addEventListener("keydown", keyDown);
  addEventListener("keyup", keyUp);
  addEventListener("blur", () => {
    annotator.painter.space = false;
    view.canvas.classList.remove("moving");
    opacity($("opacity").value);
  });
  for (const kind of ["pointerdown", "pointermove", "wheel"]) addEventListener(kind, () => annotator.clock.beat(), { passive: true });
  document.addEventListener("visibilitychange", () => {
    annotator.clock.hide(document.hidden);
    if (!document.hidden) annotator.poll();
  });
  for (const button of document.querySelectorAll("[data-do]")) button.addEventListener("click", ACTIONS[button.dataset.do]);
  // A pointer leaves the keys to the image; who came by Tab stays on the control.
  addEventListener("click", (e) => e.detail > 0 && !document.querySelector("dialog[open]") && e.target.closest("button") && view.canvas.focus());
  $("opacity").addEventListener("input", () => opacity($("opacity").value));
  $("opacity").addEventListener("pointerup", () => view.canvas.focus());
  $("size").addEventListener("input", () => width($("size").value));
  $("size").addEventListener("pointerup", () => view.canvas.focus());
  $("help").addEventListener("click", () => $("keys").showModal());
  $("settings").addEventListener("click", openSettings);
  $("options").addEventListener("close", closeSettings);
  addEventListener("storage", (e) => e.key?.startsWith(annotator.outbox.prefix) && annotator.poll());
  addEventListener("online", () => annotator.outbox.flush());
  addEventListener("beforeunload", (e) => annotator.outbox.waiting.size && e.preventDefault());
  width(8);
  opacity(55);
}

start();
