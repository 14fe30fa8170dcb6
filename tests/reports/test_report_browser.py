"""The report page in a real browser, opened from the disk: nothing is asked for, nothing is complained of, and it can
be read in the light, in the dark, on paper, and with the keyboard alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import campaigns
import numpy as np
import pytest
from browsing import violations
from ondisk import config, two_domains

from fewmask.campaigns import campaign
from fewmask.document.html import picture, render
from fewmask.document.maps import heat_map
from fewmask.document.model import Charts, Gallery, Note, Page, Row, Section
from fewmask.engine.fit import train
from fewmask.reports import report

pytestmark = [pytest.mark.slow, pytest.mark.browser]

ASK = {"score": "random", "regions": "squares:16", "budget": {"amount": 700, "unit": "pixels"}}
SCHEMES = ("light", "dark")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    data = two_domains(folder / "data")
    for method in ("joint", "univ-full"):
        train(config(data, method), folder / method)
    settings = campaigns.settings(data, "joint", labelled=1, first=ASK, ask=ASK, target=0.9)
    campaign(settings, folder / "campaign")
    made = {
        "campaign": [folder / "campaign"],
        "methods": [folder / "joint", folder / "univ-full"],
    }
    for name, runs in made.items():
        report(runs, folder / f"{name}.html", device="cpu")
    return {name: folder / f"{name}.html" for name in made}


@pytest.fixture
def opened(browser: Any) -> Iterator[Callable[..., Any]]:
    """A page at a path, in a browser that may say nothing on the console and ask for nothing."""
    wrong: list[str] = []
    contexts = []

    def open_(path: Path, **options: Any) -> Any:
        context = browser.new_context(**options)
        contexts.append(context)
        context.on("request", lambda r: wrong.append(r.url) if not r.url.startswith(("file:", "data:")) else None)
        context.on("console", lambda message: wrong.append(message.text))
        context.on("weberror", lambda error: wrong.append(str(error.error)))
        context.on("dialog", lambda dialog: wrong.append(dialog.message))
        page = context.new_page()
        requests: list[str] = []
        page.on("request", lambda r: requests.append(r.url) if r.url.startswith("file:") else None)
        page.goto(path.as_uri())
        assert requests == [path.as_uri()]
        return page

    yield open_
    for context in contexts:
        context.close()
    assert wrong == []


@pytest.mark.parametrize("name", ["campaign", "methods"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_it_opens_from_the_disk_and_can_be_read(
    name: str, scheme: str, pages: dict[str, Path], opened: Callable[..., Any]
) -> None:
    assert pages[name].stat().st_size < 10 * 2**20
    page = opened(pages[name], color_scheme=scheme, viewport={"width": 1280, "height": 900})
    assert page.evaluate("document.images.length") > 5
    assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth && i.alt)")
    assert page.evaluate("[...document.querySelectorAll('svg[role=img]')].every(s => s.querySelector('title, desc'))")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert _contrast(page) == []
    assert violations(page) == []


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_number_of_a_heat_map_can_be_read(scheme: str, tmp_path: Path, opened: Callable[..., Any]) -> None:
    names = list("abcdefghij")
    charts = [
        heat_map("t", names, names, [[sign * (10 * i + j + 1) / 100 for j in range(10)] for i in range(10)], "x", "y",
                 description="d", format_value=str, diverging=sign < 0)
        for sign in (1, -1)
    ]  # fmt: skip
    path = tmp_path / "page.html"
    path.write_text(render(Page("p", "p", [Section("one", "one", [Charts(charts)])])), encoding="utf-8")
    page = opened(path, color_scheme=scheme)
    assert page.evaluate("document.querySelectorAll('.in').length") == 200
    assert _contrast(page) == []


@pytest.mark.parametrize("name", ["campaign", "methods"])
@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (390, "dark"), (800, "light"), (1920, "light")])
def test_no_screen_is_too_narrow(
    name: str, width: int, scheme: str, pages: dict[str, Path], opened: Callable[..., Any]
) -> None:
    page = opened(pages[name], color_scheme=scheme, viewport={"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert violations(page) == []
    smallest = page.evaluate("""() => Math.min(...[...document.querySelectorAll('svg[role=img] text')].map(e =>
        parseFloat(getComputedStyle(e).fontSize) * e.ownerSVGElement.getScreenCTM().a))""")
    assert smallest >= 10.99


def test_images_are_chosen_by_class_and_sorted_by_error(tmp_path: Path, opened: Callable[..., Any]) -> None:
    image = picture(np.zeros((4, 4, 3), np.uint8), "nothing")
    rows = [Row("b", [image], ["sky"], 0.2), Row("c", [image], ["sky", "<b>"], 0.1), Row("a", [image], ["<b>"], 0.3)]
    path = tmp_path / "page.html"
    path.write_text(render(Page("p", "p", [Section("one", "one", [Gallery("g", rows)])])), encoding="utf-8")
    page = opened(path)
    script = """() => [...document.querySelectorAll('.row')].filter(r => r.checkVisibility())
        .sort((x, y) => x.getBoundingClientRect().top - y.getBoundingClientRect().top).map(r => r.innerText.trim())"""
    assert page.evaluate(script) == ["a", "b", "c"]
    page.get_by_label("Order").select_option("least error first")
    assert page.evaluate(script) == ["c", "b", "a"]
    page.get_by_label("Images that show").select_option("<b>")
    assert page.evaluate(script) == ["c", "a"]
    page.get_by_label("Order").select_option("by name")
    page.get_by_label("Images that show").select_option("sky")
    assert page.evaluate(script) == ["b", "c"]


def test_the_colours_can_be_chosen(pages: dict[str, Path], opened: Callable[..., Any]) -> None:
    page = opened(pages["campaign"], color_scheme="light")
    paper = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(paper)
    page.check("#dark")
    dark = page.evaluate(paper)
    page.check("#light")
    assert dark != light == page.evaluate(paper)
    page.check("#dark")
    page.emulate_media(media="print")
    assert page.evaluate(paper) == "rgb(255, 255, 255)"


def test_it_goes_to_paper(pages: dict[str, Path], opened: Callable[..., Any]) -> None:
    page = opened(pages["campaign"], color_scheme="dark")
    printed = page.pdf(format="A4", print_background=True)
    assert printed.startswith(b"%PDF") and 2 <= printed.count(b"/Type /Page\n") + printed.count(b"/Type/Page/") <= 40
    page.emulate_media(media="print")
    assert not page.is_visible("nav") and not page.is_visible(".theme") and page.is_visible("h1")


def test_the_keyboard_reaches_everything(pages: dict[str, Path], opened: Callable[..., Any]) -> None:
    page = opened(pages["campaign"])
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    reached = set()
    for _ in range(200):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.tagName"))
        if page.evaluate("document.activeElement.tagName") == "SUMMARY":
            page.keyboard.press("Enter")
            break
    assert {"A", "INPUT", "SUMMARY"} <= reached
    assert page.evaluate("document.querySelectorAll('details[open] td').length") > 0
    links = page.evaluate("[...document.querySelectorAll('nav a')].map(a => a.hash)")
    assert links and page.evaluate("links => links.every(l => document.querySelector(l))", links)
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3')].map(h => +h.tagName[1])")
    assert levels[0] == 1 and levels.count(1) == 1 and all(b - a <= 1 for a, b in pairwise(levels))


def test_names_that_are_markup_do_nothing(tmp_path: Path, opened: Callable[..., Any]) -> None:
    evil = "<img src=x onerror=alert(1)><script>alert(2)</script>"
    path = tmp_path / "page.html"
    path.write_text(render(Page(evil, evil, [Section("one", evil, [Note(evil)])])), encoding="utf-8")
    page = opened(path)
    assert page.inner_text("h1") == evil and page.evaluate("document.images.length") == 0


def _contrast(page: Any) -> list[str]:
    """Words that stand out too little from what they stand on: below 4.5 to 1 (WCAG 2.2, AA)."""
    return page.evaluate(
        """() => {
        const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
        const rgb = colour => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
                                return [...canvas.getImageData(0, 0, 1, 1).data]; };
        const linear = v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
        const light = c => 0.2126 * linear(c[0]) + 0.7152 * linear(c[1]) + 0.0722 * linear(c[2]);
        const behind = e => { if (e.matches('.in')) return rgb(getComputedStyle(e.parentElement).fill);
            for (; e; e = e.parentElement) {
            const c = rgb(getComputedStyle(e).backgroundColor); if (c[3]) return c; } return [255, 255, 255]; };
        const wrong = [];
        const words = 'p, li, a, td, th, dt, dd, h1, h2, h3, span, figcaption, summary, text';
        for (const e of document.querySelectorAll(words)) {
            if (!e.textContent.trim() || e.matches('.skip')) continue;
            const style = getComputedStyle(e);
            const [a, b] = [light(rgb(e.tagName === 'text' ? style.fill : style.color)), light(behind(e))];
            const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
            if (ratio < 4.5) wrong.push(`${ratio.toFixed(1)} ${e.tagName}: ${e.textContent.slice(0, 40)}`);
        }
        return [...new Set(wrong)].slice(0, 10); }"""
    )
