"""Tasks out: what a person needs to answer the open questions about an image, whatever tool it is shown in.

Shapes: H×W pixels of an image · h×w pixels of a region's box.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from hashlib import blake2b
from pathlib import Path
from typing import ParamSpec, TypeVar

import cv2
import numpy as np

from fewmask.annotation.ledger import Ledger
from fewmask.annotation.questions import Question
from fewmask.data.domain import Domain
from fewmask.data.pictures import write_image
from fewmask.files import Written
from fewmask.labels import NOT_LABELLED, VOID, LabelSpace, Mask
from fewmask.paths import below

P = ParamSpec("P")
T = TypeVar("T")
IMAGES, ASKED = "images", "asked"
OUTLINE = (255, 225, 0)
DIM = 0.4

Part = tuple[int, tuple[int, int, int, int], np.ndarray]
"""A value of a mask, the box y0, x0, y1, x1 around its pixels, and which pixels of the box they are (h,w) bool."""


@dataclass(frozen=True, eq=False)
class Task:
    """An image with open questions."""

    domain: Domain
    stem: str
    questions: Sequence[Question]
    size: tuple[int, int]
    """(H, W)."""

    def guess(self, question: Question) -> Mask:
        """What the network expects in a region: (h,w) of its box, 254 outside of it and where nothing is expected.

        The domain's pseudo-labels, pixel by pixel, or where it has none the question's own guess.
        """
        if self.domain.pseudo is not None and (said := self.domain.pseudo.read(self.stem)):
            return question.crop(said[0])
        expected = NOT_LABELLED if question.guess is None else question.guess
        return np.where(question.inside, np.uint8(expected), np.uint8(NOT_LABELLED))

    def guess_parts(self) -> Iterator[tuple[Question, Part]]:
        """The same of all its questions, each value of each region by itself: so people can change them one by one."""
        for question in self.questions:
            y, x = question.box[:2]
            for value, (y0, x0, y1, x1), pixels in parts(self.guess(question)):
                yield question, (value, (y + y0, x + x0, y + y1, x + x1), pixels)

    @property
    def guesses(self) -> Mask:
        """The same of all its questions as one mask (H,W)."""
        mask = np.full(self.size, NOT_LABELLED, dtype=np.uint8)
        for question in self.questions:
            guess = self.guess(question)
            np.copyto(question.window(mask), guess, where=guess != NOT_LABELLED)
        return mask

    def write_pictures(self, folder: Path) -> None:
        """The image, and where in it the regions are, as `images/<stem>.png` and `asked/<stem>.png`."""
        image = self.domain.image(self.stem)
        write_image(png(folder / IMAGES, self.stem), image)
        write_image(png(folder / ASKED, self.stem), mark(image, self.questions))


def tasks(
    ledger: Ledger, domains: Mapping[str, Domain], questions: Sequence[Question]
) -> list[tuple[Domain, list[Task]]]:
    """The images of questions, by domain. Raises ValueError when one is gone, or is not what it was when it was asked
    about."""
    found: dict[str, list[Task]] = {}
    for (name, stem), asked in by_image(questions).items():
        size = ledger.sizes(name, stem)[stem]
        found.setdefault(name, []).append(Task(domains[name], stem, asked, size))
    for name, those in found.items():
        ledger.expect(domains[name])
        ledger.add_images(domains[name], [task.stem for task in those])
    return [(domains[name], found[name]) for name in sorted(found)]


def png(folder: Path, stem: str) -> Path:
    """The PNG of an image in a folder, whose subfolders are those of the stem. Raises ValueError as `below` does."""
    return below(folder, stem, ending=".png")


def guarded(write: Callable[P, T]) -> Callable[P, T]:
    """A tool's `write_questions` (ledger, domains, folder, …) that replaces nothing in the folder but what it wrote:
    it may hold masks that people paint, or somebody's data. Raises ValueError where it would."""

    @wraps(write)
    def guarded_write(*given: P.args, **named: P.kwargs) -> T:
        folder = given[2] if len(given) > 2 else named["folder"]
        assert isinstance(folder, Path)
        with Written(folder, "ours").guard():
            return write(*given, **named)

    return guarded_write


def guesses(tasks: Sequence[Task]) -> Iterator[tuple[str, Mask]]:
    """The stems of tasks with their guesses, one mask in memory at a time."""
    for task in tasks:
        yield task.stem, task.guesses


def identity(ledger: Ledger) -> str:
    """Tells this ledger from any other, whatever is appended to it. Raises ValueError where nothing was asked yet."""
    first = ledger.questions(min(ledger.rounds(), default=None))[:1]
    if not first:
        raise ValueError(f"{ledger.path}: nothing was asked yet; let the campaign go on, then it asks")
    return blake2b(f"{first[0].id} {first[0].asked_at} {first[0]}".encode(), digest_size=8).hexdigest()


def by_image(questions: Sequence[Question]) -> dict[tuple[str, str], list[Question]]:
    """Questions by (domain, stem)."""
    found: dict[tuple[str, str], list[Question]] = {}
    for question in questions:
        found.setdefault((question.domain, question.stem), []).append(question)
    return found


def mark(image: np.ndarray, questions: Sequence[Question]) -> np.ndarray:
    """The image (H,W,3) uint8 with the questions' regions outlined and all the rest dimmed."""
    height, width = image.shape[:2]
    asked, outline = np.zeros((2, height + 2, width + 2), dtype=bool)
    for question in questions:
        y0, x0, y1, x1 = question.box
        region = np.pad(question.inside, 1)
        around = cv2.dilate(region.view(np.uint8), np.ones((3, 3), np.uint8)).view(bool) & ~region
        asked[y0 : y1 + 2, x0 : x1 + 2] |= region
        outline[y0 : y1 + 2, x0 : x1 + 2] |= around
    inner = (slice(1, -1), slice(1, -1))
    shown = np.where(asked[inner][..., None], image, (image * DIM).astype(np.uint8))
    shown[(outline & ~asked)[inner]] = OUTLINE
    return shown


def labels(space: LabelSpace) -> dict[str, int]:
    """The labels that a tool offers, with the mask values that they stand for: the classes, and one for void.

    Not labelled is no label: it is what nobody painted.
    """
    void = next(name for name in ("void", "void (no class)", "void: no class") if name not in space.names)
    return {name: value for value, name in enumerate(space.names)} | {void: VOID}


def label_colours(space: LabelSpace) -> list[tuple[int, int, int]]:
    """A colour for each of `labels`, no two alike and none black: the space's own where that holds."""
    taken, chosen = {(0, 0, 0)}, []
    for colour in (*space.colours, (90, 90, 90)):
        while colour in taken:
            colour = (colour[0], colour[1], colour[2] + 1) if colour[2] < 255 else (colour[0], (colour[1] + 1) % 256, 0)
        taken.add(colour)
        chosen.append(colour)
    return chosen


def parts(mask: Mask) -> Iterator[Part]:
    """Each value of a mask (h,w) but 254."""
    for value in np.unique(mask[mask != NOT_LABELLED]).tolist():
        pixels = mask == value
        (ys,), (xs,) = np.nonzero(pixels.any(axis=1)), np.nonzero(pixels.any(axis=0))
        box = int(ys[0]), int(xs[0]), int(ys[-1]) + 1, int(xs[-1]) + 1
        yield value, box, pixels[box[0] : box[2], box[1] : box[3]]
