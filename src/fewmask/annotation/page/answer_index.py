"""An index of the questions and their answers in memory. Answers never change, so that only new ones are read."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fewmask.annotation.questions import Answer, Question


@dataclass(frozen=True)
class AnswerSummary:
    """An answer or a skip, without its pixels."""

    id: int
    question: int
    annotator: str
    kind: str
    token: str
    at: str

    @property
    def record(self) -> dict[str, Any]:
        """As the page gets it, which knows the question."""
        return {key: value for key, value in asdict(self).items() if key != "question"}


class AnswerIndex:
    """The questions in the order in which a person answers them, with the answers that were given to each."""

    def __init__(self, questions: Sequence[Question]) -> None:
        self.questions = {q.id: q for q in in_order(questions)}
        self.last = 0
        """The id of the newest answer that was added."""
        self.seconds = self.clicks = 0.0
        self._standing: dict[int, list[AnswerSummary]] = {}
        self._by_token: dict[str, AnswerSummary] = {}
        self._by_id: dict[int, AnswerSummary] = {}
        self._about: list[tuple[int, int]] = []

    def add(self, answers: Iterable[Answer]) -> list[int]:
        """Add answers in the order of their ids. Returns the questions that they belong to."""
        touched = []
        for answer in answers:
            assert answer.id > self.last
            self.last = answer.id
            self.seconds += answer.seconds or 0.0
            self.clicks += answer.clicks or 0.0
            summary = AnswerSummary(answer.id, answer.question, answer.annotator, answer.kind, answer.token, answer.at)
            self._by_token[answer.token] = self._by_id[answer.id] = summary
            self._about.append((answer.id, answer.question))
            standing = self._standing.setdefault(answer.question, [])
            if answer.kind == "retract":
                standing[:] = [one for one in standing if one.id != answer.retracts]
            else:
                standing.append(summary if answer.retracts is None else self._by_id[answer.retracts])
                standing.sort(key=lambda one: one.id)  # what is restored comes back to its place
            touched.append(answer.question)
        return list(dict.fromkeys(touched))

    def latest(self, question: int) -> list[AnswerSummary]:
        """Each annotator's last answer to a question that is not taken back, in the order of arrival."""
        last = {summary.annotator: summary for summary in self._standing.get(question, ())}
        return sorted(last.values(), key=lambda summary: summary.id)

    def touched(self, after: int) -> list[int]:
        """The questions that got an answer after the answer of id `after`."""
        first = bisect_right(self._about, after, key=lambda entry: entry[0])
        return list(dict.fromkeys(question for _, question in self._about[first:]))

    def id_of(self, token: str) -> int | None:
        """The answer that arrived under a token."""
        return self._by_token[token].id if token in self._by_token else None

    def annotator_of(self, token: str) -> str | None:
        """The annotator of the answer that arrived under a token."""
        return self._by_token[token].annotator if token in self._by_token else None


def in_order(questions: Iterable[Question]) -> list[Question]:
    """Sort questions by image, so that an annotator sees each image once.

    Images are in the order in which they were first asked about. The questions of an image go from top to bottom, in
    bands that are about as high as its regions.
    """
    by_image: dict[tuple[int, str, str], list[Question]] = {}
    for question in questions:
        by_image.setdefault((question.round, question.domain, question.stem), []).append(question)
    ordered = []
    for image_questions in by_image.values():
        band = max(sum(q.size[0] for q in image_questions) // len(image_questions), 32)
        ordered += sorted(image_questions, key=lambda q: (q.box[0] // band, q.box[1], q.box[0], q.id))
    return ordered
