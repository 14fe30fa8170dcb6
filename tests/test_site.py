"""The documentation's site in a real browser: nothing is fetched from elsewhere, nothing fails, and search finds."""

from __future__ import annotations

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

import pytest

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


def test_no_page_would_load_anything_from_elsewhere(site: Path) -> None:
    """Links to papers are for the reader to follow; pictures, scripts and styles come along."""
    loads = re.compile(r"<(?:(?:script|img|iframe|source)\b[^>]*\ssrc|link\b[^>]*\shref)=\"?(?:https?:)?//")
    styles = re.compile(r"(?:url\(|@import )[\"']?(?:https?:)?//")
    wrong = [p for p in site.rglob("*.html") if loads.search(p.read_text(encoding="utf-8"))]
    wrong += [p for p in site.rglob("*.css") if styles.search(p.read_text(encoding="utf-8"))]
    assert not wrong
