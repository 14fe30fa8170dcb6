"""Imports answers from annotation tools: all of them, or none if any is invalid.

Shapes: H×W pixels of an image · h×w pixels of a region's box.

Every format follows one rule. Content that answers no question is set aside, counted and named. An answer that cannot
be read for certain refuses the import, with file, value and fix. Nothing else prevents an import.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import blake2b
from pathlib import PurePosixPath
from typing import Literal
from unicodedata import normalize

import numpy as np

from fewmask.annotation.ledger import Ledger
from fewmask.annotation.questions import Answer, Question
from fewmask.annotation.store import Unavailable
from fewmask.annotation.tasks import by_image
from fewmask.data.domain import Domain
from fewmask.labels import NOT_LABELLED, Mask

MAX_PROBLEMS = 100
LONGEST_NAME = 4096
"""Characters of an image's name, its folders included."""
NAMED = 5
"""Names that are kept of what was set aside for one reason."""
ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
MAX_WORK, SHAPE = 8_000_000_000, 10_000
"""Pixels that one import paints or looks at; what one shape takes besides its pixels."""
MAX_TAKEN = 1 << 30
"""Pixels of new answers, which are held in memory until the whole import is valid."""

Mode = Literal["open", "corrections", "take-back"]
"""Which questions an import answers: those that are open; also those that were answered; or none, and the answers that
the same import brought are taken back."""

FOREIGN = "nothing was asked about it"
SYSTEM = "a file that a system left there"


@dataclass(frozen=True)
class Aside:
    """What was set aside for one reason."""

    why: str
    count: int
    names: tuple[str, ...]
    """The first of them."""


@dataclass(frozen=True)
class Import:
    """The result of an import."""

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
    closed: int = 0
    """Questions that were not open: their answers were left aside, and are among `aside`."""
    corrected: int = 0
    """Of those that got a new answer, how many had another by the same annotator."""
    beside: Mapping[str, int] = field(default_factory=dict)
    """Other annotators, and how many of those that got a new answer they had answered: by the rule `latest` the new
    answers take the place of theirs, otherwise both are votes."""
    taken_back: int = 0
    """Questions whose answer was taken back."""
    aside: tuple[Aside, ...] = ()
    """What was left aside."""


class AnswerImporter:
    """Collects answers and problems. `save` writes the answers to the ledger, or raises."""

    def __init__(self, ledger: Ledger, domains: Mapping[str, Domain], tool: str, mode: Mode = "open") -> None:
        self._ledger, self._domains, self._tool, self._mode = ledger, domains, tool, mode
        self._until = ledger.last_answer_id()
        self._asked = by_image(ledger.questions())
        self._open = {question.id for question in ledger.questions(open_only=True)}
        self._named: dict[str, list[tuple[str, str]]] = {}
        for image in self._asked:
            for name in {image[1], "/".join(image)}:
                self._named.setdefault(normalize("NFC", name), []).append(image)
        self._sizes = {name: ledger.sizes(name) for name in ledger.classes()}
        self._last = {(word.question, word.annotator): word for word in ledger.last_words(up_to=self._until)}
        self._answered: dict[int, set[str]] = {}
        self._seen_by: dict[int, set[str]] = {}
        for word in self._last.values():
            self._seen_by.setdefault(word.question, set()).add(word.annotator)
            if word.kind == "answer":
                self._answered.setdefault(word.question, set()).add(word.annotator)
        self._newest: dict[int, int] = {}
        self._brought: dict[tuple[int, str], str] = {}  # what this tool brought last, as its token tells
        self._worked: dict[tuple[int, str], float] = {}
        given = ledger.answers(self._until)
        gone = {answer.retracts for answer in given}
        for answer in given:
            self._newest[answer.question] = answer.id
            key = (answer.question, answer.annotator)
            if self._is_ours(answer) and answer.id not in gone:
                self._brought[key] = answer.token.rpartition(" ")[2]
            self._worked[key] = self._worked.get(key, 0.0) + (answer.seconds or 0.0)
        self._expected: set[str] = set()
        self._new: list[Answer] = []
        self._seen: set[tuple[str, str, str, tuple[int, ...]]] = set()
        self._told: set[tuple[int, str]] = set()
        self._counts = Import(0, 0, 0, 0)
        self._beside = Counter[str]()
        self._aside: dict[str, tuple[int, list[str]]] = {}
        self._problems: list[str] = []
        self._faults, self._work, self._taken = 0, 0, 0

    @contextmanager
    def problems(self) -> Iterator[None]:
        """Collects a ValueError that is raised inside, so that the next image can be read.

        An unavailable ledger is not the fault of an image and is raised at once.
        """
        try:
            yield
        except Unavailable:
            raise
        except ValueError as error:
            self._faults += 1
            if len(self._problems) < MAX_PROBLEMS:
                self._problems.append(str(error))

    def set_aside(self, why: str, name: object) -> None:
        """Set aside content that is no answer, by its reason and name. Many names may share a reason."""
        count, names = self._aside.setdefault(why, (0, []))
        if len(names) < NAMED:
            names.append("".join(c if c.isprintable() else "?" for c in str(name)[:200]))
        self._aside[why] = count + 1, names

    def spend(self, pixels: int, where: object) -> None:
        """Count what a shape takes, in pixels. Raises ValueError where the import takes more than its limit."""
        self._work += SHAPE + pixels
        if self._work > MAX_WORK:
            raise ValueError(f"{where}: more than {MAX_WORK} pixels to paint in one import; export fewer images")

    def canvas(self, domain: Domain, stem: str, where: object) -> Mask:
        """An empty mask (H,W) of an image. Raises ValueError as `spend` does."""
        size = self._sizes[domain.name][stem]
        self.spend(size[0] * size[1], where)
        return np.full(size, NOT_LABELLED, dtype=np.uint8)

    def find_asked(self, domain: str, stem: str) -> tuple[Domain, str] | None:
        """The image of a domain, whose name may be spelt in another Unicode form; None when nothing was asked about it.

        Raises ValueError when the domain's classes have changed.
        """
        if (domain, stem) not in self._asked:
            alike = [own for own in self._named.get(normalize("NFC", f"{domain}/{stem}"), []) if own[0] == domain]
            if len(alike) != 1:
                return None
            stem = alike[0][1]
        if domain not in self._expected:
            if domain not in self._domains:
                return None
            self._ledger.expect(self._domains[domain])
            self._expected.add(domain)
        return self._domains[domain], stem

    @property
    def domains(self) -> frozenset[str]:
        """The names of the domains that were asked about."""
        return frozenset(self._sizes)

    def find_image(self, name: str, where: object) -> tuple[Domain, str] | None:
        """The image that a tool calls `name`: <stem> or <domain>/<stem>, with or without a picture's ending, in
        folders that are the tool's or not.

        None, and left aside, when nothing was asked about one of that name; the name of another image of a domain is
        never cut down to fit. Raises ValueError for what may be several.
        """
        path = PurePosixPath(name.replace("\\", "/"))
        cut = path.with_suffix("") if path.suffix.lower() in ENDINGS else path
        for place in range(len(path.parts) if ".." not in path.parts and len(name) <= LONGEST_NAME else 0):
            ends = {normalize("NFC", str(PurePosixPath(*parts.parts[place:]))) for parts in (path, cut)}
            found = sorted({image for end in ends for image in self._named.get(end, [])})
            if len(found) > 1 and len(owned := [own for own in found if own[0] in path.parts[:place]]) == 1:
                found = owned
            if len(found) > 1:
                owners = ", ".join("/".join(image) for image in found)
                raise ValueError(f"{where}: the name {name[:200]!r} may be {owners}; call it <domain>/<stem>")
            if found:
                return self.find_asked(*found[0])
            if ends & self._stems:
                break
        self.set_aside(FOREIGN, name)
        return None

    @cached_property
    def _stems(self) -> frozenset[str]:
        """All images of the domains, asked about or not."""
        of = self._domains.values()
        return frozenset(normalize("NFC", s) for domain in of for stems in domain.splits.values() for s in stems)

    def size(self, domain: Domain, stem: str, where: object, found: tuple[int, int] | None = None) -> tuple[int, int]:
        """(H, W) of an image that was asked about. Raises ValueError when another size was found."""
        height, width = self._sizes[domain.name][stem]
        if found is not None and found != (height, width):
            (h, w) = found
            raise ValueError(f"{where}: {w}×{h} pixels, its image is {width}×{height}; paint it at the image's size")
        return height, width

    def add_answer(
        self,
        domain: Domain,
        stem: str,
        mask: Mask,
        annotator: str,
        where: object,
        seconds: float | None = None,
        task: Sequence[int] | None = None,
    ) -> None:
        """Add a mask (H,W) of contract values as the annotator's answers about an image.

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
            elif self._is_new(question, known, annotator, crop):
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
        """Record that the annotator skipped the task's questions about an image, in `seconds` together."""
        questions = self._questions(domain, stem, annotator, where, task)
        for question in questions:
            if self._is_new(question, self._last.get((question.id, annotator)), annotator, None):
                self._add(question, annotator, where, None, None if seconds is None else seconds / len(questions))
                self._count(skipped=1)

    def save(self, empty: str = "") -> Import:
        """Append everything to the ledger at once. Raises one ValueError, and appends nothing, if there were problems.

        That nothing was taken is one too where `empty` says so. Raises Unavailable, with nothing appended either, where
        the ledger cannot be written.
        """
        aside = tuple(Aside(why, count, tuple(names)) for why, (count, names) in self._aside.items())
        if empty and not self._seen and not self._problems:
            left = "; ".join(f"left aside: {one.count} × {one.why} ({', '.join(one.names)})" for one in aside)
            raise ValueError(f"nothing was imported:\n  {empty}{left and f'. {left[:2000]}'}")
        new = {answer.question for answer in self._new}
        if late := sorted({a.question for a in self._ledger.answers(after=self._until)} & new):
            self._problems.append(
                f"questions {late[:20]} were answered while this was read; give the same command again"
            )
        images = {
            image for image, questions in self._asked.items() if any(question.id in new for question in questions)
        }
        for name in {name for name, _ in images}:
            with self.problems():
                self._ledger.expect_images(self._domains[name], {stem for owner, stem in images if owner == name})
        if self._problems:
            more = self._faults - MAX_PROBLEMS
            listed = self._problems + ([f"and {more} more"] if more > 0 else [])
            raise ValueError("\n".join(["nothing was imported:", *(f"  {problem}" for problem in listed)]))
        self._ledger.answer(self._new)  # in one transaction
        return replace(self._counts, beside=dict(sorted(self._beside.items())), aside=aside)

    def _is_new(self, question: Question, known: Answer | None, annotator: str, values: Mask | None) -> bool:
        """Whether an answer to a question is to be added. Counts those that are not."""
        same = known is not None and (
            known.kind == "skip"
            if values is None
            else known.values is not None and np.array_equal(known.values, values)
        )
        if self._mode == "take-back":
            if known is not None and same and self._is_ours(known):
                token = f"{self._tool} back {known.id}"
                self._new.append(Answer(question.id, annotator, token, kind="retract", retracts=known.id))
                self._count(taken_back=1)
            else:
                self.set_aside("no answer that came this way and stands, so nothing to take back", question)
        elif same:
            self._count(unchanged=1)
        elif known is not None and self._brought.get((question.id, annotator)) == _said(values):
            self._count(changed_since=1)
        elif self._mode == "open" and (known is not None or question.id not in self._open):
            who = ", ".join(sorted(self._seen_by[question.id]))
            self.set_aside(f"not open, answered or skipped before by {who[:200]}", question)
            self._count(closed=1)
        else:
            return True
        return False

    def _is_ours(self, answer: Answer) -> bool:
        return answer.token.startswith(f"{self._tool} {answer.question} {answer.annotator} ")

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
        by_id = {question.id: question for question in self._asked[domain.name, stem]}
        ids = sorted(by_id) if task is None else list(task)
        if not set(ids) <= set(by_id):
            raise ValueError(
                f"{where}: a task of questions {str(ids)[:200]} about {stem}, which has {sorted(by_id)}; ask anew"
            )
        entry = domain.name, stem, annotator, tuple(ids)
        if entry in self._seen:
            raise ValueError(f"{where}: {annotator} answers about {domain.name}/{stem} twice; keep one of the two")
        self._seen.add(entry)
        return [by_id[number] for number in ids]

    def _add(
        self, question: Question, annotator: str, where: object, values: Mask | None, seconds: float | None
    ) -> None:
        if (question.id, annotator) in self._told:
            raise ValueError(f"{where}: {annotator} answers {question} twice, in two tasks; keep one of the two")
        self._told.add((question.id, annotator))
        if values is not None:
            self._taken += values.size
            if self._taken > MAX_TAKEN:
                raise ValueError(f"{where}: more than {MAX_TAKEN} pixels of answers in one import; export fewer images")
            said = self._answered.setdefault(question.id, set())
            self._beside.update(said - {annotator})
            self._count(corrected=int(annotator in said))
            said.add(annotator)
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
