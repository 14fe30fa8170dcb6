"""Slips of the hand at the page: what is pressed twice, too early or beside its place makes no wrong answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from browsing import Person, profile
from test_page_tablet import TABLET, Toucher

from fewmask.annotation.questions import Question
from fewmask.labels import NOT_LABELLED

pytestmark = [pytest.mark.slow, pytest.mark.browser]
AT_REST = "() => new Promise((done) => setTimeout(done, 700))"
VALUES = "import('./static/main.js').then(({ annotator: a }) => Array.from(a.region.values))"


def painted(person: Person) -> np.ndarray:
    """The values that are painted in the shown region."""
    values = np.array(person.page.evaluate(VALUES), np.uint8)
    return values.reshape(question_of(person).size)


def question_of(person: Person) -> Question:
    return next(q for q in person.server.questions() if q.id == person.shown)


def rectangle(size: tuple[int, int], y0: int, x0: int, y1: int, x1: int, value: int) -> np.ndarray:
    values = np.full(size, NOT_LABELLED, np.uint8)
    values[y0:y1, x0:x1] = value
    return values


def opened(person: Person) -> None:
    """Wait until what is on the screen may be answered."""
    person.page.wait_for_selector("#canvas[data-open]")


# ── A polygon closes where its ring is drawn ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("side", [4, 8, 11])
def test_a_thin_polygon_is_what_was_outlined(nearby: Callable[..., Any], context: Any, side: int) -> None:
    """Its last corner lies a few pixels of the screen away from the first, and Enter closes it and saves nothing."""
    person = Person(context, nearby("squares:24"))
    number = person.shown
    person.press("p", "3")
    person.page.evaluate(
        "(scale) => import('./static/main.js').then(({ view: v }) => v.zoom((scale * v.ratio) / v.scale))", side / 2
    )
    person.click(question_of(person), (2, 10), (20, 10), (20, 12), (2, 12))
    person.press("Enter")
    np.testing.assert_array_equal(painted(person), rectangle((24, 24), 2, 10, 20, 12, 2))
    assert person.shown == number
    assert person.server.answers() == []
    person.then("Shift+Enter")
    person.saved()
    assert [answer.question for answer in person.server.answers()] == [number]


def test_an_enter_out_of_habit_after_the_ring_was_clicked_saves_nothing(
    nearby: Callable[..., Any], context: Any
) -> None:
    person = Person(context, nearby("squares:24"))
    number = person.shown
    person.press("p", "3")
    corners = [(2.0, 2.0), (2.0, 20.0), (20.0, 20.0)]
    for ring in (True, False):
        person.click(question_of(person), *corners)
        if ring:
            person.click(question_of(person), (2.1, 2.1))
        else:
            person.page.mouse.dblclick(*person.on_screen(question_of(person))(*corners[-1]))
        person.press("Enter")
        person.page.evaluate(AT_REST)
        assert person.shown == number
        assert (painted(person) == 2).sum() > 100
        person.press("Control+z")
    assert person.server.answers() == []


def test_corners_wait_where_they_were_set(nearby: Callable[..., Any], context: Any) -> None:
    """Over another tool, and over another question."""
    person = Person(context, nearby("squares:24"))
    number = person.shown
    person.press("p", "3")
    person.click(question_of(person), (2, 10), (20, 10), (20, 12))
    person.press("b", "r", "p")
    person.then("ArrowRight")
    person.press("ArrowLeft")
    person.ready(number)
    person.click(question_of(person), (2, 12))
    person.press("Enter")
    np.testing.assert_array_equal(painted(person), rectangle((24, 24), 2, 10, 20, 12, 2))


def test_a_key_during_a_stroke_saves_and_leaves_nothing(nearby: Callable[..., Any], context: Any) -> None:
    person = Person(context, nearby("squares:24"))
    number, at = person.shown, person.on_screen(question_of(person))
    person.press("b", "3")
    person.page.mouse.move(*at(12, 4))
    person.page.mouse.down()
    person.page.mouse.move(*at(12, 12))
    person.press("Enter", "x", "Shift+Enter", "Control+z", "5")
    person.page.mouse.move(*at(12, 20))
    person.page.mouse.up()
    assert person.shown == number
    assert set(np.unique(painted(person))) == {2, NOT_LABELLED}
    assert (painted(person)[12, 5:19] == 2).all()
    assert person.server.answers() == []


# ── One press, one answer ────────────────────────────────────────────────────────────────────────────────────────────

TWICE: list[tuple[str, str, Callable[[Person], None]]] = [
    ("Enter", "squares:24", lambda p: p.press("Enter", "Enter")),
    ("Space", "squares:24", lambda p: p.press("Space", "Space")),
    ("skip", "squares:24", lambda p: p.press("x", "x")),
    ("a double click", "squares:24", lambda p: p.page.dblclick("#confirm")),
    ("a double click on skip", "squares:24", lambda p: p.page.dblclick('[data-do="skip"]')),
    ("Enter and Space", "squares:24", lambda p: p.press("Enter", "Space", "x", "Shift+Enter")),
    ("a point's key", "points", lambda p: p.press("3", "3")),
    ("a point's other key", "points", lambda p: p.press("Enter", "4", "v", "x")),
    ("a double click on a class", "points", lambda p: p.page.dblclick('#classes [data-value="4"]')),
]


@pytest.mark.parametrize(("kind", "twice"), [t[1:] for t in TWICE], ids=[t[0] for t in TWICE])
def test_what_is_pressed_twice_answers_one_question(
    nearby: Callable[..., Any], context: Any, kind: str, twice: Callable[[Person], None]
) -> None:
    person = Person(context, nearby(kind))
    first = person.shown
    twice(person)
    person.away_from(first)
    second = person.shown
    person.page.evaluate(AT_REST)
    person.saved()
    assert person.shown == second
    assert [answer.question for answer in person.server.answers()] == [first]


def test_a_key_that_is_held_down_on_a_button_answers_once(nearby: Callable[..., Any], context: Any) -> None:
    person = Person(context, nearby("squares:24"))
    first = person.shown
    person.page.focus("#confirm")
    person.page.keyboard.down("Enter")
    person.away_from(first)
    for _ in range(30):
        person.page.keyboard.down("Enter")  # as the system repeats it
        person.page.wait_for_timeout(30)
    person.page.keyboard.up("Enter")
    person.saved()
    assert len(person.server.answers()) == 1


# ── Skipping drops nothing without a word ────────────────────────────────────────────────────────────────────────────


def test_skip_asks_where_something_is_painted_and_keeps_it(nearby: Callable[..., Any], context: Any) -> None:
    person = Person(context, nearby("squares:24"))
    number = person.shown
    person.press("b", "3")
    person.drag(question_of(person), (12, 4), (12, 20))
    work = painted(person)
    person.press("x", "x")  # twice at once is once
    assert "stays here as a draft" in person.page.inner_text("#notice")
    person.page.click("#notice button:last-of-type")
    assert not person.page.is_visible("#notice")
    assert (person.shown, person.server.answers()) == (number, [])
    opened(person)
    person.page.click('[data-do="skip"]')
    person.page.wait_for_selector("#notice:not([hidden])")
    opened(person)
    person.then("x")
    person.saved()
    assert [(answer.question, answer.kind) for answer in person.server.answers()] == [(number, "skip")]
    for _ in range(2):  # it is there after a reload too
        person.press("ArrowLeft")
        person.ready(number)
        np.testing.assert_array_equal(painted(person), work)
        person.page.reload()
        person.ready()
    assert person.shown != number


def test_who_gives_a_name_while_the_first_question_loads_is_asked_it(nearby: Callable[..., Any], context: Any) -> None:
    """The page leases the question before it knows who sits there."""
    server, page, waiting = nearby("squares:24"), context.new_page(), []
    page.route("**/api/images/*", lambda route: waiting.append(route))  # playwright takes no method of a list
    with page.expect_response("**/api/leases"):
        page.goto(server.link)
    page.fill("#name", "ann")
    page.click("#options-form button")
    page.wait_for_selector("#canvas:focus")
    for route in waiting:
        route.continue_()
    page.wait_for_selector("#canvas[data-shown]")
    assert page.get_attribute("#canvas", "data-shown") == str(server.questions()[0].id)


def test_skip_asks_before_it_takes_the_place_of_an_answer(nearby: Callable[..., Any], context: Any) -> None:
    person = Person(context, nearby("points"))
    number = person.shown
    person.then("3")
    person.press("ArrowLeft")
    person.ready(number)
    person.press("x")
    person.page.wait_for_selector("#notice:not([hidden])")
    assert "takes the answer's place" in person.page.inner_text("#notice")
    person.saved()
    assert [answer.kind for answer in person.server.answers()] == ["answer"]


# ── A question before one person is not shown to another ─────────────────────────────────────────────────────────────


def test_two_people_in_two_browsers_are_shown_different_questions(nearby: Callable[..., Any], browser: Any) -> None:
    server = nearby("points")
    profiles = [browser.new_context() for _ in range(2)]
    try:
        ann, bob = (Person(profiles[i], server, name) for i, name in enumerate(("ann", "bob")))
        held = ann.shown
        assert bob.shown != held
        while not bob.page.is_visible("#end"):
            bob.then("2")
        bob.saved()
        assert held not in {answer.question for answer in server.answers()}
        assert "1 question is shown to other annotators now" in bob.page.inner_text("#end")
        ann.page.close(run_before_unload=True)  # and gives it back
        bob.ready(held)
        bob.then("2")
        bob.saved()
        assert sorted(answer.question for answer in server.answers()) == sorted(q.id for q in server.questions())
        assert bob.page.inner_text("#command") == "go on"
    finally:
        for each in profiles:
            each.close()


def test_who_goes_to_a_question_that_another_paints_is_told(nearby: Callable[..., Any], browser: Any) -> None:
    server = nearby("squares:24")
    profiles = [browser.new_context() for _ in range(2)]
    try:
        ann, bob = (Person(profiles[i], server, name) for i, name in enumerate(("ann", "bob")))
        bob.press("ArrowLeft")
        bob.ready(ann.shown)
        assert "ann is at this question now" in bob.page.inner_text("#notice")
    finally:
        for each in profiles:
            each.close()


# ── On a phone ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("size", [(390, 844), (320, 568), (844, 390), (768, 1024)], ids=str)
def test_what_saves_is_in_view_on_a_phone(nearby: Callable[..., Any], browser: Any, size: tuple[int, int]) -> None:
    with profile(browser, *size, **TABLET) as context:
        person = Toucher(context, nearby("squares:24"))
        page = person.page

        def in_view(selector: str) -> None:
            for button in page.locator(f"{selector}:visible").all():
                box = button.bounding_box()
                assert box is not None
                assert box["x"] >= 0 and box["x"] + box["width"] <= size[0], button.inner_text()
                assert box["y"] >= 0 and box["y"] + box["height"] <= size[1], button.inner_text()
                assert button.evaluate("(b) => b.scrollWidth <= b.clientWidth + 1"), button.inner_text()

        in_view("header button, footer button")
        person.tap('#classes [data-value="2"]')
        person.tap('[data-tool="brush"]')
        at = person.on_screen(question_of(person))
        person.move((at(12, 4), at(12, 20)))
        page.wait_for_function("document.querySelector('#confirm').innerText.startsWith('Save with guess')")
        in_view("header button, footer button")
        assert page.is_visible("#partial") and page.is_visible("#confirm")
        for needed in ('[data-do="undo"]', '#classes [data-value="255"]', '#classes [data-value="254"]'):
            page.locator('#classes [data-value="0"]').scroll_into_view_if_needed()
            in_view(needed)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth && scrollY === 0")
