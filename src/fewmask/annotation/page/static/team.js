// The page of the team: who is where, and who has done how much. It reads again every few seconds.

import { getJson } from "./api.js";
import { $, make } from "./panel.js";

const PAUSE = 3000;

const time = (seconds) => `${Math.floor(seconds / 3600)}:${String(Math.floor((seconds % 3600) / 60)).padStart(2, "0")} h`;
const moment = (iso) => (iso === null ? "never" : new Date(iso).toLocaleString());

async function show() {
  try {
    const { run, people } = await getJson("team");
    $("run").textContent = document.title = `${run}: team`;
    const rows = people.map(({ name, answered, skipped, seconds, questions, seen }) =>
      make("tr", {}, make("th", { scope: "row" }, name), ...[answered, skipped, time(seconds), questions.join(", ") || "none", moment(seen)].map((text) => make("td", {}, String(text)))),
    );
    $("people").replaceChildren(...rows);
    $("team").hidden = rows.length === 0;
    $("none").hidden = rows.length > 0;
    $("notice").hidden = true;
  } catch (error) {
    $("notice").hidden = false;
    $("notice").textContent = `The team cannot be shown: ${error.message}`;
  }
  setTimeout(show, PAUSE);
}

show();
