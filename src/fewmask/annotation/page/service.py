"""Reads a run for the labelling page and writes the answers, as plain data. Several threads may call it at once.

Shapes: H×W pixels of an image · h×w pixels of a region's box.
"""

from __future__ import annotations

import getpass
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import cv2
import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from fewmask.annotation.ledger import Ledger
from fewmask.annotation.page import rle_codec, segments
from fewmask.annotation.page.ahead import Read
from fewmask.annotation.page.answer_index import AnswerIndex
from fewmask.annotation.page.guesses import Guesses
from fewmask.annotation.page.learning import Learner
from fewmask.annotation.page.leases import Leases
from fewmask.annotation.page.smart_select import Prompt, Scores, Selector
from fewmask.annotation.questions import Answer, Question, name_fault
from fewmask.annotation.tasks import identity
from fewmask.config import AnswerSettings
from fewmask.data.domain import Domain
from fewmask.data.pseudo import STEPS
from fewmask.files import is_held
from fewmask.formats.bands import as_rgb
from fewmask.labels import NOT_LABELLED, Mask
from fewmask.runs import RunFolder

AT_ONCE = 256
"""The number of answers that are read into memory together."""
RECENT = 4
"""The number of images that are kept in memory."""
A_DAY = 24 * 3600.0
"""The most seconds of one answer: the page counts no pauses."""


class Unknown(LookupError):
    """The page requested something that does not exist."""


class Sent(BaseModel):
    """The page's request after an action on a question."""

    model_config = ConfigDict(extra="forbid", strict=True)

    ledger: str = Field(max_length=64)
    """The ledger of the question. Answers may wait in a browser for longer than a run exists."""
    token: str = Field(min_length=8, max_length=64, pattern=r"^[\w-]+$")
    question: int
    annotator: str = Field(min_length=1, max_length=80)
    kind: Literal["answer", "skip", "retract"]
    values: str | None = None
    """`rle_codec` text of the region's box."""
    takes_back: str | None = Field(None, max_length=64)
    """The token of the answer that a retraction takes back."""
    seconds: float = Field(ge=0, le=A_DAY, allow_inf_nan=False)
    clicks: int = Field(ge=0, le=1_000_000)


class Lease(BaseModel):
    """The request of a window of the page for the question that it shows."""

    model_config = ConfigDict(extra="forbid", strict=True)

    window: str = Field(min_length=8, max_length=64, pattern=r"^[\w-]+$")
    annotator: str = Field(min_length=1, max_length=80)
    question: int | None
    """None means that the window shows no question any more."""


@dataclass(frozen=True)
class Run:
    """The run that the page shows."""

    name: str
    ledger: Path
    domains: Mapping[str, Domain]
    unit: str
    """The unit of the questions' costs."""
    annotator: str | None = None
    """The name that the page proposes; by default the name of this machine's user."""
    rule: AnswerSettings = field(default_factory=AnswerSettings)
    """How many annotators a question waits for, and how their answers are combined."""
    command: str = ""
    """The command that continues the run when people have answered."""
    only: frozenset[int] | None = None
    """The ids of questions to ask, instead of the open ones, of everybody who has not answered them yet."""


class LabellingService:
    def __init__(
        self,
        run: Run,
        guesses: Guesses | None = None,
        selector: Selector | None = None,
        learner: Learner | None = None,
    ) -> None:
        """Raises ValueError where nothing was asked yet, when a domain's classes have changed, or when one of the
        questions in `run.only` does not exist."""
        self.run, self._guesses, self._selector, self._learner = run, guesses, selector, learner
        self._lock = Lock()
        self.leases = Leases()
        self._rounds: dict[int, int] = {}
        self._index = AnswerIndex(())
        if run.annotator is not None and (fault := name_fault(run.annotator)):
            raise ValueError(f"--annotator: {fault}")
        with self._open() as ledger:
            for name in ledger.classes():
                ledger.expect(run.domains[name])
            if unknown := (run.only or frozenset[int]()) - {question.id for question in ledger.questions()}:
                raise ValueError(
                    f"--question: nobody asked {', '.join(map(str, sorted(unknown)))}; `fewmask agreement` lists ids"
                )
            self.identity = identity(ledger)
        self._image = lru_cache(RECENT)(self.read_image)
        self.picture = lru_cache(RECENT)(self._encode)
        self._guess = lru_cache(RECENT)(self._read_guess)

    def _open(self) -> Ledger:
        if not self.run.ledger.exists():
            raise ValueError(f"{self.run.ledger}: not there; begin the campaign first, then it asks")
        return Ledger(self.run.ledger)

    def open_ledger(self) -> Ledger:
        """The ledger. Raises OSError where its file cannot be opened any more, so that the page sends its answer
        again."""
        try:
            return self._open()
        except ValueError as error:
            raise OSError(str(error)) from error

    def _read(self, ledger: Ledger) -> AnswerIndex:
        """Read the new questions and answers since the last call. Questions are added a round at a time."""
        with self._lock:
            if (rounds := ledger.rounds()) != self._rounds:
                self._rounds, self._index = rounds, AnswerIndex(ledger.questions())
            while answers := ledger.answers(self._index.last + AT_ONCE, after=self._index.last):
                self._index.add(answers)
            return self._index

    @property
    def index(self) -> AnswerIndex:
        with self.open_ledger() as ledger:
            return self._read(ledger)

    def _question(self, number: int) -> Question:
        index = self.index
        if number not in index.questions:
            raise Unknown(f"no question {number}")
        return index.questions[number]

    @property
    def annotator(self) -> str:
        """The name that the page proposes."""
        return self.run.annotator or _user()

    # ── Questions ────────────────────────────────────────────────────────────────────────────────────────────────────

    def session(self) -> dict[str, Any]:
        """The questions to ask, their answers, and the classes."""
        index = self.index
        shown = self._shown(index)
        images: dict[tuple[str, str], int] = {}
        for q in shown:
            images.setdefault((q.domain, q.stem), q.id)
        return {
            "ledger": self.identity,
            "run": self.run.name,
            "annotator": self.annotator,
            "unit": self.run.unit,
            "each": self._each,
            "command": self.run.command,
            "decide": self.run.rule.decide,
            "guesses": self._guesses is not None,
            "selects": self._selector is not None,
            "learns": self._learner is not None,
            "domains": {
                name: {"classes": domain.space.names, "colours": domain.space.colours}
                for name, domain in self.run.domains.items()
            },
            "questions": [
                {
                    "id": q.id,
                    "image": images[q.domain, q.stem],
                    "domain": q.domain,
                    "stem": q.stem,
                    "kind": q.kind.partition(":")[0],
                    "cost": q.cost,
                    "answers": [summary.record for summary in index.latest(q.id)],
                }
                for q in shown
            ],
            **self._state(index),
        }

    def changes(self, after: int) -> dict[str, Any]:
        """The questions that got an answer after the answer of id `after`, with all answers to them."""
        index = self.index
        answers = {n: [summary.record for summary in index.latest(n)] for n in index.touched(after)}
        return {"answers": answers, **self._state(index)}

    def _shown(self, index: AnswerIndex) -> list[Question]:
        only = self.run.only
        return [q for q in index.questions.values() if only is None or q.id in only]

    @property
    def _each(self) -> int | None:
        """How many annotators a question waits for; None where some are asked again."""
        return self.run.rule.each if self.run.only is None else None

    def _state(self, index: AnswerIndex) -> dict[str, Any]:
        work = {"seconds": index.seconds, "clicks": index.clicks}
        learned = self._learner.version if self._learner else 0
        state = {"last": index.last, "asked": len(self._shown(index)), "held": self.leases.held(), "learned": learned}
        return state | work | {"watched": is_held(RunFolder(self.run.ledger.parent).watch_lock)}

    def lease(self, request: Lease) -> dict[str, Any]:
        """Lease a question to a window, or end its lease. Returns whether it was granted, and the holders of
        questions."""
        granted = True
        if request.question is None:
            self.leases.give_back(request.window)
        else:
            answerers = {summary.annotator for summary in self.index.latest(self._question(request.question).id)}
            granted = self.leases.take(request.window, request.annotator, request.question, answerers, self._each)
        return {"granted": granted, "held": self.leases.held()}

    def question(self, number: int) -> dict[str, Any]:
        """All that is needed to show a question, without its image."""
        question = self._question(number)
        summaries = self.index.latest(number)  # read before the values, so that each of them has values
        with self.open_ledger() as ledger:
            height, width = ledger.sizes(question.domain, question.stem)[question.stem]
            values = {a.id: a.values for a in ledger.answers(question=number)}
        answers = [(summary, values[summary.id]) for summary in summaries]
        return {
            "id": question.id,
            "round": question.round,
            "size": [height, width],
            "box": question.box,
            "shape": None if question.shape is None else rle_codec.encode(question.shape),
            "guess": question.guess,
            "answers": [s.record | {"values": None if v is None else rle_codec.encode(v)} for s, v in answers],
        }

    def guess(self, number: int) -> dict[str, Any]:
        """The network's guess for each pixel, and its mean confidence. Both are None where there is no network."""
        question = self._question(number)
        if self._guesses is None:
            return {"values": None, "confidence": None}
        try:
            learned = self._learner.expected(question, self._reading(question)) if self._learner else None
            if learned is not None:
                values = np.where(question.inside, learned.label, np.uint8(NOT_LABELLED))
                sure = float(learned.probability[question.inside].mean())
                return {"values": rle_codec.encode(values), "confidence": sure}
            label, confidence = self._guess(question.domain, question.stem)
        except (RuntimeError, MemoryError) as error:
            raise ValueError(f"the network failed ({error}); answer without its guess") from error
        sure = float(question.window(confidence)[question.inside].mean(dtype=np.float64)) / STEPS
        return {"values": rle_codec.encode(question.crop(label)), "confidence": sure}

    def likely(self, number: int) -> dict[str, Any]:
        """The two likeliest classes of each pixel of the region's box, for tools that choose the class themselves."""
        question = self._question(number)
        if self._learner is None:
            raise Unknown("the automatic class needs a trained network and guesses that learn (--learn)")
        try:
            found = self._learner.likely(question, self._reading(question))
        except (RuntimeError, MemoryError) as error:
            raise ValueError(f"the network failed ({error}); choose the class yourself") from error
        return {"first": rle_codec.encode(found.label), "second": rle_codec.encode(found.second)}

    def segments(self, number: int) -> dict[str, Any]:
        """The superpixels of the region's box."""
        question = self._question(number)
        image = self._image(question.domain, question.stem)
        return {"values": rle_codec.encode(segments.cut(question.window(as_rgb(image))))}

    def prepare(self, number: int) -> dict[str, Any]:
        """Start to compute what smart select and learning need of a question's image."""
        question = self._question(number)
        for helper in (self._selector, self._learner):
            if helper is not None:
                helper.prepare((question.domain, question.stem), self._reading(question))
        return {}

    def select(self, number: int, prompt: Prompt) -> Scores:
        """The similarity of each pixel of a question's box to the person's prompt."""
        question = self._question(number)
        if self._selector is None:
            raise Unknown("smart select needs a network, and none is there yet; train one, or give --sam")
        try:
            key = question.domain, question.stem
            return self._selector.select(key, self._reading(question), question.box, prompt)
        except (RuntimeError, MemoryError) as error:
            raise ValueError(f"the network failed ({error}); use another tool") from error

    def _reading(self, question: Question) -> Read:
        return lambda: self._image(question.domain, question.stem)

    def answers_around(self, number: int) -> dict[str, Any]:
        """The answers about the question's image outside of its region: the image's values, 254 elsewhere."""
        question = self._question(number)
        with self.open_ledger() as ledger:
            mask = ledger.labels(question.domain, question.stem)
        question.window(mask)[question.inside] = NOT_LABELLED
        return {"values": rle_codec.encode(mask)}

    # ── Images ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def stored_guess(self, domain: str, stem: str) -> tuple[np.ndarray, np.ndarray] | None:
        """The guess for an image, unless it still has to be computed."""
        return self._guesses.stored(domain, stem) if self._guesses else None

    def read_image(self, domain: str, stem: str) -> np.ndarray:
        image = self.run.domains[domain].image(stem)
        with self.open_ledger() as ledger:
            ledger.expect_image(self.run.domains[domain], stem, image)
        return image

    def _encode(self, number: int) -> bytes:
        """The image of a question as BMP, which is exact. Encoding a PNG takes a hundred times longer, and the page
        would wait for it longer than for anything else."""
        question = self._question(number)
        image = cv2.cvtColor(as_rgb(self._image(question.domain, question.stem)), cv2.COLOR_RGB2BGR)
        done, data = cv2.imencode(".bmp", image)
        assert done
        return data.tobytes()

    def _read_guess(self, domain: str, stem: str) -> tuple[np.ndarray, np.ndarray]:
        assert self._guesses is not None
        return self._guesses.get(domain, stem, lambda: self._image(domain, stem))

    # ── Answers ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def take(self, sent: Sent) -> dict[str, Any]:
        """Append the page's answer to the ledger, once, however often it is sent. On return it is on the disk.

        Raises ValueError, and saves nothing, when it belongs to another run or is no valid answer to its question.
        """
        if sent.ledger != self.identity:
            raise ValueError(
                f"this answer is to another run's question, not to {self.run.name}'s; it is of no use here"
            )
        question = self._question(sent.question)
        values = None if sent.values is None else rle_codec.decode(sent.values, question.size)
        retracts = None if sent.takes_back is None else self._id_of(sent.takes_back)
        answer = Answer(
            sent.question, sent.annotator, sent.token, values, sent.kind, retracts, sent.seconds, float(sent.clicks)
        )
        with self.open_ledger() as ledger:
            (number,) = ledger.answer([answer])
            index = self._read(ledger)
        self.learn_from(question)
        return {
            "id": number,
            "answers": [summary.record for summary in index.latest(sent.question)],
            **self._state(index),
        }

    def learn_from(self, question: Question) -> None:
        """Let the guesses learn what the answers to a question say now."""
        if self._learner is not None:
            self._learner.learn_from(question, lambda: self._standing(question), self._reading(question))

    def _standing(self, question: Question) -> Mask | None:
        """The answers to a question, combined by the campaign's rule, (h,w); None where there is none."""
        with Ledger(self.run.ledger, self.run.rule) as ledger:
            decisions = ledger.decisions(question.domain, question.stem)
        return next((values for decided, values in decisions if decided.id == question.id), None)

    def _id_of(self, token: str) -> int:
        number = self.index.id_of(token)
        if number is None:
            raise ValueError(f"the answer that is to be taken back never arrived ({token}); reload the page")
        return number

    def close(self) -> None:
        # The learner first: it waits for features of the others.
        for helper in (self._learner, self._guesses, self._selector):
            if helper is not None:
                helper.close()


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container may have no name for its user
        return "person"
