"""The verdicts of reviewers on answers. They are in the ledger and are never changed.

A rejected answer counts as not given: it is taken back in the transaction that records the verdict. A restoration
undoes the rejection in the same way: the answer counts again, in its old place.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from fewmask.annotation.questions import Answer, name_fault
from fewmask.annotation.record import FOREVER, Record, now
from fewmask.annotation.store import answers_sql, sound

MOST_LETTERS = 2000
"""The most characters of a comment."""


@dataclass(frozen=True)
class Verdict:
    """One action of a reviewer on an answer."""

    answer: int
    """The answer's id."""
    reviewer: str
    kind: Literal["accept", "reject", "restore", "comment"]
    token: str
    """A key that the sender chooses. A verdict that arrives several times under one token is one verdict."""
    comment: str = ""
    """Only the kind "comment" has one."""
    id: int = 0
    """The ledger sets it in the order of arrival, as it sets `at` (UTC)."""
    at: str = ""


class ReviewedRecord(Record):
    """A record whose answers are reviewed."""

    def judge(self, verdict: Verdict) -> int:
        """Append a verdict in one transaction. Returns its id.

        A rejection also takes back what its annotator has answered to the question so far, and a restoration restores
        what the rejection took back. A verdict whose token arrived before is not appended again. Raises ValueError, and
        appends nothing, where the verdict is not valid.
        """
        with self._store.write():
            earlier = self._verdicts("v.token = :token", token=verdict.token)
            if earlier and replace(earlier[0], id=0, at="") == replace(verdict, id=0, at=""):
                return earlier[0].id
            answers = self._answers("a.id = :id AND a.kind = 'answer'", id=verdict.answer)
            fault = f"another verdict has its token {verdict.token!r}; give each a token of its own" if earlier else ""
            if fault := fault or _fault(verdict) or self._answer_fault(verdict, answers):
                raise ValueError(f"{self.path}: nothing was saved: verdict on answer {verdict.answer}: {fault}")
            at = now()
            if verdict.kind == "reject":
                self._change(answers[0].question, verdict, "retract", self._standing(answers[0]), at)
            elif verdict.kind == "restore":
                self._change(answers[0].question, verdict, "restore", self._rejected(answers[0]), at)
            row = (verdict.answer, verdict.reviewer, verdict.kind, verdict.comment, verdict.token, at)
            return self._store.insert("verdicts", [row])[0]

    def _change(
        self, question: int, verdict: Verdict, kind: Literal["retract", "restore"], numbers: list[int], at: str
    ) -> None:
        for number in numbers:
            token = f"{'rejected' if kind == 'retract' else 'restored'} {number} {verdict.token}"
            self._append(Answer(question, verdict.reviewer, token, kind=kind, retracts=number), at)

    def _answer_fault(self, verdict: Verdict, answers: list[Answer]) -> str:
        if not answers:
            return "there is no such answer; give the id of an answer"
        if verdict.kind == "restore":
            if not self._rejected(answers[0]):
                return "it is not rejected; there is nothing to undo"
            who = answers[0].annotator
            return f"{who} has answered the question again since; judge that" if self._standing(answers[0]) else ""
        if verdict.kind != "comment" and verdict.answer not in self._standing(answers[0]):
            return "it was taken back or rejected before; it counts no more"
        return ""

    def _standing(self, answer: Answer) -> list[int]:
        """The ids of all that the annotator of an answer said about its question and that is not taken back."""
        rows = self._store.rows(
            f"WITH {answers_sql()} SELECT id FROM standing WHERE question = :question AND annotator = :annotator "
            "ORDER BY id",
            up_to=FOREVER,
            question=answer.question,
            annotator=answer.annotator,
        )
        return [number for (number,) in rows]

    def _rejected(self, answer: Answer) -> list[int]:
        """The ids of all that the rejection of an answer took back; none where it is not rejected now."""
        judged = [verdict for verdict in self._verdicts("v.answer = :id", id=answer.id) if verdict.kind != "comment"]
        if not judged or judged[-1].kind != "reject":
            return []
        taken_back = self._answers(
            "a.question = :question AND a.kind = 'retract' AND a.token = 'rejected ' || a.retracts || ' ' || :token",
            question=answer.question,
            token=judged[-1].token,
        )
        return [entry.retracts for entry in taken_back if entry.retracts is not None]

    def verdicts(self) -> list[Verdict]:
        """All verdicts, in the order of arrival."""
        return self._verdicts("1")

    def _verdicts(self, where: str, **values: Any) -> list[Verdict]:
        rows = self._store.rows(
            "SELECT v.id, v.answer, v.reviewer, v.kind, v.token, v.comment, v.at, "
            f"{sound('verdicts', 'v')} FROM verdicts v WHERE {where} ORDER BY v.id",
            **values,
        )
        return [
            Verdict(answer, reviewer, kind, token, comment, number, at)
            for number, answer, reviewer, kind, token, comment, at, _ in self._as_written("verdict", rows)
        ]


def _fault(verdict: Verdict) -> str:
    """Why the verdict is not valid; empty where it is."""
    if fault := name_fault(verdict.reviewer):
        return fault.replace("annotator", "reviewer", 1)
    if (verdict.kind == "comment") != bool(verdict.comment.strip()):
        return "a comment needs a text, and other verdicts have none"
    if len(verdict.comment) > MOST_LETTERS:
        return f"a comment of {len(verdict.comment):,} characters; write at most {MOST_LETTERS:,}"
    if not verdict.comment.replace("\n", "").replace("\t", "").isprintable():
        return "the comment holds characters that cannot be seen; leave them out"
    return ""
