"""The tools that find an area for the person, in a real browser: smart select and superpixels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pages
import pytest
from browsing import Person, Server, profile, violations
from test_page_slips import painted, question_of

from fewmask.annotation.page import segments
from fewmask.annotation.page.head import Expected
from fewmask.annotation.page.smart_select import Frame, Point, Prompt
from fewmask.annotation.questions import Question
from fewmask.labels import NOT_LABELLED, VOID, Mask

pytestmark = [pytest.mark.slow, pytest.mark.browser]
HOLD = "() => import('./static/main.js').then((page) => { window.painter = page.annotator.painter; })"
# How many pixels the preview shows.
PREVIEW = """() => {
  const shown = painter.tool === "smart" ? painter.smart.preview : painter.shown;
  return shown?.picture ? shown.area.mask.reduce((sum, there) => sum + there, 0) : 0;
}"""
IDLE = "() => !painter.smart.request && !painter.smart.pending"
POLL = "import('./static/main.js').then((m) => m.annotator.poll())"
NEWEST = """import('./static/main.js').then(({ annotator: a }) =>
  Promise.all(a.order.map((id) => a.session.newestGuess(id))).then(() => null))"""
GUESS = "import('./static/main.js').then((m) => Array.from(m.annotator.guess.values))"
WIDER = 6


def expected(question: Question, prompt: Prompt, reach: int = 0, seeds: tuple[tuple[int, int], ...] = ()) -> np.ndarray:
    """The pixels that the server's scores select, as the page cuts them."""
    image = pages.streets().image(question.stem)
    scores = pages.selector().select(("", ""), lambda: image, question.box, prompt)
    there = (scores.values >= min(max(scores.threshold - reach, 1), 255)) & question.inside
    if not seeds:
        return there
    for seed in seeds:
        there[seed] = True
    _, parts = cv2.connectedComponents(there.astype(np.uint8), connectivity=4)
    return np.isin(parts, [parts[seed] for seed in seeds])


def at_work(context: Any, server: Server) -> Person:
    person = Person(context, server)
    person.page.evaluate(HOLD)
    return person


def selected(person: Person) -> None:
    """Wait until nothing is being asked any more."""
    person.page.wait_for_function(IDLE)


def over(question: Question, value: int, where: np.ndarray) -> Mask:
    return np.where(where, np.uint8(value), np.uint8(NOT_LABELLED))


def telling_place(question: Question) -> tuple[float, float]:
    """A place whose selection is a part of the region, and grows with its reach."""
    for y in range(4, question.size[0], 6):
        for x in range(4, question.size[1], 6):
            prompt = Prompt(points=[Point(y=y + 0.5, x=x + 0.5)])
            narrow, wide = (expected(question, prompt, reach, ((y, x),)).mean() for reach in (0, 5 * WIDER))
            if 0.05 < narrow < wide < 0.9:
                return y + 0.5, x + 0.5
    raise AssertionError("no such place in the picture")


def test_smart_select_previews_paints_widens_and_takes_away(nearby: Callable[..., Any], context: Any) -> None:
    person = at_work(context, nearby("squares:48"))
    question, page = question_of(person), person.page
    place, reach = telling_place(question), 5 * WIDER
    seed = int(place[0]), int(place[1])
    at = person.on_screen(question)
    person.press("w", "3")
    assert page.is_visible("#reaches") and page.locator('[data-tool="smart"]').get_attribute("aria-checked") == "true"
    page.mouse.move(*at(*place))
    page.wait_for_function(PREVIEW)
    selected(person)
    prompt = Prompt(points=[Point(y=place[0], x=place[1])])
    area = expected(question, prompt, seeds=(seed,))
    assert page.evaluate(PREVIEW) == area.sum()
    np.testing.assert_array_equal(painted(person), over(question, 2, np.zeros(question.size, bool)))

    # A click paints what was shown.
    page.mouse.down()
    page.mouse.up()
    selected(person)
    np.testing.assert_array_equal(painted(person), over(question, 2, area))

    # The wheel makes it narrower and wider where the pointer is, as one step that can be undone; it zooms nothing.
    for turns in (-4, 9):
        for _ in range(abs(turns)):
            page.mouse.wheel(0, -100 if turns > 0 else 100)
            page.wait_for_timeout(20)
    page.wait_for_function("n => document.querySelector('#reach').value === String(n)", arg=reach)
    wider = expected(question, prompt, reach, (seed,))
    np.testing.assert_array_equal(painted(person), over(question, 2, wider))
    assert person.on_screen(question)(*place) == at(*place)

    # A right click takes away what looks like another place; a drag of the right button still moves the image.
    rows, columns = np.nonzero(wider)
    far = int(np.argmax(np.hypot(rows - seed[0], columns - seed[1])))
    other = int(rows[far]), int(columns[far])
    page.mouse.click(*at(other[0] + 0.5, other[1] + 0.5), button="right")
    selected(person)
    both = Prompt(points=[*prompt.points, Point(y=other[0] + 0.5, x=other[1] + 0.5, belongs=False)])
    less = expected(question, both, reach, (seed,))
    assert not less[other] and 0 < less.sum() < wider.sum()
    np.testing.assert_array_equal(painted(person), over(question, 2, less))
    person.press("Control+z")
    assert (painted(person) == NOT_LABELLED).all()
    page.mouse.move(*at(*place))
    page.mouse.down(button="right")
    page.mouse.move(*at(place[0], place[1] + 3), steps=5)
    page.mouse.up(button="right")
    assert person.on_screen(question)(*place)[0] > at(*place)[0]
    assert (painted(person) == NOT_LABELLED).all()

    # A box: what is in its middle, and nothing beyond it.
    at = person.on_screen(question)
    person.drag(question, (4.0, 4.0), (9.0, 9.0), (18.0, 16.0))
    selected(person)
    framed = expected(question, Prompt(points=[], frame=Frame(top=4, left=4, bottom=18, right=16)), reach)
    np.testing.assert_array_equal(painted(person), over(question, 2, framed))
    person.then("Enter")
    person.saved()
    answer = server_answer(person, question)
    np.testing.assert_array_equal(answer[framed], 2)


def server_answer(person: Person, question: Question) -> Mask:
    values = person.server.words()[question.id].values
    assert values is not None
    return values


def test_a_selection_on_its_way_is_not_lost_by_a_hasty_enter(nearby: Callable[..., Any], context: Any) -> None:
    person = at_work(context, nearby("squares:24"))
    question, page = question_of(person), person.page
    held: list[Any] = []
    page.route("**/api/selections/*", lambda route: held.append(route))
    person.press("w", "3")
    person.click(question, (10.5, 12.5))
    person.press("Enter")
    assert person.shown == question.id and "still being computed" in page.inner_text("#notice")
    assert held
    for route in held:
        route.continue_()
    page.unroute("**/api/selections/*")
    page.wait_for_function(IDLE)
    assert (painted(person) == 2).any()
    person.then("Enter")


def test_escape_cancels_the_selection_that_is_being_computed(nearby: Callable[..., Any], context: Any) -> None:
    person = at_work(context, nearby("squares:24"))
    question, page = question_of(person), person.page
    held: list[Any] = []
    page.route("**/api/selections/*", lambda route: held.append(route))
    person.press("w", "3")
    person.click(question, (10.5, 12.5))
    person.press("Enter")
    assert "Press Esc to cancel it" in page.inner_text("#notice")
    person.press("Escape")
    page.wait_for_function(IDLE)
    assert "cancelled" in page.inner_text("#notice")
    assert held
    for route in held:
        with page.expect_response("**/api/selections/*"):
            route.continue_()
    page.unroute("**/api/selections/*")
    assert not (painted(person) == 2).any()  # the scores that come late are not used
    person.click(question, (10.5, 12.5))
    page.wait_for_function(IDLE)
    assert (painted(person) == 2).any()
    person.then("Enter")


def test_what_cannot_be_selected_is_told(nearby: Callable[..., Any], context: Any) -> None:
    person = at_work(context, nearby("squares:24"))
    question, page = question_of(person), person.page
    response = {"status": 200, "body": b"\x6e", "content_type": "application/octet-stream"}
    page.route("**/api/selections/*", lambda route: route.fulfill(**response))
    person.press("w")
    person.click(question, (10.5, 12.5))
    assert "Choose a class first" in page.inner_text("#notice")
    person.press("3")
    page.mouse.click(*person.on_screen(question)(5.5, 5.5), button="right")
    assert "select something first" in page.inner_text("#notice")


def test_superpixels_are_seen_and_a_drag_paints_many(nearby: Callable[..., Any], context: Any) -> None:
    person = at_work(context, nearby("squares:48"))
    question, page = question_of(person), person.page
    cut = segments.cut(question.window(pages.streets().image(question.stem)))
    at = person.on_screen(question)
    person.press("s", "4")
    page.wait_for_function("() => painter.host.segmentation")
    page.mouse.move(*at(20.5, 20.5))
    page.wait_for_function(PREVIEW)
    assert page.evaluate(PREVIEW) == (cut == cut[20, 20]).sum()
    lines = page.evaluate(
        "() => { const { canvas: c } = painter.lines.picture, copy = new OffscreenCanvas(c.width, c.height);"
        "const pen = copy.getContext('2d'); pen.drawImage(c, 0, 0);"
        "return [...pen.getImageData(0, 0, c.width, c.height).data].filter((v, i) => i % 4 === 3 && v).length; }"
    )
    right, below = cut[:, :-1] != cut[:, 1:], cut[:-1] != cut[1:]
    edges = np.zeros(cut.shape, bool)
    edges[:, :-1] |= right
    edges[:-1] |= below
    assert lines == edges.sum()
    page.mouse.down()
    page.mouse.move(*at(20.5, 40.5))
    page.mouse.move(*at(40.5, 40.5))
    page.mouse.up()
    passed = {*cut[20, 20:41].tolist(), *cut[20:41, 40].tolist()}
    assert len(passed) > 2
    np.testing.assert_array_equal(painted(person), over(question, 3, np.isin(cut, list(passed))))
    person.press("Control+z")
    assert (painted(person) == NOT_LABELLED).all()


# ── The automatic class ──────────────────────────────────────────────────────────────────────────────────────────────

AUTOMATIC = "() => import('./static/main.js').then(({ annotator: a }) => a.automatic)"


def likely(person: Person, question: Question) -> Expected:
    image = pages.streets().image(question.stem)
    return person.server.learner.likely(question, lambda: image)  # type: ignore[attr-defined]


def vote(found: Expected, area: np.ndarray, refused: int) -> int:
    votes = np.where(found.label == refused, found.second, found.label)[area]
    return int(np.bincount(votes).argmax())


def ranked(person: Person) -> None:
    person.page.wait_for_function(f"() => document.querySelector('#canvas').dataset.ranked === '{person.shown}'")


def test_the_page_chooses_the_class_and_a_key_corrects_it(nearby: Callable[..., Any], context: Any) -> None:
    person = at_work(context, nearby("squares:48", trained=True))
    page, question = person.page, question_of(person)
    person.press("a", "s")
    ranked(person)
    assert page.get_attribute("#automatic", "aria-pressed") == "true"
    page.wait_for_function("() => painter.host.segmentation")
    found, guess = likely(person, question), np.array(page.evaluate(GUESS)).reshape(question.size)
    cut = segments.cut(question.window(pages.streets().image(question.stem)))
    at = person.on_screen(question)

    # A click paints the likeliest class of the area that does not show where it falls.
    y, x = 20, 20
    area = cut == cut[y, x]
    chosen = vote(found, area, guess[y, x])
    assert chosen != guess[y, x]
    page.mouse.click(*at(y + 0.5, x + 0.5))
    np.testing.assert_array_equal(painted(person), over(question, chosen, area))
    assert page.get_attribute(f'#classes button[data-value="{chosen}"]', "aria-pressed") == "true"

    # A class's key corrects what was just painted, as one step, and the class stays automatic.
    other = next(value for value in range(5) if value not in (chosen, guess[y, x]))
    person.press(str(other + 1))
    np.testing.assert_array_equal(painted(person), over(question, other, area))
    assert page.evaluate(AUTOMATIC)
    person.press("Control+z")
    assert (painted(person) == NOT_LABELLED).all()

    # With nothing to correct, a class's key chooses the class for what comes.
    person.press("4")
    assert not page.evaluate(AUTOMATIC) and page.get_attribute("#automatic", "aria-pressed") == "false"
    page.mouse.click(*at(y + 0.5, x + 0.5))
    np.testing.assert_array_equal(painted(person), over(question, 3, area))


@pytest.mark.parametrize("tool", ["w", "b", "p", "f", "r"])
def test_every_tool_paints_with_the_automatic_class(nearby: Callable[..., Any], context: Any, tool: str) -> None:
    person = at_work(context, nearby("squares:48", trained=True))
    page, question = person.page, question_of(person)
    person.press("a", tool)
    ranked(person)
    found, guess = likely(person, question), np.array(page.evaluate(GUESS)).reshape(question.size)
    at, (y, x) = person.on_screen(question), (20, 20)
    if tool == "p":
        for corner in ((10, 10), (10, 30), (30, 30), (30, 10)):
            page.mouse.click(*at(*corner))
        person.press("Enter")
    else:
        page.mouse.click(*at(y + 0.5, x + 0.5))
    selected(person)
    shown = painted(person)
    area = shown != NOT_LABELLED
    refused = np.bincount(guess[area]).argmax() if tool == "p" else guess[y, x]
    deciding = np.zeros_like(area)
    deciding[y, x] = True
    assert area.any()
    np.testing.assert_array_equal(shown, over(question, vote(found, deciding if tool == "b" else area, refused), area))
    person.press("v")  # whatever the tool: the key corrects it
    np.testing.assert_array_equal(painted(person), over(question, VOID, area))
    if tool == "w":  # the wheel still acts on the corrected selection
        page.mouse.wheel(0, -100)
        page.wait_for_function(f"() => document.querySelector('#reach').value === '{WIDER}'")
        wider = painted(person)
        assert set(np.unique(wider)) <= {VOID, NOT_LABELLED} and (wider == VOID).sum() >= area.sum()


def test_the_automatic_class_stays_on_over_questions_and_a_reload(nearby: Callable[..., Any], context: Any) -> None:
    person = at_work(context, nearby("squares:48", trained=True))
    person.press("a")
    ranked(person)
    person.then("ArrowRight")
    ranked(person)
    person.page.reload()
    person.ready()
    ranked(person)
    assert person.page.evaluate(AUTOMATIC)
    person.press("a")
    person.page.reload()
    person.ready()
    assert not person.page.evaluate(AUTOMATIC)


def test_without_a_network_there_is_no_automatic_class(nearby: Callable[..., Any], context: Any) -> None:
    person = at_work(context, nearby("squares:48"))
    assert not person.page.is_visible("#automatic")
    person.press("a")
    assert not person.page.evaluate(AUTOMATIC)


# ── Guesses that learn ───────────────────────────────────────────────────────────────────────────────────────────────


def test_guesses_of_open_questions_are_replaced_and_the_shown_one_stays(
    nearby: Callable[..., Any], context: Any
) -> None:
    server = nearby("squares:24", learns=True)
    person = Person(context, server)
    page, first = person.page, question_of(person)
    person.press("4", "4")
    person.then("Enter")
    person.saved()
    server.learner.settle()
    second, old = question_of(person), page.evaluate(GUESS)
    # The page hears of it with its next look at the server; what is on the screen stays.
    page.evaluate(POLL)
    assert page.evaluate("import('./static/main.js').then((m) => m.annotator.session.learned)") == 1
    assert page.evaluate(GUESS) == old
    page.evaluate(NEWEST)
    person.then("ArrowRight")
    third = question_of(person)
    assert third.id not in (first.id, second.id)
    assert np.mean(np.array(page.evaluate(GUESS)) == 3) > 0.9
    person.then("Enter")
    person.saved()
    np.testing.assert_array_equal(server_answer(person, first), over(first, 3, first.inside))


def test_the_older_guess_is_shown_while_the_newer_one_is_on_its_way(nearby: Callable[..., Any], context: Any) -> None:
    server = nearby("squares:24", learns=True)
    person = Person(context, server)
    page = person.page
    page.evaluate(NEWEST)  # before anything is learned
    held: list[Any] = []
    page.route("**/api/guesses/*", lambda route: held.append(route))
    person.press("4", "4")
    person.then("Enter")
    person.saved()
    server.learner.settle()
    page.evaluate(POLL)
    assert page.evaluate("import('./static/main.js').then((m) => m.annotator.session.learned)") == 1
    person.then("ArrowRight")
    shown, older = person.shown, page.evaluate(GUESS)
    assert held
    for route in held:
        route.continue_()
    page.unroute("**/api/guesses/*")
    page.evaluate(NEWEST)
    assert person.shown == shown and page.evaluate(GUESS) == older  # what is on the screen stays
    person.then("ArrowRight")
    person.then("ArrowLeft")
    assert person.shown == shown and page.evaluate(GUESS) != older


# ── Accessibility ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(1280, 720), (390, 844)])
def test_axe_finds_nothing_at_the_page(
    nearby: Callable[..., Any], browser: Any, width: int, height: int, scheme: str
) -> None:
    """A question with each tool that has controls of its own, the dialogs, and the end."""
    with profile(browser, width, height, color_scheme=scheme) as context:
        person = Person(context, nearby("squares:48", trained=True), name=None)
        page = person.page
        problems = {"settings": violations(page)}
        page.fill("#name", "ann")
        page.click("#options-form button")
        person.ready()
        page.click("#appearance summary")
        for tool in ("r", "w", "b"):
            person.press(tool, "3")
            problems[tool] = violations(page)
        person.press("a")
        problems["automatic"] = violations(page)
        person.press("?")
        problems["keys"] = violations(page)
        page.click("#keys button")
        while not page.is_visible("#end"):
            person.then("Enter")
        problems["end"] = violations(page)
        assert problems == {name: [] for name in problems}
