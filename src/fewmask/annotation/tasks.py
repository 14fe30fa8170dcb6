"""Makes tasks: the pictures, labels and guesses that a person needs to answer the open questions about an image.

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
from fewmask.formats.bands import as_rgb
from fewmask.labels import NOT_LABELLED, VOID, LabelSpace, Mask
from fewmask.paths import below

P = ParamSpec("P")
T = TypeVar("T")
IMAGES, ASKED = "images", "asked"
OUTLINE = (255, 225, 0)
DIM = 0.4

Part = tuple[int, tuple[int, int, int, int], np.ndarray]
"""A value of a mask, the box y0, x0, y1, x1 around its pixels, and its pixels in the box, (h,w) bool."""


@dataclass(frozen=True, eq=False)
class Task:
    """An image with open questions."""

    domain: Domain
    stem: str
    questions: Sequence[Question]
    size: tuple[int, int]
    """(H, W)."""

    def guess(self, question: Question) -> Mask:
        """The network's guess for a region: (h,w) of its box, 254 outside of the region and where there is no guess.

        It is made of the domain's pseudo-labels or, where there are none, of the question's own guess.
        """
        if self.domain.pseudo is not None and (pseudo_labels := self.domain.pseudo.read(self.stem)):
            return question.crop(pseudo_labels[0])
        expected = NOT_LABELLED if question.guess is None else question.guess
        return np.where(question.inside, np.uint8(expected), np.uint8(NOT_LABELLED))

    def guess_parts(self) -> Iterator[tuple[Question, Part]]:
        """The guesses of all questions as separate parts for each value of each region, which people can change
        singly."""
        for question in self.questions:
            y, x = question.box[:2]
            for value, (y0, x0, y1, x1), pixels in parts(self.guess(question)):
                yield question, (value, (y + y0, x + x0, y + y1, x + x1), pixels)

    @property
    def guesses(self) -> Mask:
        """The guesses of all questions as one mask (H,W)."""
        mask = np.full(self.size, NOT_LABELLED, dtype=np.uint8)
        for question in self.questions:
            guess = self.guess(question)
            np.copyto(question.window(mask), guess, where=guess != NOT_LABELLED)
        return mask

    def write_pictures(self, folder: Path) -> None:
        """Write the image as `images/<stem>.png`, and the image with marked regions as `asked/<stem>.png`."""
        image = self.domain.image(self.stem)
        write_image(png(folder / IMAGES, self.stem), image)
        write_image(png(folder / ASKED, self.stem), mark(image, self.questions))


def tasks(
    ledger: Ledger, domains: Mapping[str, Domain], questions: Sequence[Question]
) -> list[tuple[Domain, list[Task]]]:
    """The images of questions as tasks, by domain. Raises ValueError when an image is missing or has changed."""
    by_domain: dict[str, list[Task]] = {}
    for (name, stem), image_questions in by_image(questions).items():
        size = ledger.sizes(name, stem)[stem]
        by_domain.setdefault(name, []).append(Task(domains[name], stem, image_questions, size))
    for name, domain_tasks in by_domain.items():
        ledger.expect(domains[name])
        ledger.add_images(domains[name], [task.stem for task in domain_tasks])
    return [(domains[name], by_domain[name]) for name in sorted(by_domain)]


def png(folder: Path, stem: str) -> Path:
    """The path of an image's PNG in a folder. Its subfolders are those of the stem. Raises ValueError as `below`
    does."""
    return below(folder, stem, ending=".png")


def guarded(write: Callable[P, T]) -> Callable[P, T]:
    """Make a tool's `write_questions` (ledger, domains, folder, …) replace only files that it wrote.

    The folder may hold masks that people paint, or somebody's data. Raises ValueError where it would replace them.
    """

    @wraps(write)
    def guarded_write(*arguments: P.args, **keywords: P.kwargs) -> T:
        folder = arguments[2] if len(arguments) > 2 else keywords["folder"]
        assert isinstance(folder, Path)
        with Written(folder, "ours").guard():
            return write(*arguments, **keywords)

    return guarded_write


def guesses(tasks: Sequence[Task]) -> Iterator[tuple[str, Mask]]:
    """Yield the stems of tasks with their guesses. One mask is in memory at a time."""
    for task in tasks:
        yield task.stem, task.guesses


def identity(ledger: Ledger) -> str:
    """A hash that identifies a ledger, whatever is appended to it. Raises ValueError where nothing was asked yet."""
    first = ledger.questions(min(ledger.rounds(), default=None))[:1]
    if not first:
        raise ValueError(f"{ledger.path}: nothing was asked yet; let the campaign go on, then it asks")
    return blake2b(f"{first[0].id} {first[0].asked_at} {first[0]}".encode(), digest_size=8).hexdigest()


def by_image(questions: Sequence[Question]) -> dict[tuple[str, str], list[Question]]:
    """Questions by (domain, stem)."""
    questions_by_image: dict[tuple[str, str], list[Question]] = {}
    for question in questions:
        questions_by_image.setdefault((question.domain, question.stem), []).append(question)
    return questions_by_image


def mark(image: np.ndarray, questions: Sequence[Question]) -> np.ndarray:
    """The image (H,W,3) uint8 with the questions' regions outlined and the rest dimmed."""
    image = as_rgb(image)
    height, width = image.shape[:2]
    asked_pixels, outline = np.zeros((2, height + 2, width + 2), dtype=bool)
    for question in questions:
        y0, x0, y1, x1 = question.box
        region = np.pad(question.inside, 1)
        around = cv2.dilate(region.view(np.uint8), np.ones((3, 3), np.uint8)).view(bool) & ~region
        asked_pixels[y0 : y1 + 2, x0 : x1 + 2] |= region
        outline[y0 : y1 + 2, x0 : x1 + 2] |= around
    inner = (slice(1, -1), slice(1, -1))
    shown = np.where(asked_pixels[inner][..., None], image, (image * DIM).astype(np.uint8))
    shown[(outline & ~asked_pixels)[inner]] = OUTLINE
    return shown


def labels(space: LabelSpace) -> dict[str, int]:
    """The labels that a tool offers, with their mask values: the classes and one for void.

    "Not labelled" is no label, because it means that nobody painted.
    """
    void = next(name for name in ("void", "void (no class)", "void: no class") if name not in space.names)
    return {name: value for value, name in enumerate(space.names)} | {void: VOID}


def label_colours(space: LabelSpace) -> list[tuple[int, int, int]]:
    """A colour for each of `labels`. All differ, none is black, and the space's own colour is used where possible."""
    used, colours = {(0, 0, 0)}, []
    for colour in (*space.colours, (90, 90, 90)):
        while colour in used:
            colour = (colour[0], colour[1], colour[2] + 1) if colour[2] < 255 else (colour[0], (colour[1] + 1) % 256, 0)
        used.add(colour)
        colours.append(colour)
    return colours


def parts(mask: Mask) -> Iterator[Part]:
    """The part of each value of a mask (h,w) except 254."""
    for value in np.unique(mask[mask != NOT_LABELLED]).tolist():
        pixels = mask == value
        (ys,), (xs,) = np.nonzero(pixels.any(axis=1)), np.nonzero(pixels.any(axis=0))
        box = int(ys[0]), int(xs[0]), int(ys[-1]) + 1, int(xs[-1]) + 1
        yield value, box, pixels[box[0] : box[2], box[1] : box[3]]
