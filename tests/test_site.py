"""The documentation's site in a real browser: nothing is fetched from elsewhere, nothing fails, and search finds."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from browsing import violations

pytestmark = [pytest.mark.slow, pytest.mark.browser]
ROOT = Path(__file__).parents[1]
PAGES = ["", "tutorials/own-data/", "tutorials/campaign/", "methods/univ-full/", "reference/api/", "reference/losses/"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(folder)]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, check=True, timeout=300)
    return folder


class Handler(SimpleHTTPRequestHandler):
    def log_message(self, *words: Any) -> None:
        pass


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_reading_asks_no_other_host_and_nothing_fails(scheme: str, address: str, browser: Any) -> None:
    context = browser.new_context(color_scheme=scheme)
    page, elsewhere, failed = context.new_page(), [], []
    page.on("request", lambda r: None if r.url.startswith((address, "data:", "blob:")) else elsewhere.append(r.url))
    page.on("response", lambda r: failed.append(r.url) if r.status >= 400 else None)
    page.on("console", lambda m: failed.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: failed.append(str(error)))
    for path in PAGES:
        page.goto(address + path, wait_until="networkidle")
        assert page.locator("h1").count() == 1
    assert page.locator("body").get_attribute("data-md-color-scheme") == {"light": "default", "dark": "slate"}[scheme]
    page.goto(address + "?q=regional+contrast")
    page.locator(".md-search-result__link").first.wait_for(state="attached")
    context.close()
    assert (elsewhere, failed) == ([], [])


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_the_landing_page_is_accessible(width: int, scheme: str, address: str, browser: Any) -> None:
    context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 800})
    page, failed = context.new_page(), []
    page.on("console", lambda m: failed.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: failed.append(str(error)))
    page.goto(address, wait_until="networkidle")
    assert violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate(
        "[...document.querySelectorAll('article img')].every(i => i.complete && i.naturalWidth && i.alt)"
    )
    context.close()
    assert failed == []


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("annot", "annotating/"),
        ("annotate", "annotating/"),
        ("annotating", "annotating/"),
        ("annotations", "annotating/"),
        ("active learning", "tutorials/campaign/"),
        ("SAM", "annotating/"),
        ("semi-supervised", ""),
        ("points", "annotating/"),
        ("IoU", "glossary/"),
    ],
)
def test_search_finds_the_page_that_is_meant(words: str, meant: str, address: str, browser: Any) -> None:
    """As a reader sees it: among the first three pages that the search box lists."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.goto(f"{address}?q={quote(words)}")
    page.locator(".md-search-result__link").first.wait_for(state="attached")
    links = page.evaluate(
        "[...document.querySelectorAll('.md-search-result__item')].map(i => i.querySelector('a').href)"
    )
    context.close()
    found = [re.split("[?#]", link.removeprefix(address))[0] for link in links]
    assert meant in found[:3], found[:10]


def test_the_index_has_the_words_of_the_field(site: Path) -> None:
    index = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))
    text = {part["location"]: f"{part['title']} {part['text']}".lower() for part in index["docs"]}
    for words in ("annotate", "active learning", "sam", "semi-supervised", "points"):
        assert any(words in body for where, body in text.items() if where.startswith("glossary/"))


def test_no_page_would_load_anything_from_elsewhere(site: Path) -> None:
    """Links to papers are for the reader to follow; pictures, scripts and styles come along."""
    loads = re.compile(r"<(?:(?:script|img|iframe|source)\b[^>]*\ssrc|link\b[^>]*\shref)=\"?(?:https?:)?//")
    styles = re.compile(r"(?:url\(|@import )[\"']?(?:https?:)?//")
    wrong = [p for p in site.rglob("*.html") if loads.search(p.read_text(encoding="utf-8"))]
    wrong += [p for p in site.rglob("*.css") if styles.search(p.read_text(encoding="utf-8"))]
    assert not wrong
