"""A person at the labelling page in a real browser, and servers that can be killed meanwhile."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from fewmask.annotation.ledger import Ledger
from fewmask.annotation.questions import Answer, Question

NAME = "Ann <b>O'Tator</b>"
Place = tuple[float, float]
"""y, x of a region's box, in pixels of the image."""

# What the console says when a server is killed, also in the middle of an answer.
KILLED = ("ERR_CONNECTION", "ERR_SOCKET", "ERR_EMPTY_RESPONSE", "ERR_INCOMPLETE_CHUNKED", "ERR_CONTENT_LENGTH_MISMATCH")


class Server:
    """A server in a process of its own, which can be killed."""

    def __init__(self, folder: Path, *arguments: object) -> None:
        self.folder, self._command = folder, [sys.executable, *map(str, arguments)]
        self.start()

    def start(self) -> None:
        from ondisk import environment  # it imports torch, which the first process of xdist does not need

        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True, env=environment())
        assert self._process.stdout is not None
        self.link = self._process.stdout.readline().strip()
        assert self.link.startswith("http://127.0.0.1:")

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.folder / "ledger.sqlite")

    def questions(self) -> list[Question]:
        with self.ledger as ledger:
            return ledger.questions()

    def answers(self) -> list[Answer]:
        with self.ledger as ledger:
            return ledger.answers()

    def words(self) -> dict[int, Answer]:
        with self.ledger as ledger:
            return {word.question: word for word in ledger.last_words()}


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright: `make env` installs it")
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no browser: `apt-get install chromium`, or as root `make test-browser`")
    with playwright.sync_playwright() as driver:
        # A browser has no sandbox of its own when it is root's.
        arguments = [] if os.geteuid() else ["--no-sandbox"]
        opened = driver.chromium.launch(executable_path=path, args=arguments)
        yield opened
        opened.close()


@pytest.fixture
def context(browser: Any) -> Iterator[Any]:
    with profile(browser, 1280, 720) as browser_context:
        yield browser_context


@contextmanager
def profile(browser: Any, width: int, height: int, **options: Any) -> Iterator[Any]:
    """A profile whose pages may say nothing on the console and speak to no other host."""
    wrong: list[str] = []
    context = browser.new_context(viewport={"width": width, "height": height}, **options)

    def on_request(request: Any) -> None:
        if not request.url.startswith(("http://127.0.0.1:", "blob:http://127.0.0.1:")):
            wrong.append(request.url)

    def on_dialog(dialog: Any) -> None:
        # Leaving while an answer is still on its way is asked about, as it should be; a slow machine gets there.
        if dialog.type != "beforeunload":
            wrong.append(dialog.message)
        dialog.accept()

    def on_console(message: Any) -> None:
        killed = any(error in message.text for error in KILLED)
        if message.type in ("error", "warning") and not killed:
            wrong.append(message.text)

    context.on("request", on_request)
    context.on("console", on_console)
    context.on("weberror", lambda e: wrong.append(str(e.error)))
    context.on("dialog", on_dialog)
    try:
        yield context
    finally:
        context.close()
    assert wrong == [], wrong


def violations(page: Any) -> list[str]:
    """The faults of accessibility that axe-core finds on a page as it stands, by its rules for WCAG and good practice.

    The script is evaluated from outside: the page's content security policy would refuse a script element.
    """
    pytest.importorskip("axe_playwright_python", reason="no axe-core: `make env` installs it")
    page.evaluate((files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8"))
    faults = page.evaluate("axe.run().then(({ violations }) => violations)")
    return [
        f"{fault['id']} ({fault['impact']}): {node['target'][0]}: {node['failureSummary']}"
        for fault in faults
        for node in fault["nodes"]
    ]


class Person:
    """Somebody at the page."""

    def __init__(self, context: Any, server: Server, name: str | None = NAME) -> None:
        self.page, self.server = context.new_page(), server
        self.page.goto(server.link)
        if name is not None:
            self.page.fill("#name", name)
            self.page.click("#options-form button")
        self.ready()

    @property
    def shown(self) -> int:
        return int(self.page.get_attribute("#canvas", "data-shown") or 0)

    def ready(self, number: int | None = None) -> None:
        """Wait until a question is shown with its guess, long enough to be answered: this one, or any."""
        is_it = "" if number is None else f'="{number}"'
        at = f"[data-shown{is_it}][data-guessed{is_it}][data-open{is_it}]"
        self.page.wait_for_selector(f"#canvas{at}")

    def saved(self) -> None:
        self.page.wait_for_selector('#saved[data-state="saved"]')

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def then(self, *keys: str) -> None:
        """Press keys that lead to another question, and wait for it."""
        before = self.shown
        self.press(*keys)
        self.away_from(before)

    def away_from(self, question: int) -> None:
        """Wait until another question is shown with its guess, or the end."""
        self.page.wait_for_function(
            "n => { const { shown, guessed, open } = document.querySelector('#canvas').dataset;"
            "return !document.querySelector('#end').hidden || (shown !== n && shown === guessed && shown === open); }",
            arg=str(question),
        )

    def on_screen(self, question: Question) -> Callable[[float, float], tuple[float, float]]:
        """From a place of the region's box to x, y of the window, until the image is moved."""
        left, top, scale, ratio = self.page.evaluate(
            "import('./static/main.js').then(({ view: v }) => [v.left, v.top, v.scale, v.ratio])"
        )
        box = self.page.locator("#canvas").bounding_box()

        def at(y: float, x: float) -> tuple[float, float]:
            px, py = (x + question.box[1]) * scale + left, (y + question.box[0]) * scale + top
            return box["x"] + px / ratio, box["y"] + py / ratio

        return at

    def click(self, question: Question, *places: Place) -> None:
        at = self.on_screen(question)
        for place in places:
            self.page.mouse.click(*at(*place))

    def drag(self, question: Question, *places: Place) -> None:
        at = self.on_screen(question)
        first, *rest = (at(*place) for place in places)
        self.page.mouse.move(*first)
        self.page.mouse.down()
        for place in rest:
            self.page.mouse.move(*place)
        self.page.mouse.up()
