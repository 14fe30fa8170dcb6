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
from fewmask.annotation.record import FOREVER, Record, up_to_id
from fewmask.annotation.store import words
from fewmask.config import AnswerSettings
from fewmask.labels import NOT_LABELLED, Mask


class Ledger(Record):
    """The ledger at a path, made where there is none. Use it in `with`, or call `close`.

    The file keeps every annotator's answers apart. `rule` says how they are read: how many annotators a question waits
    for, and what their answers come to.
    """

    def __init__(self, path: Path, rule: AnswerSettings | None = None) -> None:
        """Raises ValueError when the file is not a ledger, or one of another version of fewmask."""
        super().__init__(path, rule)
        self._trust: dict[tuple[str, int], Mapping[str, float]] = {}

    def decisions(self, domain: str, stem: str | None = None, up_to: int | None = None) -> list[tuple[Question, Mask]]:
        """The questions with their combined values (h,w) by the rule."""
        trust = self.trust(domain, up_to)
        return [(question, decide(those, self.rule, trust)) for question, those in self.given(domain, stem, up_to)]

    def trust(self, domain: str, up_to: int | None = None) -> Mapping[str, float]:
        """The weight of each annotator's vote where it is not 1, set by the rule or estimated from the answers."""
        if self.rule.decide != "trust":
            return {}
        if self.rule.trust != "estimated":
            return self.rule.trust
        up_to = min(up_to_id(up_to), self.last_answer_id())  # what is known up to an answer never changes
        if (domain, up_to) not in self._trust:
            self._trust[domain, up_to] = trust_of(self.ballots(domain, up_to), len(self.classes()[domain]))
        return self._trust[domain, up_to]

    def ballots(self, domain: str, up_to: int | None = None) -> list[Ballot]:
        """The votes of several annotators on the same pixels of a domain, question by question. One image is in memory
        at a time."""
        classes = len(self.classes()[domain])
        given = (those for stem in self._stems(domain, up_to) for _, those in self.given(domain, stem, up_to))
        return [found for those in given if len(those) > 1 and (found := ballot(those, classes))]

    def labels(self, domain: str, stem: str, up_to: int | None = None) -> Mask:
        """The labels of an image, (H,W) uint8. They are 254 where nobody answered and where the rule sees no majority.

        Where regions overlap the later wins.
        """
        mask = np.full(self.sizes(domain, stem)[stem], NOT_LABELLED, dtype=np.uint8)
        for question, values in self.decisions(domain, stem, up_to):
            np.copyto(question.window(mask), values, where=values != NOT_LABELLED)
        return mask

    def answered_stems(self, domain: str, up_to: int | None = None) -> tuple[str, ...]:
        """The images of which the answers decide a pixel, sorted."""
        stems = self._stems(domain, up_to)
        if self.rule.decide == "latest":  # and there is no answer that decides nothing
            return stems
        return tuple(s for s in stems if any((v != NOT_LABELLED).any() for _, v in self.decisions(domain, s, up_to)))

    def _stems(self, domain: str, up_to: int | None) -> tuple[str, ...]:
        """The images of which some answer stands, sorted."""
        rows = self._store.rows(
            f"WITH {words(domain)} SELECT DISTINCT i.stem FROM words w JOIN questions q ON q.id = w.question "
            "JOIN images i ON i.id = q.image WHERE w.kind = 'answer' ORDER BY i.stem",
            domain=domain,
            up_to=up_to_id(up_to),
        )
        return tuple(stem for (stem,) in rows)

    def progress(self, number: int | None = None, up_to: int | None = None) -> Progress:
        """The progress of a round, or of all rounds together."""
        values = {"number": number, "up_to": up_to_id(up_to)}
        chosen = "question IN (SELECT id FROM questions WHERE :number IS NULL OR round = :number)"
        ((asked, cost),) = self._store.rows(
            "SELECT count(*), coalesce(sum(cost), 0.0) FROM questions WHERE :number IS NULL OR round = :number",
            **values,
        )
        ((enough, answered, pixels),) = self._store.rows(
            f"WITH {words()}, said AS (SELECT max(CASE kind WHEN 'answer' THEN id END) AS answer, count(*) >= :each "
            f"AS enough FROM words WHERE {chosen} GROUP BY question) SELECT coalesce(sum(enough), 0), "
            "coalesce(sum(enough AND answer IS NOT NULL), 0), coalesce(sum(a.pixels), 0) "
            "FROM said LEFT JOIN answers a ON a.id = said.answer",
            each=self.rule.each,
            **values,
        )
        if self.rule.decide != "latest":
            decided = [part for domain in self.classes() for part in self.decisions(domain, up_to=up_to)]
            pixels = sum(int((v != NOT_LABELLED).sum()) for q, v in decided if number in (None, q.round))
        ((seconds, clicks),) = self._store.rows(
            "SELECT coalesce(sum(seconds), 0.0), coalesce(sum(clicks), 0.0) FROM answers "
            f"WHERE id <= :up_to AND {chosen}",
            **values,
        )
        return Progress(asked, answered, enough - answered, asked - enough, pixels, seconds, clicks, cost)

    def work(self) -> dict[str, Work]:
        """The work of each annotator, by name."""
        said = self._store.rows(
            f"WITH {words()} SELECT annotator, sum(kind = 'answer'), sum(kind = 'skip') FROM words GROUP BY annotator",
            up_to=FOREVER,
        )
        counts = {name: (answered, skipped) for name, answered, skipped in said}
        rows = self._store.rows(
            "SELECT annotator, coalesce(sum(seconds), 0.0), coalesce(sum(clicks), 0.0) FROM answers "
            "GROUP BY annotator ORDER BY annotator"
        )
        return {name: Work(*counts.get(name, (0, 0)), seconds, clicks) for name, seconds, clicks in rows}
