"""The record: every question and every answer as given. Entries are added and never changed.

Shapes: H×W pixels of an image.

Every change is one transaction that is on the disk when the call returns: a kill loses nothing that was reported as
saved. Several processes may have it open; they wait for each other. An open record belongs to the thread that opened
it, and is not carried into a forked process.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from fewmask.annotation.questions import (
    Answer,
    Question,
    answer_fault,
    check_question,
    questions_digest,
)
from fewmask.annotation.store import (
    ANSWER,
    QUESTION,
    Store,
    answer_row,
    as_answer,
    as_question,
    keys_of,
    one_of,
    question_row,
    sound,
    words,
)
from fewmask.config import AnswerSettings

if TYPE_CHECKING:  # a labelling page opens the ledger without torch
    from fewmask.data.domain import Domain

FOREVER = 2**63 - 1


class Record:
    """The record at a path, made where there is none. Use it in `with`, or call `close`.

    It keeps every annotator's answers apart. `rule` says how many annotators a question waits for.
    """

    def __init__(self, path: Path, rule: AnswerSettings | None = None) -> None:
        """Raises ValueError when the file is not a ledger, or one of another version of fewmask."""
        self.path, self.rule = path, rule or AnswerSettings()
        self._store = Store(path)

    def close(self) -> None:
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # ── Images ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def add_images(self, domain: Domain, stems: Iterable[str]) -> None:
        """Remember images by their pixels. The pixels of images that are remembered already must be the same.

        Raises ValueError that lists every image whose pixels changed, or when the domain's classes did.
        """
        images = ((stem, domain.image(stem)) for stem in stems)
        found = [(stem, content_hash(image), *image.shape[:2]) for stem, image in images]
        classes = json.dumps(domain.space.names)
        with self._store.write():
            if domain.name not in self.classes():
                self._store.insert("domains", [(domain.name, classes)])
            self.expect(domain)
            ((number,),) = self._store.rows("SELECT id FROM domains WHERE name = :name", name=domain.name)
            known = dict(self._store.rows("SELECT stem, content FROM images WHERE domain = :number", number=number))
            if changed := [stem for stem, content, *_ in found if known.get(stem, content) != content]:
                raise self._changed(domain, changed)
            new = {stem: (number, stem, *rest) for stem, *rest in found if stem not in known}
            self._store.insert("images", new.values())

    def expect(self, domain: Domain) -> None:
        """Raise ValueError when the ledger's answers for this domain are about other classes, or it has none, and when
        it asked about images that train does not have any more."""
        classes = self.classes().get(domain.name)
        if classes != domain.space.names:
            known = "no domain of that name" if classes is None else ", ".join(classes)
            if classes is not None and classes == domain.space.names[: len(classes)]:
                raise ValueError(
                    f"{self.path}: {domain.name}: {', '.join(domain.space.names[len(classes) :])} was added to its "
                    "classes; give the `fewmask campaign` command once, which takes it in, and answer then"
                )
            raise ValueError(
                f"{self.path}: {domain.name}: its classes are {', '.join(domain.space.names)}, in the ledger {known}; "
                "a run keeps its classes: put them back, or begin a new run"
            )
        rows = self._store.rows(
            "SELECT DISTINCT stem FROM questions q JOIN images i ON i.id = q.image JOIN domains d ON d.id = i.domain "
            "WHERE d.name = :domain",
            domain=domain.name,
        )
        if lost := sorted({stem for (stem,) in rows} - set(domain.splits["train"])):
            raise ValueError(
                f"{self.path}: {domain.name}: it asked about {', '.join(lost)}, which train does not have; put the "
                "images and the split back as they were, or begin a new run"
            )

    def grow_classes(self, domain: Domain) -> None:
        """Let answers name classes that were added behind the ones there were. Raises ValueError for any others."""
        with self._store.write():
            known, names = self.classes()[domain.name], domain.space.names
            if known != names and known == names[: len(known)]:
                self._store.grow_classes(domain.name, json.dumps(names))
            self.expect(domain)

    def classes(self) -> dict[str, tuple[str, ...]]:
        """The class names of each domain that was asked about."""
        rows = self._store.rows(f"SELECT d.name, d.classes, {sound('domains', 'd')} FROM domains d")
        return {name: tuple(json.loads(text)) for name, text, _ in self._as_written("domain", rows)}

    def sizes(self, domain: str, stem: str | None = None) -> dict[str, tuple[int, int]]:
        """(H, W) of the domain's images, or of one of them, by stem."""
        rows = self._store.rows(
            f"SELECT i.stem, i.height, i.width, {sound('images', 'i')} FROM images i JOIN domains d ON d.id = i.domain "
            "WHERE d.name = :domain AND (:stem IS NULL OR stem = :stem)",
            domain=domain,
            stem=stem,
        )
        return {name: (height, width) for name, height, width, _ in self._as_written("image", rows)}

    def _as_written(self, what: str, rows: Sequence[Any]) -> Sequence[Any]:
        """Rows whose last column says whether they are as they were written. Raises ValueError where one is not."""
        for row in rows:
            if not row[-1]:
                raise self._store.damaged(f"{what} {row[0]} is not as it was written")
        return rows

    def expect_image(self, domain: Domain, stem: str, image: np.ndarray) -> None:
        """Raise ValueError when an image (H,W,3) has other pixels than when it was asked about."""
        ((known,),) = self._store.rows(
            "SELECT i.content FROM images i JOIN domains d ON d.id = i.domain WHERE d.name = :domain AND stem = :stem",
            domain=domain.name,
            stem=stem,
        )
        if content_hash(image) != known:
            raise self._changed(domain, [stem])

    def _changed(self, domain: Domain, stems: Sequence[str]) -> ValueError:
        where = ", ".join(domain.source.where(stem) for stem in stems)
        return ValueError(
            f"{self.path}: {domain.name}: other pixels than when they were asked about: {where}; put the images back "
            "as they were, or begin a new run"
        )

    # ── Questions ────────────────────────────────────────────────────────────────────────────────────────────────────

    def ask(self, number: int, questions: Sequence[Question]) -> None:
        """Ask a round's questions, of images that were added: all of them or, if it is killed, none.

        The same round with the same regions again changes nothing. Raises ValueError when the round asked others, or
        when one of them was asked before.
        """
        what, at = questions_digest(questions), _now()
        with self._store.write():
            asked = self._store.rows("SELECT asked, digest FROM rounds WHERE number = :number", number=number)
            if asked and asked[0][1] == what:
                return
            if asked:
                raise ValueError(
                    f"{self.path}: round {number} has asked {asked[0][0]} other questions, and a round asks once; ask "
                    f"these {len(questions)} in a round of their own"
                )
            images = {
                (domain, stem): (image, height, width)
                for domain, stem, image, height, width in self._store.rows(
                    "SELECT d.name, i.stem, i.id, i.height, i.width FROM images i JOIN domains d ON d.id = i.domain"
                )
            }
            before = dict[tuple[int, str, int], int]()
            for image, kind, region, earlier in self._store.rows("SELECT image, kind, region, round FROM questions"):
                before[image, kind, region] = earlier
            rows = []
            for question in questions:
                image, height, width = images[question.domain, question.stem]
                check_question(question, height, width)
                key = (image, question.kind, question.region)
                if key in before:
                    raise ValueError(
                        f"{self.path}: round {number} asks {question}, which round {before[key]} asked; nothing is "
                        "asked twice: leave out what `questions()` returns"
                    )
                before[key] = number
                rows.append((image, *question_row(question), number, at))
            self._store.insert("rounds", [(len(rows), what)], first=number)
            self._store.insert("questions", rows)

    def rounds(self) -> dict[int, int]:
        """The rounds that were asked, in order, with their numbers of questions."""
        return dict(self._store.rows("SELECT number, asked FROM rounds ORDER BY number"))

    def questions(
        self, number: int | None = None, open_only: bool = False, annotator: str | None = None
    ) -> list[Question]:
        """The questions of a round, or of all, in the order in which they were asked.

        `open_only` leaves out what as many annotators as the rule waits for have answered or skipped; and, for one
        annotator, what they have.
        """
        where = "(:number IS NULL OR q.round = :number)"
        if open_only:
            where += (
                f" AND q.id NOT IN (WITH {words()} SELECT question FROM words GROUP BY question "
                "HAVING count(*) >= :each OR max(annotator = :annotator))"
            )
        return self._questions(where, number=number, up_to=FOREVER, each=self.rule.each, annotator=annotator)

    def _questions(self, where: str, **values: Any) -> list[Question]:
        rows = self._store.rows(f"{QUESTION} WHERE {where} ORDER BY q.id", **values)
        return [as_question(row) for row in self._as_written("question", rows)]

    # ── Answers ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def answer(self, answers: Sequence[Answer]) -> list[int]:
        """Append answers, skips and retractions, all in one transaction; returns their ids.

        What arrived before under the same token is not appended again and has its old id. Raises ValueError that
        lists everything that is wrong with them, and then appends none.
        """
        ids, problems = [], []
        with self._store.write():
            classes, at = self.classes(), _now()
            asked = {q.id: q for q in self._questions(one_of("q.id"), keys=keys_of(a.question for a in answers))}
            known = {a.token: a for a in self._answers(one_of("a.token"), keys=keys_of(a.token for a in answers))}
            for answer in answers:
                question, before = asked.get(answer.question), known.get(answer.token)
                if question is None:
                    problems.append(f"question {answer.question}: nobody asked it; answer what `questions()` returns")
                    continue
                wrong = answer_fault(answer, question, len(classes[question.domain]))
                if before and not _same(before, answer):
                    wrong = f"another answer has its token {answer.token!r}; give each a token of its own"
                elif not before and not wrong:
                    wrong = self._stale(answer)
                if wrong:
                    problems.append(f"question {answer.question} ({question}): {wrong}")
                elif not before:
                    before = known[answer.token] = replace(answer, id=self._append(answer, at))
                ids += [before.id] if before else []
            if problems:
                raise ValueError(f"{self.path}: nothing was saved: " + "; ".join(problems))
        return ids

    def _append(self, answer: Answer, at: str) -> int:
        return self._store.insert("answers", [(*answer_row(answer), at)])[0]

    def _stale(self, answer: Answer) -> str:
        """Why there is nothing that the answer takes back, in words; empty where there is, or where it is another."""
        if (answer.kind == "retract") != (answer.retracts is not None):
            return "`retracts` says what a retraction takes back, and stands there alone"
        if answer.retracts is None:
            return ""
        taken = self._answers("a.id = :id AND a.kind <> 'retract'", id=answer.retracts)
        if not taken or taken[0].question != answer.question:
            return f"answer {answer.retracts} is none of this question; take back one of its answers or skips"
        again = self._answers("a.retracts = :id", id=answer.retracts)
        return f"answer {answer.retracts} was taken back before, by {again[0].annotator}" if again else ""

    def answers(self, up_to: int | None = None, after: int = 0, question: int | None = None) -> list[Answer]:
        """All that was appended, in order, after the answer of id `after` and up to and with the one of id `up_to`.

        Of one question, or of all.
        """
        where = "a.id > :after AND a.id <= :up_to AND (:question IS NULL OR a.question = :question)"
        return self._answers(where, after=after, up_to=up_to_id(up_to), question=question)

    def last_words(self, domain: str | None = None, stem: str | None = None, up_to: int | None = None) -> list[Answer]:
        """What each annotator says of each question: the last answer or skip that is not taken back.

        Of one image, one domain or all, in the order of arrival.
        """
        return self._answers(
            f"a.id IN (WITH {words(domain, stem)} SELECT id FROM words)",
            domain=domain,
            stem=stem,
            up_to=up_to_id(up_to),
        )

    def _answers(self, where: str, **values: Any) -> list[Answer]:
        rows = self._store.rows(f"{ANSWER} WHERE {where} ORDER BY a.id", **values)
        return [as_answer(row) for row in self._as_written("answer", rows)]

    def last_answer_id(self) -> int:
        """The newest answer's id, 0 where there is none. Labels "up to" it never change, whatever arrives later."""
        return int(self._store.rows("SELECT coalesce(max(id), 0) FROM answers")[0][0])

    def fingerprint(self, up_to: int) -> str:
        """Tells the answers up to one from any others: of a ledger that lost some, or of another one."""
        rows = self._store.rows("SELECT checksum FROM answers WHERE id <= :up_to ORDER BY id", up_to=up_to)
        return blake2b(repr(rows).encode(), digest_size=16).hexdigest()

    def examine(self) -> None:
        """Read all of the file. Raises ValueError where anything in it is not as it was written."""
        self._store.examine()

    def expect_images(self, domain: Domain, only: Collection[str] | None = None) -> None:
        """Raise ValueError that lists every image, or of some, that has other pixels than when it was asked about."""
        rows = self._store.rows(
            "SELECT DISTINCT i.stem, i.content FROM questions q JOIN images i ON i.id = q.image "
            "JOIN domains d ON d.id = i.domain WHERE d.name = :domain ORDER BY i.stem",
            domain=domain.name,
        )
        these = [(stem, content) for stem, content in rows if only is None or stem in only]
        if changed := [stem for stem, content in these if content_hash(domain.image(stem)) != content]:
            raise self._changed(domain, changed)

    def given(
        self, domain: str, stem: str | None = None, up_to: int | None = None
    ) -> list[tuple[Question, list[Answer]]]:
        """What was answered about an image or a domain: questions, each with one standing answer by each annotator.

        Both in the order of arrival, a question's being that of its last answer.
        """
        where = "d.name = :domain AND (:stem IS NULL OR i.stem = :stem)"
        asked = {q.id: q for q in self._questions(where, domain=domain, stem=stem)}
        answers: dict[int, list[Answer]] = {}
        for word in self.last_words(domain, stem, up_to):
            if word.kind == "answer":
                answers.setdefault(word.question, []).append(word)
        return [(asked[key], those) for key, those in sorted(answers.items(), key=lambda item: item[1][-1].id)]


def content_hash(image: np.ndarray) -> str:
    """A hash of an image's pixels (H,W,3) uint8 and their shape: how its file is called or packed does not matter."""
    digest = blake2b(repr(image.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


def up_to_id(up_to: int | None) -> int:
    """The last answer's id to look at; None is all of them, whatever arrives."""
    return FOREVER if up_to is None else up_to


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _same(one: Answer, other: Answer) -> bool:
    def said(answer: Answer) -> tuple[object, ...]:
        values = answer.values
        return answer.question, answer.annotator, answer.kind, answer.retracts, values is None or values.tobytes()

    return said(one) == said(other)
