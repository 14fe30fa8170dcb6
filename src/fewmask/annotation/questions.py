"""Questions and answers as plain records.

Shapes: H×W pixels of an image · h×w pixels of a region's box.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal

import numpy as np

from fewmask.labels import NOT_LABELLED, VOID, Mask


@dataclass(frozen=True, eq=False)
class Question:
    """ "Which classes are these pixels?", asked about one region of one image.

    `kind` says how the image was divided into regions ("squares:30", "superpixels:256:10", "points"), and `region` is
    the region's number in that division. The image, `kind` and `region` identify a question; it is asked once.
    """

    domain: str
    stem: str
    kind: str
    region: int
    box: tuple[int, int, int, int]
    """y0, x0, y1, x1 in pixels, without the ends. A point is a box of one pixel."""
    score: float = 0.0
    """The score by which the acquisition ranked it."""
    cost: float = 1.0
    """The expected cost, in the unit of the campaign's budget."""
    shape: np.ndarray | None = None
    """(h,w) bool, the region's pixels inside of its box; None where it fills the box."""
    guess: int | None = None
    """The class that the network expects."""
    id: int = 0
    """The ledger sets it, as it sets `round` and `asked_at` (UTC)."""
    round: int = 0
    asked_at: str = ""

    @property
    def size(self) -> tuple[int, int]:
        """(h, w) of the box."""
        y0, x0, y1, x1 = self.box
        return y1 - y0, x1 - x0

    @property
    def inside(self) -> np.ndarray:
        """(h,w) bool: the pixels of the box that are asked about."""
        return np.ones(self.size, dtype=bool) if self.shape is None else self.shape

    def window(self, picture: np.ndarray) -> np.ndarray:
        """The part (h,w,…) of a picture (H,W,…) that lies in the box, as a view."""
        y0, x0, y1, x1 = self.box
        return picture[y0:y1, x0:x1]

    def crop(self, mask: Mask) -> Mask:
        """The values (h,w) uint8 of a mask (H,W) in the region's box, 254 outside of the region."""
        return np.where(self.inside, self.window(mask), np.uint8(NOT_LABELLED))

    def __str__(self) -> str:
        return f"{self.domain}/{self.stem} {self.kind} #{self.region}"


@dataclass(frozen=True, eq=False)
class Answer:
    """One action on a question: an answer, a skip, a retraction, or its undoing. Nothing is ever erased."""

    question: int
    """The question's id."""
    annotator: str
    token: str
    """A key that the sender chooses. An answer that arrives several times under one token is one answer."""
    values: Mask | None = None
    """(h,w) uint8 of the question's box: classes, 255 for void, 254 outside of the region or where nothing is decided.
    Only the kind "answer" has values."""
    kind: Literal["answer", "skip", "retract", "restore"] = "answer"
    """A reviewer's verdict alone writes the kind "restore"."""
    retracts: int | None = None
    """The id of the answer or skip that is taken back or restored. The other kinds have none."""
    seconds: float | None = None
    """The working time. It is None where nobody measured it; so are `clicks`."""
    clicks: float | None = None
    id: int = 0
    """The ledger sets it in the order of arrival, as it sets `at` (UTC)."""
    at: str = ""


def check_question(question: Question, height: int, width: int) -> None:
    """Assert that the region lies inside its image, has a pixel, and has a finite score and cost."""
    y0, x0, y1, x1 = question.box
    assert 0 <= y0 < y1 <= height and 0 <= x0 < x1 <= width, f"{question}: box {question.box} of {height}×{width}"
    inside = question.inside
    assert inside.shape == question.size and inside.dtype == bool and inside.any(), f"{question}: {inside.shape}"
    assert np.isfinite(question.score) and np.isfinite(question.cost), f"{question}: {question.score}, {question.cost}"


def questions_digest(questions: Iterable[Question]) -> str:
    """A hash of the regions of these questions, in any order. It ignores scores, costs and guesses."""
    regions = sorted((q.domain, q.stem, q.kind, int(q.region), *map(int, q.box), q.inside.tobytes()) for q in questions)
    return blake2b(repr(regions).encode(), digest_size=16).hexdigest()


JOINERS = str.maketrans("", "", "\u200c\u200d")
"""Invisible characters that Persian and Indian names are written with."""
A_YEAR = 365 * 24 * 3600.0


def name_fault(name: str) -> str:
    """Why a text is not valid as an annotator's name; empty where it is valid.

    The ledger keeps a name for ever, and terminals, tables and other people read it.
    """
    if not name.strip():
        return f"annotator {name!r} is no name; give one"
    if name != name.strip():
        return f"annotator {name!r} begins or ends with a blank; leave it out, or two people look like one"
    if not name.translate(JOINERS).isprintable():
        return f"annotator {name!r} holds characters that cannot be seen; write letters, digits, signs and blanks alone"
    return ""


def work_fault(answer: Answer) -> str:
    """Why the answer's seconds or clicks are invalid; empty where they are valid. Sums of valid ones stay finite."""
    for unit, number in (("seconds", answer.seconds), ("clicks", answer.clicks)):
        if number is not None and not (math.isfinite(number) and 0 <= number <= A_YEAR):
            return f"{number:g} {unit} for one answer; give 0..{A_YEAR:.0f}"
    return ""


def answer_fault(answer: Answer, question: Question, classes: int) -> str:
    """Why the answer is not valid for the question; empty where it is valid."""
    return name_fault(answer.annotator) or work_fault(answer) or _values_fault(answer, question, classes)


def _values_fault(answer: Answer, question: Question, classes: int) -> str:
    values = answer.values
    if answer.kind != "answer":
        return "" if values is None else f"of kind {answer.kind}, yet with values; send none"
    if values is None:
        return "no values; send them, or skip the question"
    if values.dtype != np.uint8 or values.shape != question.size:
        h, w = question.size
        return f"values are uint8 of the box's {h}×{w} pixels, these are {values.dtype} of shape {values.shape}"
    unknown = np.unique(values[(values >= classes) & (values != NOT_LABELLED) & (values != VOID)]).tolist()
    if unknown:
        return f"values {unknown} are no class; classes are 0..{classes - 1}, beside 254 not labelled and 255 void"
    if (values[~question.inside] != NOT_LABELLED).any():
        return "values outside of the region that was asked about; leave 254 there"
    return "" if (values != NOT_LABELLED).any() else "nothing is decided, all is 254; skip the question instead"


@dataclass(frozen=True)
class Progress:
    """The progress of the answers. Every question is answered, skipped (by everybody who saw it) or open.

    A question is open until as many annotators as the ledger's rule waits for have answered or skipped it.
    """

    asked: int
    answered: int
    skipped: int
    open: int
    pixels: int
    """Pixels that the answers decided by the ledger's rule, each question counted once."""
    seconds: float
    """The time of all work, with corrections and retracted answers."""
    clicks: float
    """Likewise."""
    cost: float
    """The expected cost of the questions."""


@dataclass(frozen=True)
class Work:
    """The work of one annotator."""

    answered: int
    """Questions of which their last action is an answer."""
    skipped: int
    seconds: float
    """The time of all their work, with corrections and retracted answers."""
    clicks: float
    """Likewise."""
    last: str | None
    """When they did something last, UTC; None where they did nothing yet."""
