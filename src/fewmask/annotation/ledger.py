"""The ledger: the questions about regions and their answers, in one SQLite file that only ever grows.

Shapes: H×W pixels of an image · h×w pixels of a region's box.

The record holds the questions and answers. The ledger reads it by a rule: it combines the answers and reports the
progress.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fewmask.annotation.consensus import Ballot, ballot, decide, trust_of
from fewmask.annotation.questions import Progress, Question, Work
from fewmask.annotation.record import FOREVER, up_to_id
from fewmask.annotation.store import answers_sql
from fewmask.annotation.verdicts import ReviewedRecord
from fewmask.config import AnswerSettings
from fewmask.labels import NOT_LABELLED, Mask


class Ledger(ReviewedRecord):
    """The ledger at a path, made where there is none. Use it in `with`, or call `close`.

    The file keeps every annotator's answers apart. `rule` says how they are read: how many annotators a question waits
    for, and how their answers are combined.
    """

    def __init__(self, path: Path, rule: AnswerSettings | None = None) -> None:
        """Raises ValueError when the file is no ledger, or a ledger of another version of fewmask."""
        super().__init__(path, rule)
        self._trust: dict[tuple[str, int], Mapping[str, float]] = {}

    def decisions(self, domain: str, stem: str | None = None, up_to: int | None = None) -> list[tuple[Question, Mask]]:
        """The questions with their values (h,w), which the rule combines from the answers."""
        trust = self.trust(domain, up_to)
        return [(question, decide(answers, self.rule, trust)) for question, answers in self.given(domain, stem, up_to)]

    def trust(self, domain: str, up_to: int | None = None) -> Mapping[str, float]:
        """The weight of each annotator's vote where it is not 1, set by the rule or estimated from the answers."""
        if self.rule.decide != "trust":
            return {}
        if self.rule.trust != "estimated":
            return self.rule.trust
        up_to = min(up_to_id(up_to), self.last_answer_id())  # the answers up to an id never change
        if (domain, up_to) not in self._trust:
            self._trust[domain, up_to] = trust_of(self.ballots(domain, up_to), len(self.classes()[domain]))
        return self._trust[domain, up_to]

    def ballots(self, domain: str, up_to: int | None = None) -> list[Ballot]:
        """The votes of several annotators on the same pixels of a domain, question by question. One image is in memory
        at a time."""
        classes = len(self.classes()[domain])
        lists = (answers for stem in self._stems(domain, up_to) for _, answers in self.given(domain, stem, up_to))
        return [votes for answers in lists if len(answers) > 1 and (votes := ballot(answers, classes))]

    def labels(self, domain: str, stem: str, up_to: int | None = None) -> Mask:
        """The labels of an image, (H,W) uint8. They are 254 where nobody answered and where the rule sees no majority.

        Where regions overlap, the later answer wins.
        """
        mask = np.full(self.sizes(domain, stem)[stem], NOT_LABELLED, dtype=np.uint8)
        for question, values in self.decisions(domain, stem, up_to):
            np.copyto(question.window(mask), values, where=values != NOT_LABELLED)
        return mask

    def answered_stems(self, domain: str, up_to: int | None = None) -> tuple[str, ...]:
        """The images of which the answers decide a pixel, sorted."""
        stems = self._stems(domain, up_to)
        if self.rule.decide == "latest":  # each answer decides a pixel
            return stems
        return tuple(s for s in stems if any((v != NOT_LABELLED).any() for _, v in self.decisions(domain, s, up_to)))

    def _stems(self, domain: str, up_to: int | None) -> tuple[str, ...]:
        """The images with an answer that was not taken back, sorted."""
        rows = self._store.rows(
            f"WITH {answers_sql(domain)} SELECT DISTINCT i.stem FROM last_answers l "
            "JOIN questions q ON q.id = l.question JOIN images i ON i.id = q.image "
            "WHERE l.kind = 'answer' ORDER BY i.stem",
            domain=domain,
            up_to=up_to_id(up_to),
        )
        return tuple(stem for (stem,) in rows)

    def progress(self, number: int | None = None, up_to: int | None = None) -> Progress:
        """The progress of a round, or of all rounds together."""
        values = {"number": number, "up_to": up_to_id(up_to)}
        of_round = "question IN (SELECT id FROM questions WHERE :number IS NULL OR round = :number)"
        ((questions, cost),) = self._store.rows(
            "SELECT count(*), coalesce(sum(cost), 0.0) FROM questions WHERE :number IS NULL OR round = :number",
            **values,
        )
        ((complete, answered, pixels),) = self._store.rows(
            f"WITH {answers_sql()}, counted AS (SELECT max(CASE kind WHEN 'answer' THEN id END) AS answer, "
            f"count(*) >= :each AS enough FROM last_answers WHERE {of_round} GROUP BY question) "
            "SELECT coalesce(sum(enough), 0), coalesce(sum(enough AND answer IS NOT NULL), 0), "
            "coalesce(sum(a.pixels), 0) FROM counted LEFT JOIN answers a ON a.id = counted.answer",
            each=self.rule.each,
            **values,
        )
        if self.rule.decide != "latest":
            decided = [part for domain in self.classes() for part in self.decisions(domain, up_to=up_to)]
            pixels = sum(int((v != NOT_LABELLED).sum()) for q, v in decided if number in (None, q.round))
        ((seconds, clicks),) = self._store.rows(
            "SELECT coalesce(sum(seconds), 0.0), coalesce(sum(clicks), 0.0) FROM answers "
            f"WHERE id <= :up_to AND {of_round}",
            **values,
        )
        return Progress(questions, answered, complete - answered, questions - complete, pixels, seconds, clicks, cost)

    def work(self) -> dict[str, Work]:
        """The work of each annotator, by name."""
        rows_of_answers = self._store.rows(
            f"WITH {answers_sql()} SELECT annotator, sum(kind = 'answer'), sum(kind = 'skip') FROM last_answers "
            "GROUP BY annotator",
            up_to=FOREVER,
        )
        counts = {name: (answered, skipped) for name, answered, skipped in rows_of_answers}
        rows = self._store.rows(
            "SELECT annotator, coalesce(sum(seconds), 0.0), coalesce(sum(clicks), 0.0), max(at) FROM answers "
            "GROUP BY annotator ORDER BY annotator"
        )
        return {name: Work(*counts.get(name, (0, 0)), seconds, clicks, last) for name, seconds, clicks, last in rows}
