// The page of the class guidelines.

import { Guidelines } from "./guidelines.js";
import { Looks } from "./looks.js";
import { $ } from "./panel.js";

const COLOURS = { safe: false, bright: true }; // the settings of the labelling page
const stored = (name, fallback) => (localStorage.getItem(`fewmask/${name}`) ?? String(fallback)) === "true";

async function show() {
  const guidelines = new Guidelines();
  try {
    await guidelines.read();
  } catch (error) {
    $("notice").hidden = false;
    $("notice").textContent = `The guidelines cannot be shown: ${error.message}`;
    return;
  }
  const { run, domains } = guidelines.data;
  $("run").textContent = `${run}: guidelines`;
  document.title = `${run}: guidelines`;
  const settings = Object.fromEntries(Object.entries(COLOURS).map(([name, fallback]) => [name, stored(name, fallback)]));
  const looks = Object.fromEntries(Object.entries(domains).map(([name, space]) => [name, new Looks(space, settings)]));
  $("contents").replaceChildren(...guidelines.contents());
  $("contents").parentElement.hidden = !guidelines.data.sections.length;
  $("rules").replaceChildren(...guidelines.draw(looks, 2));
  $("none").hidden = !guidelines.empty;
  $("rules").dataset.shown = "";
  if (location.hash) document.getElementById(location.hash.slice(1))?.scrollIntoView();
}

show();
