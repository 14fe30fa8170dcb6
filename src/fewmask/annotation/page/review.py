"""The gallery of answers for reviewers. The answers that a network contradicts most come first.

The network must not have learnt from the answers. For each answer, the best stored prediction is used, and none is
computed: the prediction of the pool pass of the question's round, the page's guess while the round is not trained yet,
or the class that the question was asked with.

Shapes: H×W pixels of an image · h×w pixels of a region's box.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from fewmask.acquisition.self_confidence import mean_self_confidence
from fewmask.annotation.agreement import coincidences, share_agreed
from fewmask.annotation.consensus import ballot
from fewmask.annotation.ledger import Ledger
from fewmask.annotation.page import rle_codec, thumbnails
from fewmask.annotation.page.answer_index import AnswerIndex
from fewmask.annotation.page.service import RECENT, LabellingService, Unknown
from fewmask.annotation.questions import Answer, Question
from fewmask.annotation.verdicts import MOST_LETTERS, Verdict
from fewmask.data.pseudo import HUMAN, STEPS, PseudoFolder
from fewmask.labels import NOT_LABELLED, Mask
from fewmask.paths import below
from fewmask.runs import RunFolder

AT_ONCE = 32
"""The number of answers whose values are in memory together."""
MOST_CARDS = 100
Source = Literal["pool", "network", "class", "none"]
"""What an answer is compared with: the prediction of the pool pass, of the page's network, the class that the question
was asked with, or nothing."""
State = Literal["open", "accepted", "rejected"]
Prediction = tuple[Source, Mask, np.ndarray]
"""The most likely class (H,W) and its probability (H,W) in 0–1."""


class SentVerdict(BaseModel):
    """The page's request after a reviewer's action."""

    model_config = ConfigDict(extra="forbid", strict=True)

    ledger: str = Field(max_length=64)
    token: str = Field(min_length=8, max_length=64, pattern=r"^[\w-]+$")
    answer: int = Field(ge=0, lt=1 << 63)
    reviewer: str = Field(min_length=1, max_length=80)
    kind: Literal["accept", "reject", "restore", "comment"]
    comment: str = Field("", max_length=MOST_LETTERS)


@dataclass(frozen=True)
class Filter:
    """The answers that a reviewer wants to see."""

    state: State | Literal["all"] = "open"
    domain: str | None = None
    value: int | None = None
    """A class of the domain, or void."""
    annotator: str | None = None
    disputed: bool = False
    """Only answers to questions that several people have answered differently."""


@dataclass(frozen=True)
class AnswerSummary:
    """The data of an answer without its pixels."""

    question: int
    annotator: str
    at: str
    pixels: Mapping[int, int]
    """The number of pixels of each value, without 254."""
    score: float | None
    """The mean self-confidence of its labels; None where there is no prediction."""
    source: Source


@dataclass(frozen=True)
class Listing:
    """The answers of a filter, by id: the most suspicious first, those without a prediction last."""

    ledger: str
    run: str
    annotator: str
    domains: Mapping[str, Mapping[str, Sequence[object]]]
    people: Sequence[str]
    ids: Sequence[int]
    sources: Mapping[Source, int]
    """The number of the listed answers by what they are compared with."""
    total: int
    """The number of all answers, reviewed or not."""
    named: bool = False
    """Whether the reviewer's name is that of their link, and cannot be changed."""


@dataclass(frozen=True)
class Card:
    """An answer as it is shown in the gallery."""

    id: int
    question: int
    round: int
    domain: str
    stem: str
    annotator: str
    at: str
    state: State
    score: float | None
    source: Source
    agreement: float | None
    """The share of votes on which those who answered the question agree; None where one person answered."""
    pixels: Mapping[int, int]
    size: tuple[int, int]
    """(height, width) of its picture."""
    values: str
    """The answer at the size of the picture, as `rle_codec` text."""
    verdicts: Sequence[Verdict]


class Review:
    def __init__(self, service: LabellingService) -> None:
        self._service, self._run, self._folder = service, service.run, RunFolder(service.run.ledger.parent)
        self._lock = Lock()
        self._summaries: dict[int, AnswerSummary] = {}
        self._last = 0
        self._agreement = lru_cache(4096)(self._read_agreement)
        self._image = lru_cache(RECENT)(service.read_image)

    # ── The list ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def listing(self, wanted: Filter) -> Listing:
        """The answers that fit a filter. Each answer is compared with its prediction once, when it is first listed."""
        states, index = self._states(), self._service.index
        summaries = {number: self._summaries[number] for number in states}
        disputed = {
            question: (agreed := self._agreed(index, question)) is not None and agreed < 1
            for question in ({summary.question for summary in summaries.values()} if wanted.disputed else ())
        }
        questions = index.questions
        ids = [
            number
            for number, summary in summaries.items()
            if wanted.state in ("all", states[number])
            and wanted.domain in (None, questions[summary.question].domain)
            and (wanted.value is None or wanted.value in summary.pixels)
            and wanted.annotator in (None, summary.annotator)
            and (not wanted.disputed or disputed[summary.question])
        ]
        ids.sort(key=lambda number: (summaries[number].score is None, summaries[number].score or 0.0, number))
        return Listing(
            self._service.identity,
            self._run.name,
            self._service.annotator,
            {n: {"classes": d.space.names, "colours": d.space.colours} for n, d in self._run.domains.items()},
            sorted({summary.annotator for summary in summaries.values()}),
            ids,
            Counter(summaries[number].source for number in ids),
            len(summaries),
        )

    def _states(self) -> dict[int, State]:
        """The answers that count, and those that were rejected, with their states."""
        with self._service.open_ledger() as ledger:
            verdicts = ledger.verdicts()
            self._read_answers(ledger)
        index, states = self._service.index, dict[int, State]()
        for question in index.questions:
            states |= {s.id: "open" for s in index.latest(question) if s.kind == "answer" and s.id in self._summaries}
        standing = frozenset(states)
        for verdict in verdicts:
            if verdict.kind == "reject":
                states[verdict.answer] = "rejected"
            elif verdict.kind == "restore" and verdict.answer in standing:
                states[verdict.answer] = "open"
            elif verdict.kind == "restore":
                del states[verdict.answer]  # its annotator has taken it back since
            elif verdict.kind == "accept" and verdict.answer in states:
                states[verdict.answer] = "accepted"
        return states

    def _read_answers(self, ledger: Ledger) -> None:
        """Read the answers since the last call. The answers to one image usually follow each other, so that each
        prediction is read once."""
        predict = lru_cache(RECENT)(self._prediction)
        with self._lock:
            while answers := ledger.answers(self._last + AT_ONCE, after=self._last):
                questions = self._service.index.questions  # read after the answers, so that it has their questions
                for answer in answers:
                    if answer.kind == "answer":
                        self._summaries[answer.id] = self._summarise(answer, questions[answer.question], predict)
                self._last = answers[-1].id

    def _summarise(
        self, answer: Answer, question: Question, predict: Callable[[int, str, str], Prediction | None]
    ) -> AnswerSummary:
        assert answer.values is not None
        values, counts = np.unique(answer.values[answer.values != NOT_LABELLED], return_counts=True)
        pixels = dict(zip(values.tolist(), counts.tolist(), strict=True))
        source: Source = "none"
        score = None
        if prediction := predict(question.round, question.domain, question.stem):
            source, predicted, probability = prediction[0], *(question.window(part) for part in prediction[1:])
        elif question.guess is not None:
            source, predicted = "class", np.full(question.size, question.guess, np.uint8)
            probability = np.ones(question.size, np.float32)
        if source != "none":
            classes = self._run.domains[question.domain].space.num_classes
            score = mean_self_confidence(answer.values, predicted, probability, classes)
        source = "none" if score is None else source
        return AnswerSummary(answer.question, answer.annotator, answer.at, pixels, score, source)

    def _prediction(self, number: int, domain: str, stem: str) -> Prediction | None:
        """The stored prediction for an image by a network that has not learnt from the answers of a round."""
        pool = PseudoFolder(below(self._folder.pseudo(number).folder, domain))
        source: Source = "pool"
        guess = pool.read(stem) if pool.has(stem) else None
        if guess is None and not self._folder.round(number).summary.exists():
            source, guess = "network", self._service.stored_guess(domain, stem)
        if guess is None:
            return None
        label, confidence = guess
        return source, np.where(confidence == HUMAN, np.uint8(NOT_LABELLED), label), confidence / np.float32(STEPS)

    def _agreed(self, index: AnswerIndex, question: int) -> float | None:
        """The share of agreed votes among the answers to a question; None where no two answers decide a pixel."""
        return self._agreement(question, tuple(s.id for s in index.latest(question) if s.kind == "answer"))

    def _read_agreement(self, number: int, ids: tuple[int, ...]) -> float | None:
        if len(ids) < 2:
            return None
        with self._service.open_ledger() as ledger:
            answers = [answer for answer in ledger.answers(question=number) if answer.id in ids]
        classes = self._run.domains[self._service.index.questions[number].domain].space.num_classes
        votes = ballot(answers, classes)
        return share_agreed(coincidences(votes.votes, votes.pixels, classes + 1)) if votes else None

    # ── Cards ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def cards(self, ids: Sequence[int]) -> list[Card]:
        """The cards of answers. No image is read. Raises Unknown where one of them is no answer in the gallery."""
        if len(ids) > MOST_CARDS:
            raise ValueError(f"{len(ids)} cards; ask for at most {MOST_CARDS}")
        states, index, cards = self._states(), self._service.index, []
        with self._service.open_ledger() as ledger:
            verdicts = ledger.verdicts()
            for number in ids:
                if number not in states:
                    raise Unknown(f"answer {number} does not count any more; reload the page")
                summary, state = self._summaries[number], states[number]
                question = index.questions[summary.question]
                (answer,) = (a for a in ledger.answers(question=question.id) if a.id == number)
                assert answer.values is not None
                frame = thumbnails.frame(question, ledger.sizes(question.domain, question.stem)[question.stem])
                cards.append(
                    Card(
                        number,
                        question.id,
                        question.round,
                        question.domain,
                        question.stem,
                        summary.annotator,
                        summary.at,
                        state,
                        summary.score,
                        summary.source,
                        self._agreed(index, question.id),
                        summary.pixels,
                        frame.size,
                        rle_codec.encode(frame.mask(question, answer.values)),
                        [verdict for verdict in verdicts if verdict.answer == number],
                    )
                )
        return cards

    def picture(self, question_id: int) -> bytes:
        """The picture of a question's region and what surrounds it, as PNG."""
        question = self._service.index.questions.get(question_id)
        if question is None:
            raise Unknown(f"no question {question_id}")
        image = self._image(question.domain, question.stem)
        return thumbnails.frame(question, image.shape[:2]).picture(question, image)

    def judge(self, sent: SentVerdict) -> Card:
        """Append a reviewer's verdict to the ledger, once, however often it is sent. Returns the answer's card.

        Raises ValueError, and saves nothing, where it belongs to another run or is not valid.
        """
        if sent.ledger != self._service.identity:
            raise ValueError(f"this verdict is on another run's answer, not on {self._run.name}'s; reload the page")
        verdict = Verdict(sent.answer, sent.reviewer, sent.kind, sent.token, sent.comment)
        with self._service.open_ledger() as ledger:
            ledger.judge(verdict)
        card = self.cards([sent.answer])[0]
        if sent.kind in ("reject", "restore"):
            self._service.learn_from(self._service.index.questions[card.question])
        return card
