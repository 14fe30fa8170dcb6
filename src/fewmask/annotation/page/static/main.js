// Starts the page and connects its keys, buttons and settings.

import { Annotator } from "./annotator.js";
import { Guidelines } from "./guidelines.js";
import { COLOURS, stored } from "./looks.js";
import { TOOLS } from "./paint.js";
import * as panel from "./panel.js";
import { Session } from "./session.js";
import { View } from "./view.js";

const $ = panel.$;
const POLL = 3000;
const DIM = 0.48;
const TAP = 400; // milliseconds: a shorter space is a confirmation
export const view = new View($("canvas"));

const CHOICES = { ...COLOURS, neighbours: true, names: true, every: false };
const settings = { name: localStorage.getItem("fewmask/name") ?? "" };
for (const [name, fallback] of Object.entries(CHOICES)) settings[name] = stored(name, fallback);

// The controls that are kept over a reload, by their ids, with their defaults.
const LIGHT = ["brightness", "contrast", "gamma"];
const KEPT = { opacity: 55, size: 8, brightness: 0, contrast: 0, gamma: 0 };
const CHECKS = { dimmed: true, outlines: false, smooth: false };

export let annotator = null;
const guidelines = new Guidelines();
let tools = []; // the tools that this run has

async function start() {
  panel.fillKeys();
  const read = readGuidelines();
  let session;
  try {
    session = await Session.open();
  } catch (error) {
    panel.notice(`The page cannot be shown: ${error.message}`, ["Try again", () => location.reload()]);
    return;
  }
  $("run").textContent = document.title = session.about.run;
  view.named = settings.names;
  // By a link of one's own, the name is the link's. The browser's own name stays for other links.
  if (session.about.named) settings.name = session.about.annotator;
  $("name").readOnly = session.about.named;
  annotator = new Annotator(session, view, settings, guidelines);
  tools = TOOLS.filter(({ name }) => name !== "smart" || session.about.selects);
  const tool = tools.find((t) => t.name === localStorage.getItem("fewmask/tool"))?.name ?? "whole";
  annotator.painter.choose(tool);
  panel.showTools(tools, tool, (name) => useTool(name));
  $("automatic").hidden = !session.about.learns;
  annotator.setAutomatic(stored("automatic", false));
  if (!settings.name) {
    settings.name = session.about.annotator;
    openSettings();
  }
  listen();
  await read;
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
  lock: () => annotator.lock(),
  automatic: () => {
    annotator.toggleAutomatic();
    keep("automatic", annotator.automatic);
  },
  plain: () => {
    for (const id of LIGHT) $(id).value = KEPT[id];
    for (const [id, checked] of Object.entries(CHECKS)) $(id).checked = checked;
    applyLight();
  },
};

function useTool(name) {
  annotator.tool(name);
  keep("tool", name);
}

function keep(name, value) {
  try {
    localStorage.setItem(`fewmask/${name}`, value);
  } catch {
    // The storage is full or forbidden: the value lasts as long as the page.
  }
}

// Applies the controls of the image.
function applyLight() {
  for (const id of LIGHT) keep(id, (view.light[id] = Number($(id).value)));
  for (const id of Object.keys(CHECKS)) keep(id, $(id).checked);
  view.dim = $("dimmed").checked ? DIM : 0;
  view.smooth = $("smooth").checked;
  view.layer.outlines = $("outlines").checked;
  view.relight();
  view.paint();
}

function opacity(value) {
  $("opacity").value = value;
  view.opacity = $("opacity").value / 100;
  view.dim = $("dimmed").checked ? DIM : 0;
  view.requestDraw();
  keep("opacity", $("opacity").value);
}

function width(value) {
  $("size").value = value;
  annotator.painter.width = Number($("size").value);
  $("width").textContent = `${$("size").value} px`;
  view.requestDraw();
  keep("size", $("size").value);
}

function wider(by) {
  const { painter } = annotator;
  if (annotator.selects) painter.widen(by);
  else width(painter.width + by * Math.max(1, Math.round(painter.width / 6)));
}

// Reads the guidelines again. Returns the error where that fails: the team may be writing them.
async function readGuidelines() {
  const error = await guidelines.read().catch((reason) => reason);
  $("guide").hidden = !error && guidelines.empty;
  return error;
}

async function openGuidelines() {
  if ($("guide").hidden || !annotator.region) return;
  const error = await readGuidelines();
  if (error) panel.notice(`The guidelines cannot be shown: ${error.message}`);
  if (error || guidelines.empty || !annotator.region || document.querySelector("dialog[open]")) return;
  annotator.refreshLooks();
  $("rules").replaceChildren(...guidelines.draw({ [annotator.looks.domain]: annotator.looks }, 3, annotator.looks.domain));
  $("guidelines").showModal();
  $("rules").focus();
  showGuideline(annotator.value ?? annotator.likeliest);
}

function showGuideline(value) {
  const section = guidelines.about(annotator.looks.domain, value);
  for (const node of $("rules").children) {
    const isIt = section !== undefined && node.dataset.title === section.title;
    node.classList.toggle("chosen", isIt);
    if (isIt) node.scrollIntoView({ block: "start" });
  }
}

function guidelineKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const value = annotator.classOfKey(event.key);
  if (event.key === "!") $("guidelines").close();
  else if (value !== undefined) showGuideline(value);
  else return;
  event.preventDefault();
  event.stopPropagation(); // once the dialog is closed, the page would open it again by the same key
}

function openSettings() {
  $("name").value = settings.name;
  for (const id of Object.keys(CHOICES)) $(id).checked = settings[id];
  $("options").showModal();
}

function closeSettings() {
  const before = settings.name;
  const { named } = annotator.session.about;
  if (!named) settings.name = $("name").value.normalize("NFC").trim() || settings.name;
  for (const id of Object.keys(CHOICES)) settings[id] = $(id).checked;
  for (const [key, value] of Object.entries(settings)) if (key !== "name" || !named) keep(key, value);
  view.named = settings.names;
  if (settings.name === before) annotator.refreshLooks();
  else annotator.renamed(before);
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
  if (target.matches?.('input:not([type="range"], [type="checkbox"])')) return; // somebody types
  // A control that was reached by Tab is used by Enter, Space and arrows. A key that is held down acts once.
  const onControl = target.closest?.("button, input, select");
  if (onControl && ["Enter", " ", "ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Home", "End"].includes(key)) {
    if (event.repeat && ["Enter", " "].includes(key)) event.preventDefault();
    return;
  }
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
    view.opacity = view.dim = 0;
    view.requestDraw();
    return;
  }
  const action = {
    Enter: event.shiftKey ? ACTIONS.partial : ACTIONS.confirm,
    x: ACTIONS.skip,
    a: ACTIONS.automatic,
    ArrowLeft: ACTIONS.back,
    ArrowRight: ACTIONS.next,
    Escape: () => annotator.cancel(),
    ";": () => annotator.painter.pick(),
    Backspace: () => annotator.painter.shorten(),
    Home: ACTIONS.fit,
    "+": ACTIONS["zoom-in"],
    "=": ACTIONS["zoom-in"],
    "-": ACTIONS["zoom-out"],
    "[": () => wider(-1),
    "]": () => wider(1),
    ",": () => opacity(Number($("opacity").value) - 10),
    ".": () => opacity(Number($("opacity").value) + 10),
    "?": () => $("keys").showModal(),
    "!": openGuidelines,
    "/": () => $("search").hidden || $("find").focus(),
  }[key];
  const tool = tools.find((t) => t.key === key);
  if (event.repeat && !["[", "]", "+", "-", "=", ",", ".", "Backspace"].includes(key)) return;
  if (action) done(event, action);
  else if (tool && annotator.region && !annotator.point) done(event, () => useTool(tool.name));
  else if (annotator.act(() => annotator.key(key), event)) event.preventDefault();
}

function keyUp(event) {
  if (event.key === "h") opacity($("opacity").value);
  if (event.key !== " " || !annotator.painter.space) return;
  annotator.painter.space = false;
  view.canvas.classList.remove("moving");
  if (!annotator.painter.moved && event.timeStamp - spaceSince < TAP) done(event, ACTIONS.confirm);
}

function done(event, action) {
  event.preventDefault();
  annotator.act(action, event);
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
  for (const button of document.querySelectorAll("[data-do]")) button.addEventListener("click", (e) => annotator.act(ACTIONS[button.dataset.do], e));
  // After a click of the pointer the image has the focus; after Tab the control keeps it.
  addEventListener("click", (e) => e.detail > 0 && !document.querySelector("dialog[open]") && e.target.closest("button") && view.canvas.focus());
  $("opacity").addEventListener("input", () => opacity($("opacity").value));
  $("opacity").addEventListener("pointerup", () => view.canvas.focus());
  $("size").addEventListener("input", () => width($("size").value));
  $("size").addEventListener("pointerup", () => view.canvas.focus());
  $("reach").addEventListener("input", () => annotator.painter.reachTo(Number($("reach").value)));
  $("reach").addEventListener("pointerup", () => view.canvas.focus());
  $("help").addEventListener("click", () => $("keys").showModal());
  $("guide").addEventListener("click", openGuidelines);
  $("guidelines").addEventListener("keydown", guidelineKey);
  $("guidelines").addEventListener("close", () => view.canvas.focus());
  $("settings").addEventListener("click", openSettings);
  $("options").addEventListener("close", closeSettings);
  addEventListener("storage", (e) => e.key?.startsWith(annotator.outbox.prefix) && annotator.poll());
  addEventListener("online", () => annotator.outbox.flush());
  addEventListener("beforeunload", (e) => (annotator.outbox.waiting.size || annotator.unsaved) && e.preventDefault());
  addEventListener("pagehide", () => annotator.session.lease(annotator.me, null, true));
  addEventListener("pageshow", (e) => e.persisted && annotator.poll());
  for (const id of [...LIGHT, ...Object.keys(CHECKS)]) $(id).addEventListener("input", applyLight);
  $("find").addEventListener("input", panel.findClass);
  $("find").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== "Escape") return;
    const button = event.key === "Enter" ? panel.findClass() : undefined;
    $("find").value = "";
    panel.findClass();
    view.canvas.focus();
    if (button) annotator.act(() => annotator.choose(Number(button.dataset.value)), event);
    event.preventDefault();
    event.stopPropagation();
  });
  for (const id of Object.keys(KEPT)) $(id).value = localStorage.getItem(`fewmask/${id}`) ?? KEPT[id];
  for (const [id, checked] of Object.entries(CHECKS)) $(id).checked = stored(id, checked);
  width($("size").value);
  opacity($("opacity").value);
  applyLight();
}

start();
