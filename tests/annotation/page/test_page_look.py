"""What eight hours at the labelling page need: many classes, the image in another light, tools that remember."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pages
import pytest
from browsing import Person
from test_page_slips import painted, question_of

from fewmask.labels import NOT_LABELLED

pytestmark = [pytest.mark.slow, pytest.mark.browser]
CLASSES = 150
# The canvas as it is, or drawn anew: how light it is on the mean, and a sum that tells pictures apart.
SCREEN = """(anew) => import('./static/main.js').then(({ view: v }) => {
  if (anew) {
    v.paint();
    v.requestDraw();
    v.draw();
  }
  const { width, height } = v.canvas, copy = new OffscreenCanvas(width, height);
  const pen = copy.getContext("2d", { willReadFrequently: true });
  pen.drawImage(v.canvas, 0, 0);
  const { data } = pen.getImageData(0, 0, width, height);
  let light = 0, sum = 0;
  for (let i = 0; i < data.length; i++) {
    if (i % 4 < 3) light += data[i];
    sum = (Math.imul(sum, 31) + data[i]) >>> 0;
  }
  return [light / (0.75 * data.length), sum];
})"""

# Names find their places after a while, with the frame that follows; frames come late on a loaded machine.
DRAWN = """() => new Promise((done) => {
  setTimeout(() => requestAnimationFrame(() => requestAnimationFrame(done)), 200);
})"""


# How opaque what is known beside the region is, at some places of the image.
BESIDE = """(places) => import('./static/main.js').then(({ view: v }) => {
  const pen = v.beside.getContext("2d"), { data } = pen.getImageData(0, 0, v.beside.width, v.beside.height);
  return places.map(([x, y]) => data[4 * (y * v.beside.width + x) + 3]);
})"""


def chosen(person: Person) -> int:
    return int(person.page.get_attribute('#classes [aria-pressed="true"]', "data-value") or -1)


def screen(person: Person, anew: bool = False) -> tuple[float, int]:
    """How light the canvas is, and what tells it from another, the pointer being elsewhere."""
    person.page.mouse.move(5, 5)
    person.page.evaluate(DRAWN)
    light, checksum = person.page.evaluate(SCREEN, anew)
    return light, checksum


def test_a_hundred_and_fifty_classes(nearby: Callable[..., Any], context: Any) -> None:
    person = Person(context, nearby("squares:24", classes=CLASSES))
    page, question = person.page, question_of(person)
    label, _ = pages.expected(pages.streets().image(question.stem), CLASSES)
    values, counts = np.unique(question.crop(label), return_counts=True)

    # The guess's likeliest classes come first, and have the keys 1 to 9.
    likeliest = page.evaluate("[...document.querySelectorAll('#list button')].slice(0, 9).map((b) => +b.dataset.value)")
    order = sorted(zip(-counts, values, strict=True))[:9]
    assert sorted(likeliest) == sorted(int(v) for _, v in order) or [-c for c, _ in order] == sorted(
        (int(counts[values == v][0]) for v in likeliest), reverse=True
    )
    for key in "19":
        person.press(key)
        assert chosen(person) == likeliest[int(key) - 1]

    # Void, erase, the tools and undo are in view, also at the list's end.
    page.locator(f'#list [data-value="{CLASSES - 1}"]').scroll_into_view_if_needed()
    for what in ('[data-value="255"]', '[data-value="254"]', "#toolbar", '[data-do="undo"]', "#find"):
        box = page.locator(what).first.bounding_box()
        assert box is not None and box["y"] >= 0 and box["y"] + box["height"] <= 720, what

    # What is typed into the search is no key of the page; Enter chooses what it found.
    person.press("/")
    page.keyboard.type("Thing 14")
    assert page.locator("#list button:visible").count() == 11
    page.keyboard.type("7x")
    assert page.is_visible("#none")
    person.press("Backspace", "Enter")
    assert chosen(person) == 147
    assert person.shown == question.id and person.server.answers() == []
    person.press("r")
    person.click(question, (12, 12))
    person.then("Enter")
    person.saved()
    (answer,) = person.server.answers()
    assert answer.values is not None and (answer.values == 147).all()
    # It was used last, and so it has a key now, behind the guess's.
    held = page.locator('#list [data-value="147"] kbd').count()
    first = page.evaluate("[...document.querySelectorAll('#list button')].slice(0, 9).map((b) => +b.dataset.value)")
    assert held == (147 in first)


def test_a_class_is_picked_locked_and_drawn_in_a_straight_line(nearby: Callable[..., Any], context: Any) -> None:
    person = Person(context, nearby("squares:24"))
    question, at = question_of(person), person.on_screen(question_of(person))
    shown = pages.expected(pages.streets().image(question.stem), pages.streets().space.num_classes)[0]
    person.page.keyboard.down("Alt")
    person.click(question, (3.5, 3.5))
    person.page.keyboard.up("Alt")
    assert chosen(person) == question.crop(shown)[3, 3]
    assert (painted(person) == NOT_LABELLED).all()

    # Shift and a click: a line from where the last stroke ended.
    person.press("b", "3")
    person.page.locator("#size").fill("1")
    person.click(question, (20.5, 2.5))
    person.page.keyboard.down("Shift")
    person.page.mouse.click(*at(20.5, 21.5))
    person.page.keyboard.up("Shift")
    assert (painted(person)[20, 2:22] == 2).all() and (painted(person) == 2).sum() == 20

    # Nothing changes a locked class where it shows, and everything else.
    person.page.click("#lock")
    assert person.page.get_attribute("#lock", "aria-pressed") == "true"
    locked = painted(person) == 2
    guessed = (question.crop(shown) == 2) & ~locked
    person.press("6", "6")
    after = painted(person)
    assert (after[locked] == 2).all() and (after[guessed] == NOT_LABELLED).all()
    assert (after[~locked & ~guessed] == 5).all()
    person.press("3")
    person.page.click("#lock")
    person.press("6", "6")
    assert (painted(person) == 5).all()


def test_tools_and_light_are_kept_over_a_reload(nearby: Callable[..., Any], context: Any) -> None:
    person = Person(context, nearby("squares:24"))
    page = person.page
    plain = screen(person)
    page.click("#appearance summary")
    page.locator("#brightness").fill("60")
    bright = screen(person)
    assert bright[0] > plain[0] + 10
    page.click("#dimmed")
    assert screen(person)[0] > bright[0] + 10
    page.click("#outlines")
    outlined = screen(person)
    person.press("b")
    page.locator("#size").fill("23")
    page.locator("#opacity").fill("70")
    screen_before = screen(person)
    page.reload()
    person.ready()
    assert page.get_attribute('[data-tool="brush"]', "aria-checked") == "true"
    assert (page.input_value("#size"), page.input_value("#opacity")) == ("23", "70")
    assert page.input_value("#brightness") == "60" and page.is_checked("#outlines") and not page.is_checked("#dimmed")
    assert screen(person) == screen_before
    page.locator("#opacity").fill("55")
    assert screen(person) == outlined
    page.click("#appearance summary")
    page.click('[data-do="plain"]')
    assert screen(person) == plain


def test_what_is_drawn_in_parts_is_what_is_drawn_at_once(nearby: Callable[..., Any], context: Any) -> None:
    """After strokes, undo and a moving brush, the screen shows what a drawing of everything would."""
    person = Person(context, nearby("superpixels:12"))
    question = question_of(person)
    h, w = question.size
    for outlines in (False, True):
        if outlines:
            person.page.click("#appearance summary")
            person.page.click("#outlines")
        person.press("b", "3")
        person.drag(question, (0.2 * h, 0.1 * w), (0.8 * h, 0.5 * w), (0.3 * h, 0.9 * w))
        person.press("v")
        person.drag(question, (0.7 * h, 0.1 * w), (0.2 * h, 0.8 * w))
        person.press("5")
        person.drag(question, (0.5 * h, 0.9 * w), (0.5 * h, 0.2 * w))
        person.press("Control+z")
        assert screen(person) == screen(person, anew=True)


def test_what_was_answered_beside_the_region_is_shown(nearby: Callable[..., Any], context: Any) -> None:
    person = Person(context, nearby("squares:24"))
    first = person.shown
    person.then("6", "6", "Enter")
    person.saved()
    person.then("ArrowRight")
    person.page.wait_for_function("import('./static/main.js').then(({ view: v }) => v.beside !== null)")
    asked_of = {q.id: q for q in person.server.questions()}
    assert asked_of[first].stem == question_of(person).stem
    boxes = [question.box for question in (asked_of[first], question_of(person))]
    there, here = person.page.evaluate(BESIDE, [[(x0 + x1) // 2, (y0 + y1) // 2] for y0, x0, y1, x1 in boxes])
    assert there > 0 and here == 0
    person.page.click("#settings")
    person.page.uncheck("#neighbours")
    person.page.click("#options-form button")
    person.page.wait_for_selector("#canvas:focus")  # until the dialog has gone, keys are its own
    person.then("ArrowRight")
    person.page.wait_for_timeout(500)
    assert person.page.evaluate("import('./static/main.js').then(({ view: v }) => v.beside === null)")


def test_dark_colours_are_lifted_and_stay_apart(nearby: Callable[..., Any], context: Any) -> None:
    person = Person(context, nearby("squares:24"))
    colours = [[0, 0, 0], [64, 0, 0], [0, 0, 64], [64, 0, 128], [192, 128, 128], [255, 255, 255], [0, 64, 64]]
    looks = (
        "(colours) => import('./static/looks.js').then(({ Looks }) => "
        "new Looks({ classes: colours.map(String), colours }, { safe: false, bright: true }).colours)"
    )
    shown = [[int(n) for n in c[4:-1].split()] for c in person.page.evaluate(looks, colours)]
    assert len({tuple(c) for c in shown}) == len(colours)
    for before, after in zip(colours, shown, strict=True):
        assert np.dot(after, [0.21, 0.72, 0.07]) >= min(np.dot(before, [0.21, 0.72, 0.07]), 60)
        assert max(after) >= 80
    assert shown[5] == [255, 255, 255]
