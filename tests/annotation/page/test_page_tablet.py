"""The labelling page under fingers, on a tablet held either way, and for those who cannot see it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pages
import pytest
from browsing import Person, Place, Server, profile

from fewmask.annotation.questions import Question
from fewmask.labels import NOT_LABELLED

pytestmark = [pytest.mark.slow, pytest.mark.browser]
TABLET = {"device_scale_factor": 2, "has_touch": True, "is_mobile": True}
Point = tuple[float, float]
"""x, y of the window."""
CONTROLS = {"button", "slider", "radio", "checkbox", "textbox", "application", "progressbar", "radiogroup", "dialog"}


@pytest.fixture(params=[(1024, 768), (768, 1024)], ids=["landscape", "portrait"])
def tablet(browser: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    with profile(browser, *request.param, **TABLET) as context:
        yield context


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "run", pages.__file__, tmp_path / "run", "squares:24")
    yield server
    server.kill()


class Toucher(Person):
    """Somebody without mouse and keys."""

    def __init__(self, context: Any, server: Server) -> None:
        super().__init__(context, server)
        self._hand = context.new_cdp_session(self.page)

    def touch(self, kind: str, *fingers: Point) -> None:
        points = [{"x": x, "y": y, "id": i} for i, (x, y) in enumerate(fingers)]
        self._hand.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    def move(self, *paths: tuple[Point, Point], lifted: bool = True) -> None:
        """One or two fingers come down one after the other, and go along straight lines together."""
        for count in range(1, len(paths) + 1):
            self.touch("touchStart", *(a for a, _ in paths[:count]))
        for part in np.linspace(0, 1, 9)[1:].tolist():
            self.touch("touchMove", *((ax + part * (bx - ax), ay + part * (by - ay)) for (ax, ay), (bx, by) in paths))
        if lifted:
            self.touch("touchEnd")

    def tap(self, selector: str) -> None:
        self.page.tap(selector)

    def tap_at(self, question: Question, *places: Place) -> None:
        at = self.on_screen(question)
        for place in places:
            self.page.touchscreen.tap(*at(*place))

    @property
    def painted(self) -> np.ndarray:
        """The values that are painted in the region, along its rows."""
        values = "import('./static/main.js').then(({ annotator: a }) => Array.from(a.region.values))"
        return np.array(self.page.evaluate(values), np.uint8)

    @property
    def looks_at(self) -> np.ndarray:
        """The scale, and where the image's corner is on the screen."""
        script = "import('./static/main.js').then(({ view: v }) => [v.scale, v.left, v.top].map((n) => n / v.ratio))"
        return np.array(self.page.evaluate(script))


def test_fingers_paint_move_and_zoom(server: Server, tablet: Any) -> None:
    person = Toucher(tablet, server)
    questions = {q.id: q for q in server.questions()}
    page, question = person.page, questions[person.shown]

    # Everything is on the screen, or in the column that scrolls, and large enough for a finger.
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth && scrollY === 0")
    for button in page.locator("button:visible").all():
        button.scroll_into_view_if_needed()
        box = button.bounding_box()
        assert box["width"] >= 40 and box["height"] >= 40, button.inner_text()
        assert box["x"] >= 0 and box["x"] + box["width"] <= page.viewport_size["width"]

    # A finger paints a stroke with the brush.
    person.tap('#classes [data-value="2"]')
    person.tap('[data-tool="brush"]')
    at = person.on_screen(question)
    person.move((at(12, 4), at(12, 20)))
    stroke = person.painted.reshape(24, 24)
    assert (stroke[11:13, 4:20] == 2).all()
    assert (stroke[20:] == NOT_LABELLED).all()

    # Two fingers zoom about what lies between them, and paint nothing, whichever tool there is.
    for tool in ("brush", "whole", "fill", "polygon"):
        person.tap(f'[data-tool="{tool}"]')
        (x, y), before = at(12, 12), person.looks_at
        person.move(((x - 20, y), (x - 40, y)), ((x + 20, y), (x + 40, y)))
        assert person.looks_at[0] == pytest.approx(2 * before[0], rel=0.02), tool
        assert person.on_screen(question)(12, 12) == pytest.approx((x, y), abs=1.5)
        person.move(((x - 40, y), (x - 20, y)), ((x + 40, y), (x + 20, y)))
        assert person.looks_at == pytest.approx(before, rel=0.02, abs=2)
        np.testing.assert_array_equal(person.painted.reshape(24, 24), stroke, err_msg=tool)
    assert page.evaluate("import('./static/main.js').then(({ annotator: a }) => a.painter.corners.length)") == 0

    # They move the image too; and so does one finger with a tool that is no brush. One that stays does not paint.
    (x, y), before = at(12, 12), person.looks_at
    person.move(((x - 30, y), (x, y + 40)), ((x + 30, y), (x + 60, y + 40)))
    assert person.looks_at == pytest.approx(before + np.array([0, 30, 40]), rel=0.02, abs=2)
    person.tap('[data-tool="whole"]')
    person.move(((x, y), (x - 30, y - 40)))
    assert person.looks_at == pytest.approx(before, rel=0.02, abs=26)
    np.testing.assert_array_equal(person.painted.reshape(24, 24), stroke)
    person.tap('#zoom [data-do="fit"]')
    person.tap('#zoom [data-do="fit"]')

    # Taps set a polygon's corners; the first one, met again about, closes it.
    person.tap('[data-tool="polygon"]')
    person.tap('#classes [data-value="4"]')
    corners = [(14.0, 2.0), (14.0, 22.0), (23.0, 22.0), (23.0, 2.0)]
    person.tap_at(question, *corners, (14.4, 2.4))
    assert (person.painted.reshape(24, 24)[14:23, 2:22] == 4).all()
    person.tap('[data-do="undo"]')
    np.testing.assert_array_equal(person.painted.reshape(24, 24), stroke)
    person.tap('[data-do="redo"]')

    # A tap gives the region a class; the answer is what was tapped.
    person.tap('[data-tool="whole"]')
    person.tap('#classes [data-value="6"]')
    person.tap_at(question, (6, 6))
    assert (person.painted == 6).all()
    person.ready(question.id)  # a polygon that was just closed is looked at for a moment
    person.tap("#confirm")
    person.away_from(question.id)
    person.saved()
    values = server.words()[question.id].values
    assert values is not None and (values == 6).all()


def test_everything_has_a_name_and_a_place_in_the_order_of_tab(server: Server, context: Any) -> None:
    person = Person(context, server)
    eyes = context.new_cdp_session(person.page)

    def named() -> list[tuple[str, str]]:
        nodes = eyes.send("Accessibility.getFullAXTree")["nodes"]
        elements = [(n["role"]["value"], n.get("name", {}).get("value", "")) for n in nodes if not n["ignored"]]
        controls = [(role, name) for role, name in elements if role in CONTROLS]
        assert not [role for role, name in controls if not name.strip()], controls
        return controls

    names = [name for _, name in named()]
    for name in ("Undo", "Redo", "Zoom in", "Brush", "Opacity of the overlay", "Settings", "void"):
        assert any(name in label for label in names), (name, names)
    assert "The model expects" in person.page.inner_text("#spoken")
    before = len(names)
    person.press("?")
    assert ("dialog", "Keys, mouse and touch") in named()
    person.press("Escape")
    person.page.click("#settings")
    assert ("dialog", "Settings") in named()
    person.press("Escape")

    # Tab goes through all that can be used, and Enter uses it.
    person.page.focus("#canvas")
    reached = set()
    for _ in range(2 * before):
        person.press("Tab")
        reached.add(person.page.evaluate("document.activeElement.dataset.do ?? document.activeElement.id"))
    assert {"settings", "help", "canvas", "opacity", "undo", "confirm", "skip", "next", "zoom-in"} <= reached
    person.page.focus('[data-tool="fill"]')
    person.press("Enter")
    assert person.page.get_attribute('[data-tool="fill"]', "aria-checked") == "true"
