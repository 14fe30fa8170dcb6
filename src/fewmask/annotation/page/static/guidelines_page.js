// The page of the class guidelines.

import { Guidelines } from "./guidelines.js";
import { looksOf } from "./looks.js";
import { $ } from "./panel.js";

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
  $("contents").replaceChildren(...guidelines.contents());
  $("contents").parentElement.hidden = !guidelines.data.sections.length;
  $("rules").replaceChildren(...guidelines.draw(looksOf(domains), 2));
  $("none").hidden = !guidelines.empty;
  $("rules").dataset.shown = "";
  if (location.hash) document.getElementById(location.hash.slice(1))?.scrollIntoView();
}

show();
