"""Imports answers from annotation tools: all of them, or none if any is invalid.

Shapes: H×W pixels of an image · h×w pixels of a region's box.

Every format follows one rule. Content that answers no question is left out, counted and named. An answer that cannot
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
"""The most characters of an image's name with its folders."""
NAMED = 5
"""The number of names that are kept for each reason of leaving content out."""
ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
MAX_WORK, SHAPE = 8_000_000_000, 10_000
"""The most pixels that one import paints or reads, and the cost in pixels of a shape besides its own."""
MAX_TAKEN = 1 << 30
"""The most pixels of new answers, which are in memory until the whole import is valid."""

Mode = Literal["open", "corrections", "take-back"]
"""Which questions an import answers. "open" answers open questions alone, "corrections" answered ones too. "take-back"
answers none: it takes back the answers that the same import added."""

FOREIGN = "nothing was asked about it"
SYSTEM = "a file that a system left there"


@dataclass(frozen=True)
class LeftOut:
    """The content that was left out for one reason."""

    why: str
    count: int
    names: tuple[str, ...]
    """The names of the first of it."""


@dataclass(frozen=True)
class Import:
    """The result of an import."""

    answered: int
    """Questions that got a new answer."""
    unchanged: int
    """Questions whose answer by this annotator the ledger has already."""
    undecided: int
    """Questions about these images of which no pixel is painted."""
    outside: int
    """Painted pixels outside of every region that was asked about. They are not imported."""
    skipped: int = 0
    """Questions that an annotator skipped, where the tool says so."""
    in_part: int = 0
    """Questions whose new answer leaves a pixel open."""
    changed_since: int = 0
    """Questions whose answer was imported before, and which the annotator has answered differently since. The later
    answer stands."""
    closed: int = 0
    """Questions that were not open. Their answers are among `left_out`."""
    corrected: int = 0
    """Questions with a new answer that had another answer by the same annotator."""
    beside: Mapping[str, int] = field(default_factory=dict)
    """For each other annotator, the number of questions with a new answer that they had answered. By the rule `latest`
    the new answer replaces theirs; otherwise both are votes."""
    taken_back: int = 0
    """Questions whose answer was taken back."""
    left_out: tuple[LeftOut, ...] = ()
    """The content that was left out."""


class AnswerImporter:
    """Collects answers and problems. `save` writes the answers to the ledger, or raises."""

    def __init__(self, ledger: Ledger, domains: Mapping[str, Domain], tool: str, mode: Mode = "open") -> None:
        self._ledger, self._domains, self._tool, self._mode = ledger, domains, tool, mode
        self._last_id = ledger.last_answer_id()
        self._questions_of = by_image(ledger.questions())
        self._open = {question.id for question in ledger.questions(open_only=True)}
        self._images: dict[str, list[tuple[str, str]]] = {}
        for image in self._questions_of:
            for name in {image[1], "/".join(image)}:
                self._images.setdefault(normalize("NFC", name), []).append(image)
        self._sizes = {name: ledger.sizes(name) for name in ledger.classes()}
        self._latest = {
            (answer.question, answer.annotator): answer for answer in ledger.last_words(up_to=self._last_id)
        }
        self._answerers: dict[int, set[str]] = {}
        self._respondents: dict[int, set[str]] = {}
        for answer in self._latest.values():
            self._respondents.setdefault(answer.question, set()).add(answer.annotator)
            if answer.kind == "answer":
                self._answerers.setdefault(answer.question, set()).add(answer.annotator)
        self._newest_ids: dict[int, int] = {}
        self._last_imported: dict[tuple[int, str], str] = {}  # the last answer by this tool, as its token says
        self._recorded_seconds: dict[tuple[int, str], float] = {}
        appended = ledger.answers(self._last_id)
        last_actions = {answer.retracts: answer.kind for answer in appended}
        for answer in appended:
            self._newest_ids[answer.question] = answer.id
            key = (answer.question, answer.annotator)
            if self._is_ours(answer) and last_actions.get(answer.id) != "retract":
                self._last_imported[key] = answer.token.rpartition(" ")[2]
            self._recorded_seconds[key] = self._recorded_seconds.get(key, 0.0) + (answer.seconds or 0.0)
        self._checked_domains: set[str] = set()
        self._new_answers: list[Answer] = []
        self._tasks_read: set[tuple[str, str, str, tuple[int, ...]]] = set()
        self._answers_read: set[tuple[int, str]] = set()
        self._counts = Import(0, 0, 0, 0)
        self._other_answerers = Counter[str]()
        self._left_out: dict[str, tuple[int, list[str]]] = {}
        self._problems: list[str] = []
        self._faults, self._work, self._answer_pixels = 0, 0, 0

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

    def leave_out(self, why: str, name: object) -> None:
        """Leave out content that is no answer, by its reason and name. Many names may share a reason."""
        count, names = self._left_out.setdefault(why, (0, []))
        if len(names) < NAMED:
            names.append("".join(c if c.isprintable() else "?" for c in str(name)[:200]))
        self._left_out[why] = count + 1, names

    def spend(self, pixels: int, where: object) -> None:
        """Add the cost of a shape, in pixels. Raises ValueError where the import exceeds its limit."""
        self._work += SHAPE + pixels
        if self._work > MAX_WORK:
            raise ValueError(f"{where}: more than {MAX_WORK} pixels to paint in one import; export fewer images")

    def canvas(self, domain: Domain, stem: str, where: object) -> Mask:
        """An empty mask (H,W) of an image. Raises ValueError as `spend` does."""
        size = self._sizes[domain.name][stem]
        self.spend(size[0] * size[1], where)
        return np.full(size, NOT_LABELLED, dtype=np.uint8)

    def find_asked(self, domain: str, stem: str) -> tuple[Domain, str] | None:
        """The image of a domain; None when nothing was asked about it. Its name may be in another Unicode form.

        Raises ValueError when the domain's classes have changed.
        """
        if (domain, stem) not in self._questions_of:
            same = [image for image in self._images.get(normalize("NFC", f"{domain}/{stem}"), []) if image[0] == domain]
            if len(same) != 1:
                return None
            stem = same[0][1]
        if domain not in self._checked_domains:
            if domain not in self._domains:
                return None
            self._ledger.expect(self._domains[domain])
            self._checked_domains.add(domain)
        return self._domains[domain], stem

    @property
    def domains(self) -> frozenset[str]:
        """The names of the domains that were asked about."""
        return frozenset(self._sizes)

    def find_image(self, name: str, where: object) -> tuple[Domain, str] | None:
        """The image that a tool calls `name`: <stem> or <domain>/<stem>, with or without a file ending, in any folders.

        None when nothing was asked about an image of that name; the name is then left out. The name of another image
        of a domain is never shortened to fit. Raises ValueError for a name that fits several images.
        """
        path = PurePosixPath(name.replace("\\", "/"))
        cut = path.with_suffix("") if path.suffix.lower() in ENDINGS else path
        for place in range(len(path.parts) if ".." not in path.parts and len(name) <= LONGEST_NAME else 0):
            ends = {normalize("NFC", str(PurePosixPath(*parts.parts[place:]))) for parts in (path, cut)}
            matches = sorted({image for end in ends for image in self._images.get(end, [])})
            if len(matches) > 1 and len(named := [image for image in matches if image[0] in path.parts[:place]]) == 1:
                matches = named
            if len(matches) > 1:
                names = ", ".join("/".join(image) for image in matches)
                raise ValueError(f"{where}: the name {name[:200]!r} may be {names}; call it <domain>/<stem>")
            if matches:
                return self.find_asked(*matches[0])
            if ends & self._stems:
                break
        self.leave_out(FOREIGN, name)
        return None

    @cached_property
    def _stems(self) -> frozenset[str]:
        """The names of all images of the domains, also of those that nothing was asked about."""
        domains = self._domains.values()
        return frozenset(normalize("NFC", s) for domain in domains for stems in domain.splits.values() for s in stems)

    def size(self, domain: Domain, stem: str, where: object, actual: tuple[int, int] | None = None) -> tuple[int, int]:
        """(H, W) of an image that was asked about. Raises ValueError when its `actual` size differs."""
        height, width = self._sizes[domain.name][stem]
        if actual is not None and actual != (height, width):
            (h, w) = actual
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

        `task` holds the ids of the questions that the mask answers, by default all about the image. `seconds` is all
        work on the image: its decided questions share it by their decided pixels. Time that the ledger has already is
        subtracted.
        """
        questions = self._questions(domain, stem, annotator, where, task, mask.shape)
        values = [question.crop(mask) for question in questions]
        decided = [int((crop != NOT_LABELLED).sum()) for crop in values]
        outside = mask != NOT_LABELLED
        for question, crop, pixels in zip(questions, values, decided, strict=True):
            question.window(outside)[question.inside] = False
            last = self._latest.get((question.id, annotator))
            if not pixels:
                self._count(undecided=1)
            elif self._is_new(question, last, annotator, crop):
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
            if self._is_new(question, self._latest.get((question.id, annotator)), annotator, None):
                self._add(question, annotator, where, None, None if seconds is None else seconds / len(questions))
                self._count(skipped=1)

    def save(self, empty: str = "") -> Import:
        """Append everything to the ledger at once. Raises one ValueError, and appends nothing, if there were problems.

        With the message `empty`, an import without an answer is a problem too. Raises Unavailable, and appends nothing,
        where the ledger cannot be written.
        """
        left_out = tuple(LeftOut(why, count, tuple(names)) for why, (count, names) in self._left_out.items())
        if empty and not self._tasks_read and not self._problems:
            text = "; ".join(f"left out: {entry.count} × {entry.why} ({', '.join(entry.names)})" for entry in left_out)
            raise ValueError(f"nothing was imported:\n  {empty}{text and f'. {text[:2000]}'}")
        new = {answer.question for answer in self._new_answers}
        if answered_meanwhile := sorted({a.question for a in self._ledger.answers(after=self._last_id)} & new):
            self._problems.append(
                f"questions {answered_meanwhile[:20]} were answered while this was read; give the same command again"
            )
        images = {
            image
            for image, questions in self._questions_of.items()
            if any(question.id in new for question in questions)
        }
        for name in {name for name, _ in images}:
            with self.problems():
                self._ledger.expect_images(self._domains[name], {stem for owner, stem in images if owner == name})
        if self._problems:
            unlisted = self._faults - MAX_PROBLEMS
            listed = self._problems + ([f"and {unlisted} more"] if unlisted > 0 else [])
            raise ValueError("\n".join(["nothing was imported:", *(f"  {problem}" for problem in listed)]))
        self._ledger.answer(self._new_answers)  # in one transaction
        return replace(self._counts, beside=dict(sorted(self._other_answerers.items())), left_out=left_out)

    def _is_new(self, question: Question, last: Answer | None, annotator: str, values: Mask | None) -> bool:
        """Whether an answer to a question is to be added. An answer that is not is counted."""
        is_same = last is not None and (
            last.kind == "skip" if values is None else last.values is not None and np.array_equal(last.values, values)
        )
        if self._mode == "take-back":
            if last is not None and is_same and self._is_ours(last):
                token = f"{self._tool} back {last.id}"
                self._new_answers.append(Answer(question.id, annotator, token, kind="retract", retracts=last.id))
                self._count(taken_back=1)
            else:
                self.leave_out("no standing answer of this import to take back", question)
        elif is_same:
            self._count(unchanged=1)
        elif last is not None and self._last_imported.get((question.id, annotator)) == _fingerprint(values):
            self._count(changed_since=1)
        elif self._mode == "open" and (last is not None or question.id not in self._open):
            respondents = ", ".join(sorted(self._respondents[question.id]))
            self.leave_out(f"not open, answered or skipped before by {respondents[:200]}", question)
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
        actual: tuple[int, ...] | None = None,
    ) -> list[Question]:
        """The questions of a task. Raises ValueError when the import has another copy of it by this annotator."""
        self.size(domain, stem, where, None if actual is None else (actual[0], actual[1]))
        by_id = {question.id: question for question in self._questions_of[domain.name, stem]}
        ids = sorted(by_id) if task is None else list(task)
        if not set(ids) <= set(by_id):
            raise ValueError(
                f"{where}: a task of questions {str(ids)[:200]} about {stem}, which has {sorted(by_id)}; "
                "write the questions again"
            )
        entry = domain.name, stem, annotator, tuple(ids)
        if entry in self._tasks_read:
            raise ValueError(f"{where}: {annotator} answers about {domain.name}/{stem} twice; keep one of the two")
        self._tasks_read.add(entry)
        return [by_id[number] for number in ids]

    def _add(
        self, question: Question, annotator: str, where: object, values: Mask | None, seconds: float | None
    ) -> None:
        if (question.id, annotator) in self._answers_read:
            raise ValueError(f"{where}: {annotator} answers {question} twice, in two tasks; keep one of the two")
        self._answers_read.add((question.id, annotator))
        if values is not None:
            self._answer_pixels += values.size
            if self._answer_pixels > MAX_TAKEN:
                raise ValueError(f"{where}: more than {MAX_TAKEN} pixels of answers in one import; export fewer images")
            answerers = self._answerers.setdefault(question.id, set())
            self._other_answerers.update(answerers - {annotator})
            self._count(corrected=int(annotator in answerers))
            answerers.add(annotator)
        if seconds is not None:
            seconds = max(seconds - self._recorded_seconds.get((question.id, annotator), 0.0), 0.0)
        # Two imports of one file at once send the same token.
        token = f"{self._tool} {question.id} {annotator} {self._newest_ids.get(question.id, 0)} {_fingerprint(values)}"
        kind: Literal["skip", "answer"] = "skip" if values is None else "answer"
        self._new_answers.append(Answer(question.id, annotator, token, values, kind, seconds=seconds))

    def _count(self, **more: int) -> None:
        self._counts = replace(self._counts, **{name: getattr(self._counts, name) + n for name, n in more.items()})


def _fingerprint(values: Mask | None) -> str:
    """The part of a token that stands for an answer (h,w) or, without values, for a skip."""
    return "skip" if values is None else blake2b(values.tobytes(), digest_size=16).hexdigest()
