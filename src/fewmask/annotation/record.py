"""The record: every question and every answer as given. Entries are added and never changed.

Shapes: H×W pixels of an image.

Every change is one transaction that is on the disk when the call returns: a kill loses nothing that was reported as
saved. Several processes may have the file open; they wait for each other. An open record belongs to the thread that
opened it. A forked process must not use it.
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
    answers_sql,
    as_answer,
    as_question,
    keys_of,
    one_of,
    question_row,
    sound,
)
from fewmask.config import AnswerSettings

if TYPE_CHECKING:  # the labelling page opens the ledger without torch
    from fewmask.data.domain import Domain

FOREVER = 2**63 - 1


class Record:
    """The record at a path, made where there is none. Use it in `with`, or call `close`.

    It keeps every annotator's answers apart. `rule` says how many annotators a question waits for.
    """

    def __init__(self, path: Path, rule: AnswerSettings | None = None) -> None:
        """Raises ValueError when the file is no ledger, or a ledger of another version of fewmask."""
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
        """Record images by a hash of their pixels. The pixels of recorded images must be the same as before.

        Raises ValueError that lists every image whose pixels changed, and when the domain's classes changed.
        """
        images = ((stem, domain.image(stem)) for stem in stems)
        rows = [(stem, content_hash(image), *image.shape[:2]) for stem, image in images]
        classes = json.dumps(domain.space.names)
        with self._store.write():
            if domain.name not in self.classes():
                self._store.insert("domains", [(domain.name, classes)])
            self.expect(domain)
            ((number,),) = self._store.rows("SELECT id FROM domains WHERE name = :name", name=domain.name)
            recorded = dict(self._store.rows("SELECT stem, content FROM images WHERE domain = :number", number=number))
            if changed := [stem for stem, content, *_ in rows if recorded.get(stem, content) != content]:
                raise self._changed(domain, changed)
            new_rows = {stem: (number, stem, *columns) for stem, *columns in rows if stem not in recorded}
            self._store.insert("images", new_rows.values())

    def expect(self, domain: Domain) -> None:
        """Raise ValueError when the domain's classes differ from the ledger's, or the ledger does not have the domain.

        Also raises it when the ledger asked about images that train does not have any more.
        """
        classes = self.classes().get(domain.name)
        if classes != domain.space.names:
            before = "no domain of that name" if classes is None else ", ".join(classes)
            if classes is not None and classes == domain.space.names[: len(classes)]:
                raise ValueError(
                    f"{self.path}: {domain.name}: {', '.join(domain.space.names[len(classes) :])} was added to its "
                    "classes; give the `fewmask campaign` command once, which takes it in, and answer then"
                )
            raise ValueError(
                f"{self.path}: {domain.name}: its classes are {', '.join(domain.space.names)}, in the ledger {before}; "
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
        """Allow answers with classes that were added at the end. Raises ValueError for any other change."""
        with self._store.write():
            recorded, names = self.classes()[domain.name], domain.space.names
            if recorded != names and recorded == names[: len(recorded)]:
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

    def _as_written(self, kind: str, rows: Sequence[Any]) -> Sequence[Any]:
        """Check rows whose last column says whether they are as they were written. Raises ValueError where one is
        not."""
        for row in rows:
            if not row[-1]:
                raise self._store.damaged(f"{kind} {row[0]} is not as it was written")
        return rows

    def expect_image(self, domain: Domain, stem: str, image: np.ndarray) -> None:
        """Raise ValueError when an image (H,W,3) does not have the pixels that it had when it was asked about."""
        ((recorded,),) = self._store.rows(
            "SELECT i.content FROM images i JOIN domains d ON d.id = i.domain WHERE d.name = :domain AND stem = :stem",
            domain=domain.name,
            stem=stem,
        )
        if content_hash(image) != recorded:
            raise self._changed(domain, [stem])

    def _changed(self, domain: Domain, stems: Sequence[str]) -> ValueError:
        where = ", ".join(domain.source.where(stem) for stem in stems)
        return ValueError(
            f"{self.path}: {domain.name}: other pixels than when they were asked about: {where}; put the images back "
            "as they were, or begin a new run"
        )

    # ── Questions ────────────────────────────────────────────────────────────────────────────────────────────────────

    def ask(self, number: int, questions: Sequence[Question]) -> None:
        """Ask a round's questions about recorded images in one transaction.

        Asking the same round with the same regions again changes nothing. Raises ValueError when the round asked other
        questions, or when one of these was asked before.
        """
        digest, at = questions_digest(questions), now()
        with self._store.write():
            rounds = self._store.rows("SELECT asked, digest FROM rounds WHERE number = :number", number=number)
            if rounds and rounds[0][1] == digest:
                return
            if rounds:
                raise ValueError(
                    f"{self.path}: round {number} has asked {rounds[0][0]} other questions, and a round asks once; ask "
                    f"these {len(questions)} in a round of their own"
                )
            images = {
                (domain, stem): (image, height, width)
                for domain, stem, image, height, width in self._store.rows(
                    "SELECT d.name, i.stem, i.id, i.height, i.width FROM images i JOIN domains d ON d.id = i.domain"
                )
            }
            earlier = dict[tuple[int, str, int], int]()
            for image, kind, region, asked_in in self._store.rows("SELECT image, kind, region, round FROM questions"):
                earlier[image, kind, region] = asked_in
            rows = []
            for question in questions:
                image, height, width = images[question.domain, question.stem]
                check_question(question, height, width)
                key = (image, question.kind, question.region)
                if key in earlier:
                    raise ValueError(
                        f"{self.path}: round {number} asks {question}, which round {earlier[key]} asked; nothing is "
                        "asked twice: leave out what `questions()` returns"
                    )
                earlier[key] = number
                rows.append((image, *question_row(question), number, at))
            self._store.insert("rounds", [(len(rows), digest)], first=number)
            self._store.insert("questions", rows)

    def rounds(self) -> dict[int, int]:
        """The rounds that asked questions, in order, with their numbers of questions."""
        return dict(self._store.rows("SELECT number, asked FROM rounds ORDER BY number"))

    def questions(
        self, number: int | None = None, open_only: bool = False, annotator: str | None = None
    ) -> list[Question]:
        """The questions of a round, or of all rounds, in the order in which they were asked.

        `open_only` leaves out questions that as many annotators as the rule waits for have answered or skipped. With
        `annotator` it also leaves out those that this annotator has answered or skipped.
        """
        where = "(:number IS NULL OR q.round = :number)"
        if open_only:
            where += (
                f" AND q.id NOT IN (WITH {answers_sql()} SELECT question FROM last_answers GROUP BY question "
                "HAVING count(*) >= :each OR max(annotator = :annotator))"
            )
        return self._questions(where, number=number, up_to=FOREVER, each=self.rule.each, annotator=annotator)

    def _questions(self, where: str, **values: Any) -> list[Question]:
        rows = self._store.rows(f"{QUESTION} WHERE {where} ORDER BY q.id", **values)
        return [as_question(row) for row in self._as_written("question", rows)]

    # ── Answers ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def answer(self, answers: Sequence[Answer]) -> list[int]:
        """Append answers, skips and retractions in one transaction. Returns their ids.

        An entry whose token arrived before is not appended again; its first id is returned. Raises ValueError that
        lists all faults, and then appends nothing.
        """
        ids, problems = [], []
        with self._store.write():
            classes, at = self.classes(), now()
            questions = {q.id: q for q in self._questions(one_of("q.id"), keys=keys_of(a.question for a in answers))}
            recorded = {a.token: a for a in self._answers(one_of("a.token"), keys=keys_of(a.token for a in answers))}
            for answer in answers:
                question, earlier = questions.get(answer.question), recorded.get(answer.token)
                if question is None:
                    problems.append(f"question {answer.question}: it does not exist; answer what `questions()` returns")
                    continue
                fault = answer_fault(answer, question, len(classes[question.domain]))
                if earlier and not _same_content(earlier, answer):
                    fault = f"another answer has its token {answer.token!r}; give each a token of its own"
                elif not earlier and not fault:
                    fault = self._retraction_fault(answer)
                if fault:
                    problems.append(f"question {answer.question} ({question}): {fault}")
                elif not earlier:
                    earlier = recorded[answer.token] = replace(answer, id=self._append(answer, at))
                ids += [earlier.id] if earlier else []
            if problems:
                raise ValueError(f"{self.path}: nothing was saved: " + "; ".join(problems))
        return ids

    def _append(self, answer: Answer, at: str) -> int:
        return self._store.insert("answers", [(*answer_row(answer), at)])[0]

    def _retraction_fault(self, answer: Answer) -> str:
        """Why a retraction has nothing to take back; empty where it has, and for every other kind of answer."""
        if (answer.kind == "retract") != (answer.retracts is not None):
            return "`retracts` says what a retraction takes back, and stands there alone"
        if answer.retracts is None:
            return ""
        retracted = self._answers("a.id = :id AND a.retracts IS NULL", id=answer.retracts)
        if not retracted or retracted[0].question != answer.question:
            return f"answer {answer.retracts} is none of this question; take back one of its answers or skips"
        last = self._answers("a.retracts = :id", id=answer.retracts)[-1:]
        taken_back = last and last[0].kind == "retract"
        return f"answer {answer.retracts} was taken back before, by {last[0].annotator}" if taken_back else ""

    def answers(self, up_to: int | None = None, after: int = 0, question: int | None = None) -> list[Answer]:
        """The appended entries of one question or of all, in order: from the id after `after` up to the id `up_to`."""
        where = "a.id > :after AND a.id <= :up_to AND (:question IS NULL OR a.question = :question)"
        return self._answers(where, after=after, up_to=up_to_id(up_to), question=question)

    def last_words(self, domain: str | None = None, stem: str | None = None, up_to: int | None = None) -> list[Answer]:
        """Each annotator's last answer or skip of each question that is not taken back, in the order of arrival.

        The questions are those of one image, of one domain, or all.
        """
        return self._answers(
            f"a.id IN (WITH {answers_sql(domain, stem)} SELECT id FROM last_answers)",
            domain=domain,
            stem=stem,
            up_to=up_to_id(up_to),
        )

    def _answers(self, where: str, **values: Any) -> list[Answer]:
        rows = self._store.rows(f"{ANSWER} WHERE {where} ORDER BY a.id", **values)
        return [as_answer(row) for row in self._as_written("answer", rows)]

    def last_answer_id(self) -> int:
        """The id of the newest answer, 0 where there is none. Labels "up to" this id never change."""
        return int(self._store.rows("SELECT coalesce(max(id), 0) FROM answers")[0][0])

    def fingerprint(self, up_to: int) -> str:
        """A hash of the answers up to an id. It differs for a ledger that lost some of them, and for another ledger."""
        rows = self._store.rows("SELECT checksum FROM answers WHERE id <= :up_to ORDER BY id", up_to=up_to)
        return blake2b(repr(rows).encode(), digest_size=16).hexdigest()

    def examine(self) -> None:
        """Read all of the file. Raises ValueError where anything in it is not as it was written."""
        self._store.examine()

    def expect_images(self, domain: Domain, only: Collection[str] | None = None) -> None:
        """Raise ValueError that lists the images, all or those of `only`, whose pixels changed after they were asked
        about."""
        rows = self._store.rows(
            "SELECT DISTINCT i.stem, i.content FROM questions q JOIN images i ON i.id = q.image "
            "JOIN domains d ON d.id = i.domain WHERE d.name = :domain ORDER BY i.stem",
            domain=domain.name,
        )
        images = [(stem, content) for stem, content in rows if only is None or stem in only]
        if changed := [stem for stem, content in images if content_hash(domain.image(stem)) != content]:
            raise self._changed(domain, changed)

    def given(
        self, domain: str, stem: str | None = None, up_to: int | None = None
    ) -> list[tuple[Question, list[Answer]]]:
        """The answered questions of an image or a domain, each with the standing answer of each annotator.

        Answers are in the order of arrival, and so are questions, by their last answer.
        """
        where = "d.name = :domain AND (:stem IS NULL OR i.stem = :stem)"
        questions = {q.id: q for q in self._questions(where, domain=domain, stem=stem)}
        answers: dict[int, list[Answer]] = {}
        for answer in self.last_words(domain, stem, up_to):
            if answer.kind == "answer":
                answers.setdefault(answer.question, []).append(answer)
        return [(questions[key], latest) for key, latest in sorted(answers.items(), key=lambda item: item[1][-1].id)]


def content_hash(image: np.ndarray) -> str:
    """A hash of an image's pixels (H,W,3) uint8 and their shape. It does not depend on the name or format of the
    file."""
    digest = blake2b(repr(image.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


def up_to_id(up_to: int | None) -> int:
    """The id up to which answers are read. None means all answers, also future ones."""
    return FOREVER if up_to is None else up_to


def now() -> str:
    """The time in UTC, as the ledger writes it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _same_content(first: Answer, second: Answer) -> bool:
    def content(answer: Answer) -> tuple[object, ...]:
        values = answer.values
        return answer.question, answer.annotator, answer.kind, answer.retracts, values is None or values.tobytes()

    return content(first) == content(second)
