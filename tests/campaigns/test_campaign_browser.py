"""A campaign whose annotator is a person at the page: all by the command line, mouse and keys, whatever is killed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from browsing import NAME, Person, Place, Server
from ondisk import environment

from fewmask.annotation.questions import Question
from fewmask.config import ScenesDomain
from fewmask.data import scenes
from fewmask.labels import VOID, Mask

pytestmark = [pytest.mark.slow, pytest.mark.browser]

SCENES = {"layout": "scenes", "kind": "streets", "train": 20, "val": 8, "test": 2}
FIRST, NEXT = 6, 34
ASK = {"regions": "squares:16", "budget": {"amount": NEXT, "unit": "regions"}}
CONFIG = {
    "name": "asked",
    "domains": {"streets": SCENES},
    "labelled": {"images": 0},
    "model": {"encoder": "tu-mobilenetv2_050"},
    "method": "supervised",
    "train": {
        "steps": 40,
        "batch_size": 8,
        "crop": [96, 128],
        "optimiser": {"lr": 2e-3, "head_lr": 4e-3},
        "workers": 0,
    },
    "campaign": {
        "rounds": 2,
        "annotator": "people",
        "start": "fresh",  # as many steps in each round, so that what rises does so by the answers
        "first": {**ASK, "score": "random", "budget": {"amount": FIRST, "unit": "regions"}},
        "ask": {**ASK, "score": "entropy"},
        "pool": {"scales": [1.0]},
    },
}
CLASS_KEYS = {**{value: str(value + 1) for value in range(9)}, VOID: "v"}


def fewmask(*arguments: object) -> Any:
    """What a verb says in a process of its own."""
    command = [sys.executable, "-m", "fewmask.cli", *map(str, arguments), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@contextmanager
def page_of(run: Path) -> Iterator[Server]:
    # A server that was killed learns anew, and the guess below half-painted work would be another one.
    server = Server(run, "-m", "fewmask.cli", "answer", run, "--device", "cpu", "--no-learn")
    try:
        yield server
    finally:
        server.kill()


@dataclass(frozen=True)
class Gesture:
    """What a hand does with a tool and a class."""

    tool: str
    value: int
    places: tuple[Place, ...]
    changes: np.ndarray
    """(h,w) bool: the pixels that it paints."""


class Annotator(Person):
    """Somebody who knows the truth (h,w) of a region, and paints only where the page shows something else."""

    def shows(self, question: Question) -> Mask:
        """What stands in the region's box: what is painted or, below it, the guess."""
        values = self.page.evaluate(
            "import('./static/main.js').then(({ annotator: { region: r } }) =>"
            " Array.from(r.values, (_, i) => r.has(i) ? r.shown(i) : 254))"
        )
        return np.array(values, np.uint8).reshape(question.size)

    def paint(self, question: Question, truth: Mask, most: int | None = None) -> None:
        """Make the page show the truth; or begin with it, by so many gestures."""
        shown, (h, w) = self.shows(question), question.size
        most_often = int(np.bincount(truth[question.inside]).argmax())
        whole = Gesture("r", most_often, ((h / 2, w / 2),), question.inside)
        plans = plan(shown, truth), [whole, *plan(np.where(question.inside, np.uint8(most_often), shown), truth)]
        for gesture in min(plans, key=lambda gestures: sum(len(g.places) for g in gestures))[:most]:
            self.do(question, gesture)
        if most is None:
            np.testing.assert_array_equal(self.shows(question), truth)

    def do(self, question: Question, gesture: Gesture) -> None:
        self.press(gesture.tool)
        while gesture.tool == "b" and self.page.input_value("#size") != "1":
            self.press("[")
        if not self.page.is_visible(f'#classes [data-value="{gesture.value}"][aria-pressed="true"]'):
            self.press(CLASS_KEYS[gesture.value])
        (self.drag if gesture.tool == "b" else self.click)(question, *gesture.places)
        if gesture.tool == "p":
            self.press("Enter")


def plan(shown: Mask, truth: Mask) -> list[Gesture]:
    """What is to be done until the truth is shown, largest areas first: fill, a polygon, or strokes along rows."""
    shown, gestures = shown.copy(), list[Gesture]()
    while (wrong := shown != truth).any():
        areas = [part for value in np.unique(truth[wrong]) for part in parts(wrong & (truth == value))]
        area = max(areas, key=np.count_nonzero)
        value = int(truth[area][0])
        y, x = np.argwhere(area)[0].tolist()
        flood = next(part for part in parts(shown == shown[y, x]) if part[y, x])
        rows = runs(area)
        if (truth[flood] == value).all():
            done = [Gesture("f", value, ((y + 0.5, x + 0.5),), flood)]
        elif len(rows) > 2 and len({y for y, _, _ in rows}) == len(rows):
            done = [Gesture("p", value, outline(rows), area)]
        else:
            done = [Gesture("b", value, ((y + 0.5, x0 + 0.5), (y + 0.5, x1 - 0.5)), area) for y, x0, x1 in rows]
        gestures += done
        for gesture in done:
            shown[gesture.changes] = value
    return gestures


def parts(where: np.ndarray) -> list[np.ndarray]:
    """What hangs together, edge by edge."""
    count, components = cv2.connectedComponents(where.astype(np.uint8), connectivity=4)
    return [components == number for number in range(1, count)]


def runs(area: np.ndarray) -> list[tuple[int, int, int]]:
    """The runs of an area along its rows: y, and the first and the end of x."""
    steps = np.diff(np.pad(area.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    return [
        (y, x0, x1)
        for y, row in enumerate(steps)
        for x0, x1 in zip(np.flatnonzero(row > 0).tolist(), np.flatnonzero(row < 0).tolist(), strict=True)
    ]


def outline(rows: list[tuple[int, int, int]]) -> tuple[Place, ...]:
    """The corners of an area of one run a row: down its left side and up its right one, along the edges of pixels."""
    left = [(y + down, x0) for y, x0, _ in rows for down in (0, 1)]
    right = [(y + down, x1) for y, _, x1 in reversed(rows) for down in (1, 0)]
    corners = [*left, *right]
    around = zip(corners[-1:] + corners[:-1], corners, corners[1:] + corners[:1], strict=True)
    return tuple((float(y), float(x)) for (ay, ax), (y, x), (by, bx) in around if not (ax == x == bx or ay == y == by))


def test_a_campaign_goes_on_with_what_was_answered(tmp_path: Path, context: Any) -> None:
    """Undo, redo, leafing, a skip, a reload and two kills of the server; then mIoU has risen."""
    config, run = tmp_path / "asked.yaml", tmp_path / "run"
    config.write_text(yaml.safe_dump(CONFIG), encoding="utf-8")
    domain = scenes.domain("streets", ScenesDomain.model_validate(SCENES))

    # Nothing is labelled: the first questions come without guesses, and each answer is painted from nothing.
    waiting = fewmask("campaign", config, "--out", run)
    assert (waiting["state"], waiting["open"], waiting["history"]) == ("waiting", FIRST, [])
    with page_of(run) as server:
        questions = {q.id: q for q in server.questions()}
        truth = {n: q.crop(domain.mask(q.stem)) for n, q in questions.items()}
        person = Annotator(context, server)
        for _ in range(FIRST):
            number = person.shown
            person.paint(questions[number], truth[number])
            person.then("Enter")
        person.saved()
        assert person.page.is_visible("#end")
        person.page.close()

    # The next ones come with the network's.
    waiting = fewmask("campaign", config, "--out", run)
    assert (waiting["state"], waiting["open"]) == ("waiting", NEXT)
    with page_of(run) as server:
        questions = {q.id: q for q in server.questions()}
        truth = {n: q.crop(domain.mask(q.stem)) for n, q in questions.items()}
        before = len(server.answers())
        person = Annotator(context, server, name=None)
        answer_all(person, server, questions, truth)
        answers = server.answers()
        assert len({a.token for a in answers}) == len(answers) == before + NEXT + 3  # taken back and redone; skipped

    # One answer of each question stands, and it is the truth, pixel by pixel.
    words = server.words()
    assert set(words) == set(questions)
    assert len({(q.stem, q.kind, q.region) for q in questions.values()}) == FIRST + NEXT
    for number, word in words.items():
        np.testing.assert_array_equal(word.values, truth[number], err_msg=str(questions[number]))
        assert word.annotator == NAME and word.seconds and word.clicks
    assert VOID in np.concatenate([mask.ravel() for mask in truth.values()])

    # The same command goes on, asks nothing more, and has learned from it.
    done = fewmask("campaign", config, "--out", run)
    assert (done["state"], done["answered"], done["open"]) == ("done", FIRST + NEXT, 0)
    assert server.questions() and {q.id for q in server.questions()} == set(questions)
    first, last = (entry["miou"]["streets"] for entry in done["history"])
    assert last > first + 0.02


def answer_all(person: Annotator, server: Server, questions: dict[int, Question], truth: dict[int, Mask]) -> None:
    """Answer what is open, and let all happen meanwhile that may happen."""
    page, answered = person.page, list[int]()

    def answer() -> None:
        number = person.shown
        person.paint(questions[number], truth[number])
        if len(answered) % 2:
            person.press("Enter")
        else:
            page.click("#confirm")
        person.away_from(number)
        answered.append(number)

    answer()

    # A slip of the hand, undone, redone and undone again.
    shown = person.shows(questions[person.shown])
    person.press("1", "1", "v", "v")
    assert (person.shows(questions[person.shown]) == VOID).all()
    person.press("Control+z", "Control+z", "Control+y", "Control+z")
    np.testing.assert_array_equal(person.shows(questions[person.shown]), shown)
    answer()

    # The last answer is taken back, and given again by redo.
    last, here = answered[-1], person.shown
    person.press("Control+z")
    person.ready(last)
    person.saved()
    assert last not in server.words()
    person.press("Control+Shift+z")
    person.ready(here)

    # Leafing back and forth changes nothing.
    person.then("ArrowLeft")
    assert person.shown == last
    np.testing.assert_array_equal(person.shows(questions[last]), truth[last])
    person.then("ArrowRight")
    assert person.shown == here

    # Skipped; it is come back to in the end.
    skipped = here
    person.then("x")
    answer()

    # A reload, with half of it painted.
    number = person.shown
    person.paint(questions[number], truth[number], most=1)
    begun = person.shows(questions[number])
    page.reload()
    person.ready(number)
    np.testing.assert_array_equal(person.shows(questions[number]), begun)
    answer()

    # The server is killed at once after an answer, and while nobody is there two more are given.
    number = person.shown
    person.paint(questions[number], truth[number])
    person.press("Enter")
    server.kill()
    person.away_from(number)
    answered.append(number)
    for _ in range(2):
        answer()
    page.wait_for_selector('#saved[data-state="unsaved"]')
    assert not set(answered[-2:]) & set(server.words())
    server.start()
    person.saved()
    assert set(answered) <= set(server.words())

    # Killed with half of it painted, and the tab reloaded when it is back.
    number = person.shown
    person.paint(questions[number], truth[number], most=1)
    begun = person.shows(questions[number])
    server.kill()
    server.start()
    page.reload()
    person.ready(number)
    np.testing.assert_array_equal(person.shows(questions[number]), begun)

    while len(answered) < NEXT - 1:
        answer()
    assert page.is_visible("#end")
    while person.shown != skipped:
        before = person.shown
        person.press("ArrowLeft")
        page.wait_for_selector(f'#canvas[data-shown]:not([data-shown="{before}"])')
        person.ready(person.shown)
    assert "skipped" in page.inner_text("#where")
    answer()
    assert page.is_visible("#end")
    person.saved()
    assert f"{len(questions)} of {len(questions)}" in page.inner_text("#counts")
    assert (person.page.locator("#counts").get_attribute("title") or "").startswith(
        f"{len(questions)} answered, 0 skipped"
    )
