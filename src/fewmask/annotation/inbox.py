"""Answers in: what was painted becomes answers to what was asked, all of it or, where anything is wrong, nothing.

Shapes: H×W pixels of an image · h×w pixels of a region's box.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import PurePosixPath
from typing import Literal

import numpy as np

from fewmask.annotation.facts import Answer, Question
from fewmask.annotation.ledger import Ledger
from fewmask.annotation.tasks import by_image
from fewmask.data.domain import Domain
from fewmask.labels import NOT_LABELLED, Mask

MAX_PROBLEMS = 100
ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})


@dataclass(frozen=True)
class Import:
    """What came back."""

    answered: int
    """Questions that got a new answer."""
    unchanged: int
    """Questions whose answer by this annotator is in the ledger already."""
    undecided: int
    """Questions about these images of which no pixel is painted."""
    outside: int
    """Painted pixels that lie in no region that was asked about; they are not taken."""
    skipped: int = 0
    """Questions that an annotator passed over, where the tool says so."""
    in_part: int = 0
    """Of those that got a new answer, how many leave a pixel open."""
    changed_since: int = 0
    """Questions whose answer came by this tool before, and which the annotator has answered otherwise by another since:
    the later answer stands."""


class Inbox:
    """Takes what was painted and remembers what is wrong; `save` gives it to the ledger, or raises."""

    def __init__(self, ledger: Ledger, domains: Mapping[str, Domain], tool: str) -> None:
        self._ledger, self._domains, self._tool = ledger, domains, tool
        self._asked = by_image(ledger.questions())
        self._named: dict[str, list[tuple[str, str]]] = {}
        for owner, stem in self._asked:
            self._named.setdefault(stem, []).append((owner, stem))
        self._named |= {"/".join(image): [image] for image in self._asked}
        self._sizes = {name: ledger.sizes(name) for name in ledger.classes()}
        self._last = {(word.question, word.annotator): word for word in ledger.last_words()}
        self._newest: dict[int, int] = {}
        self._brought: dict[tuple[int, str], str] = {}  # what this tool brought last, as its token tells
        self._worked: dict[tuple[int, str], float] = {}
        for answer in ledger.answers():
            self._newest[answer.question] = answer.id
            key = (answer.question, answer.annotator)
            if answer.token.startswith(f"{tool} {answer.question} {answer.annotator} "):
                self._brought[key] = answer.token.rpartition(" ")[2]
            self._worked[key] = self._worked.get(key, 0.0) + (answer.seconds or 0.0)
        self._expected: set[str] = set()
        self._new: list[Answer] = []
        self._seen: set[tuple[str, str, str, tuple[int, ...]]] = set()
        self._told: set[tuple[int, str]] = set()
        self._counts = Import(0, 0, 0, 0)
        self._problems: list[str] = []

    @contextmanager
    def problems(self) -> Iterator[None]:
        """What is raised inside as a ValueError is remembered, and the next image can be looked at."""
        try:
            yield
        except ValueError as error:
            self._problems.append(str(error))

    def domain(self, name: str, where: object) -> Domain:
        """A domain that was asked about. Raises ValueError that names `where` when there is none, or it has changed."""
        if name not in self._sizes or name not in self._domains:
            known = ", ".join(self._sizes) or "none"
            raise ValueError(f"{where}: nothing was asked about a domain of that name; there are {known}")
        if name not in self._expected:
            self._ledger.expect(self._domains[name])
            self._expected.add(name)
        return self._domains[name]

    def find(self, name: str, where: object) -> tuple[Domain, str]:
        """The image that a tool calls `name`: <stem>, <domain>/<stem> or either with a picture's ending.

        Raises ValueError when nothing was asked about one of that name, or about several.
        """
        path = PurePosixPath(name)
        names = [name, str(path.with_suffix(""))] if path.suffix.lower() in ENDINGS else [name]
        found = next((self._named[known] for known in names if known in self._named), [])
        if not found:
            raise ValueError(f"{where}: nothing was asked about an image {name!r}; remove it, or mend its name")
        if len(found) > 1:
            owners = ", ".join(owner for owner, _ in found)
            raise ValueError(f"{where}: {owners} each have an image {name!r}; call it <domain>/{name}")
        return self.domain(found[0][0], where), found[0][1]

    def size(self, domain: Domain, stem: str, where: object, found: tuple[int, int] | None = None) -> tuple[int, int]:
        """(H, W) of an image. Raises ValueError when nothing was asked about it, or when another size was found."""
        if (domain.name, stem) not in self._asked:
            raise ValueError(f"{where}: nothing was asked about an image of that name in {domain.name}; move it away")
        height, width = self._sizes[domain.name][stem]
        if found is not None and found != (height, width):
            (h, w) = found
            raise ValueError(f"{where}: {w}×{h} pixels, its image is {width}×{height}; paint it at the image's size")
        return height, width

    def take(
        self,
        domain: Domain,
        stem: str,
        mask: Mask,
        annotator: str,
        where: object,
        seconds: float | None = None,
        task: Sequence[int] | None = None,
    ) -> None:
        """Take a mask (H,W) of contract values as the annotator's answers about an image.

        `task` are the ids of the questions that were to be answered with it, by default all about the image. `seconds`
        were worked on it in all: its decided questions share them by their decided pixels, less what the ledger has of
        that time already.
        """
        questions = self._questions(domain, stem, annotator, where, task, mask.shape)
        values = [question.crop(mask) for question in questions]
        decided = [int((crop != NOT_LABELLED).sum()) for crop in values]
        outside = mask != NOT_LABELLED
        for question, crop, pixels in zip(questions, values, decided, strict=True):
            question.window(outside)[question.inside] = False
            known = self._last.get((question.id, annotator))
            if not pixels:
                self._count(undecided=1)
            elif known is not None and known.values is not None and np.array_equal(known.values, crop):
                self._count(unchanged=1)
            elif known is not None and self._brought.get((question.id, annotator)) == _said(crop):
                self._count(changed_since=1)
            else:
                share = None if seconds is None else seconds * pixels / sum(decided)
                self._add(question, annotator, where, crop, share)
                self._count(answered=1, in_part=int(pixels < question.inside.sum()))
        self._count(outside=int(outside.sum()))

    def skip(
        self,
        domain: Domain,
        stem: str,
        annotator: str,
        where: object,
        seconds: float | None = None,
        task: Sequence[int] | None = None,
    ) -> None:
        """The annotator passed the task's questions about an image over, in `seconds` together."""
        questions = self._questions(domain, stem, annotator, where, task)
        for question in questions:
            known = self._last.get((question.id, annotator))
            if known is not None and known.kind == "skip":
                self._count(unchanged=1)
            elif known is not None and self._brought.get((question.id, annotator)) == _said(None):
                self._count(changed_since=1)
            else:
                self._add(question, annotator, where, None, None if seconds is None else seconds / len(questions))
                self._count(skipped=1)

    def save(self, empty: str = "") -> Import:
        """Append everything to the ledger at once. Raises one ValueError, and appends nothing, if there were problems.

        That nothing was taken is one too where `empty` says so.
        """
        if empty and not self._seen and not self._problems:
            self._problems.append(empty)
        if self._problems:
            more = len(self._problems) - MAX_PROBLEMS
            listed = self._problems[:MAX_PROBLEMS] + ([f"and {more} more"] if more > 0 else [])
            raise ValueError("\n".join(["nothing was imported:", *(f"  {problem}" for problem in listed)]))
        self._ledger.answer(self._new)
        return self._counts

    def _questions(
        self,
        domain: Domain,
        stem: str,
        annotator: str,
        where: object,
        task: Sequence[int] | None,
        found: tuple[int, ...] | None = None,
    ) -> list[Question]:
        """A task's questions, of which this annotator must not have answered another copy in this import."""
        self.size(domain, stem, where, None if found is None else (found[0], found[1]))
        asked = {question.id: question for question in self._asked[domain.name, stem]}
        ids = sorted(asked) if task is None else list(task)
        if not set(ids) <= set(asked):
            raise ValueError(f"{where}: a task of questions {ids} about {stem}, which has {sorted(asked)}; ask anew")
        entry = domain.name, stem, annotator, tuple(ids)
        if entry in self._seen:
            raise ValueError(f"{where}: {annotator} answers about {domain.name}/{stem} twice; keep one of the two")
        self._seen.add(entry)
        return [asked[number] for number in ids]

    def _add(
        self, question: Question, annotator: str, where: object, values: Mask | None, seconds: float | None
    ) -> None:
        if (question.id, annotator) in self._told:
            raise ValueError(f"{where}: {annotator} answers {question} twice, in two tasks; keep one of the two")
        self._told.add((question.id, annotator))
        if seconds is not None:
            seconds = max(seconds - self._worked.get((question.id, annotator), 0.0), 0.0)
        # Two imports of one file at once send the same token.
        token = f"{self._tool} {question.id} {annotator} {self._newest.get(question.id, 0)} {_said(values)}"
        kind: Literal["skip", "answer"] = "skip" if values is None else "answer"
        self._new.append(Answer(question.id, annotator, token, values, kind, seconds=seconds))

    def _count(self, **more: int) -> None:
        self._counts = replace(self._counts, **{name: getattr(self._counts, name) + n for name, n in more.items()})


def _said(values: Mask | None) -> str:
    """An answer (h,w) or, where there is none, a skip, in a token."""
    return "skip" if values is None else blake2b(values.tobytes(), digest_size=16).hexdigest()
