"""Measure the labelling page in a real browser: the time to its first question, from one question to the next, for a
move of the brush, and for a click of smart select.

    python benchmarks/page.py [--questions 30] [--think 2]

The images are JPEGs of 2048×1024 with one question each, so every next question is in another image, which is the
slowest case. There is a pause between two answers. In it the page fetches the next questions, and a network of random
weights computes guesses on the same cores. Times are taken in the page: from the key's event, or from the start
of the navigation, to the frame after the one in which image, outline and guess were drawn.

A brush is then moved over a region as large as its image. A move takes from the first event of a frame to the end of
that frame's work in the page: painting, drawing, and handing it to the browser. A click of smart select takes from the
request for a place without a hover before to the frame in which its area is painted, after the image's features were
computed. It is measured in a square of 128 pixels and in the region as large as its image.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import uvicorn
from playwright.sync_api import Browser, Page, sync_playwright

from fewmask.acquisition.regions import parse_regions
from fewmask.annotation.ledger import Ledger
from fewmask.annotation.page.guesses import Guesses
from fewmask.annotation.page.learning import Learner
from fewmask.annotation.page.listener import bind_listener, link
from fewmask.annotation.page.server import create_app
from fewmask.annotation.page.service import LabellingService, Run
from fewmask.annotation.page.smart_select import ByFeatures
from fewmask.annotation.questions import Question
from fewmask.config import ModelSettings
from fewmask.data import scenes
from fewmask.data.domain import Domain, FileSource
from fewmask.data.pictures import write_image
from fewmask.engine.guess import predictor
from fewmask.engine.run import save_model
from fewmask.models.universal import UniversalSegmenter
from fewmask.runs import RunFolder

SIZE = 1024, 2048
REGIONS = "squares:128"
SQUARE = 128, 128
TARGET = 150
# The times when a question and its guess are shown, in milliseconds since the last Enter, or since the navigation.
WATCH = """() => {
  window.since = 0;
  window.times = { shown: [], guessed: [] };
  addEventListener("keydown", (e) => { if (e.key === "Enter") window.since = e.timeStamp; }, true);
  new MutationObserver((changes) => {
    for (const { attributeName } of changes) {
      const what = attributeName.slice(5);
      requestAnimationFrame(() => window.times[what].push(performance.now() - window.since));
    }
  }).observe(document.querySelector("#canvas"), { attributeFilter: ["data-shown", "data-guessed"] });
}"""


def data(root: Path, images: int) -> Domain:
    """Procedural streets, enlarged and with noise, as JPEG files of about 1 MB."""
    rng, space, files = np.random.default_rng(0), scenes.space("streets"), dict[str, Path]()
    for i in range(images):
        small, _ = scenes.render("streets", 0, i, (SIZE[0] // 4, SIZE[1] // 4))
        large = cv2.resize(small, SIZE[::-1], interpolation=cv2.INTER_CUBIC).astype(np.int16)
        noisy = np.clip(large + rng.integers(-9, 10, large.shape, np.int16), 0, 255).astype(np.uint8)
        path = files[f"{i:03d}"] = root / f"{i:03d}.jpg"
        write_image(path, noisy)
    return Domain("streets", space, FileSource(root, files, {}, space), {"train": tuple(files)}, ())


def ask(path: Path, domain: Domain, kind: str = REGIONS, region: int = 70) -> None:
    box = parse_regions(kind).tile(np.zeros((*SIZE, 3), np.uint8)).box(region)
    with Ledger(path) as ledger:
        ledger.add_images(domain, domain.splits["train"])
        ledger.ask(0, [Question(domain.name, stem, kind, region, box) for stem in domain.splits["train"]])


@contextmanager
def served(folder: Path, domain: Domain, guesses: Path) -> Iterator[str]:
    """A server without caches."""
    who = predictor(folder)
    assert who is not None
    assert who.encode is not None and who.head is not None
    run, selector = Run("benchmark", folder / "ledger.sqlite", {domain.name: domain}, "regions"), ByFeatures(who.encode)
    service = LabellingService(run, Guesses(guesses, who), selector, Learner(selector.features, who.head))
    with tempfile.TemporaryDirectory() as own, bind_listener(Path(own) / "page.json") as (listener, token):
        server = uvicorn.Server(uvicorn.Config(create_app(service, token), log_level="error", ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield link(listener.getsockname()[1], token)
        server.should_exit = True
        thread.join()
        service.close()


def opened(page: Page, address: str) -> dict[str, float]:
    """Open the page. Returns the times until the first question and its guess are shown."""
    page.add_init_script(
        f"localStorage.setItem('fewmask/name', 'bench'); addEventListener('DOMContentLoaded', {WATCH});"
    )
    page.goto(address)
    page.wait_for_function("() => window.times.shown.length && window.times.guessed.length", timeout=120_000)
    return {what: taken[0] for what, taken in page.evaluate("window.times").items()}


def answered(page: Page, questions: int, think: float) -> dict[str, list[float]]:
    """Answer questions with one key each. Returns the times until the next question and its guess are shown."""
    page.evaluate("window.times = { shown: [], guessed: [] }")
    for done in range(1, questions):
        time.sleep(think)
        page.wait_for_selector("#canvas[data-open]")
        page.keyboard.press("Enter")
        page.wait_for_function(f"() => window.times.guessed.length >= {done} && window.times.shown.length >= {done}")
    return page.evaluate("window.times")


# The time for which each frame with a move of the pointer keeps the page busy, in milliseconds.
FRAMES = """() => {
  window.moves = [];
  let begun = 0;
  const channel = new MessageChannel();
  channel.port1.onmessage = ({ data }) => window.moves.push(performance.now() - data);
  addEventListener("pointermove", () => {
    if (begun) return;
    begun = performance.now();
    requestAnimationFrame(() => {
      channel.port2.postMessage(begun);
      begun = 0;
    });
  }, true);
}"""


def stroked(page: Page, moves: int) -> dict[str, Any]:
    """Move a brush across the whole region. Returns the times of the moves and of the stroke."""
    page.wait_for_selector("#canvas[data-open]")
    page.keyboard.press("b")
    page.locator("#size").fill("40")
    page.keyboard.press("2")
    page.evaluate(FRAMES)
    box = page.locator("#canvas").bounding_box()
    assert box is not None
    across = np.linspace(0.05, 0.95, moves)
    places = [(box["x"] + a * box["width"], box["y"] + (0.5 + 0.3 * np.sin(25 * a)) * box["height"]) for a in across]
    page.mouse.move(*places[0])
    page.mouse.down()
    page.evaluate("window.moves = []")
    begun = time.perf_counter()
    for place in places:
        page.mouse.move(*place)
    taken = time.perf_counter() - begun
    page.mouse.up()
    return summary(page.evaluate("window.moves")) | {"moves": moves, "stroke_s": round(taken, 2)}


# The time of smart select for each of some places, in milliseconds, after one click that waits for the features.
SELECT = """async (places) => {
  const { annotator: { painter } } = await import("./static/main.js"), times = [];
  for (const [y, x] of [places[0], ...places]) {
    const begun = performance.now();
    await painter.smart.choose({ points: [{ y, x, belongs: true }], frame: null }, 1);
    await new Promise(requestAnimationFrame);
    times.push(performance.now() - begun);
  }
  return times.slice(1);
}"""


def selected(page: Page, side: tuple[int, int], clicks: int) -> dict[str, float]:
    """Click at places all over a region of this height and width. Returns the times of the clicks."""
    page.wait_for_selector("#canvas[data-open]")
    page.keyboard.press("w")
    page.keyboard.press("2")
    places = np.random.default_rng(0).uniform(0.05, 0.95, (clicks, 2)) * side
    return summary(page.evaluate(SELECT, np.floor(places).tolist()))


def summary(times: list[float]) -> dict[str, float]:
    return {name: round(float(np.percentile(times, q)), 1) for name, q in (("median", 50), ("p95", 95), ("most", 100))}


def questions(browser: Browser, folder: Path, domain: Domain, given: argparse.Namespace) -> dict[str, Any]:
    """The times of the first question and of each following one."""
    first: dict[str, list[float]] = {"shown": [], "guessed": []}
    for number in range(given.opens):
        with served(folder, domain, folder / f"guesses-{number}") as address:
            page = browser.new_page(viewport={"width": 1280, "height": 720})
            for what, taken in opened(page, address).items():
                first[what].append(taken)
            if number + 1 == given.opens:
                following = answered(page, given.questions - 1, given.think)
                clicked = selected(page, SQUARE, given.clicks)
            page.close()
    return {
        "first_question_ms": summary(first["shown"]),
        "first_guess_ms": summary(first["guessed"]),
        "next_question_ms": summary(following["shown"]),
        "next_guess_ms": summary(following["guessed"]),
        "select_in_square_ms": clicked,
        "within_target": bool(np.percentile(following["shown"], 95) <= TARGET),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=30)
    parser.add_argument("--opens", type=int, default=5)
    parser.add_argument("--moves", type=int, default=200, help="The number of moves of the brush.")
    parser.add_argument("--clicks", type=int, default=60, help="The number of clicks of smart select in each region.")
    parser.add_argument("--only-tools", action="store_true", help="Measure the brush and smart select alone.")
    parser.add_argument("--think", type=float, default=2.0, help="Seconds between two answers.")
    given = parser.parse_args()
    browser_path = shutil.which("chromium") or shutil.which("google-chrome")
    if browser_path is None:
        raise SystemExit("no browser: `apt-get install chromium`")
    torch.set_num_threads(max(torch.get_num_threads() - 1, 1))
    with tempfile.TemporaryDirectory() as place, sync_playwright() as driver:
        folder = Path(place)
        domain = data(folder / "data", 1 if given.only_tools else given.questions)
        settings = ModelSettings(encoder="tu-mobilenetv2_050")
        model = UniversalSegmenter(settings, {domain.name: domain.space})
        for name in ("asked", "large"):
            (folder / name).mkdir()
            save_model(RunFolder(folder / name), model)
        ask(folder / "asked" / "ledger.sqlite", domain)
        ask(folder / "large" / "ledger.sqlite", domain, f"squares:{max(SIZE)}", 0)
        browser = driver.chromium.launch(executable_path=browser_path, args=[] if os.geteuid() else ["--no-sandbox"])
        result: dict[str, Any] = {}
        if given.only_tools:
            with served(folder / "asked", domain, folder / "guesses-asked") as address:
                page = browser.new_page(viewport={"width": 1280, "height": 720})
                opened(page, address)
                result["select_in_square_ms"] = selected(page, SQUARE, given.clicks)
        else:
            result = questions(browser, folder / "asked", domain, given)
        with served(folder / "large", domain, folder / "guesses-large") as address:
            page = browser.new_page(viewport={"width": 1280, "height": 720})
            opened(page, address)
            result["brush_move_ms"] = stroked(page, given.moves)
            result["select_in_image_ms"] = selected(page, SIZE, given.clicks)
        browser.close()
    result |= {"threads": torch.get_num_threads(), "load": os.getloadavg()[0]}
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
