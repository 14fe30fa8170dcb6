"""The SQLite file behind the ledger: its tables, its transactions, and what a row holds.

Every change is one transaction that is on the disk when `write` ends, so that a kill loses nothing that was reported as
saved. SQLite's rollback journal is kept, not its write-ahead log: at rest the ledger is a single file that can be
copied, and it works on network disks.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from fewmask.annotation.facts import Answer, Question
from fewmask.labels import NOT_LABELLED

VERSION = 1
TABLES = {
    "domains": "id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, classes TEXT NOT NULL",
    "images": "id INTEGER PRIMARY KEY, domain INTEGER NOT NULL REFERENCES domains, stem TEXT NOT NULL, "
    "content TEXT NOT NULL, height INTEGER NOT NULL, width INTEGER NOT NULL, UNIQUE (domain, stem)",
    "rounds": "number INTEGER PRIMARY KEY, asked INTEGER NOT NULL, digest TEXT NOT NULL",
    "questions": "id INTEGER PRIMARY KEY, round INTEGER NOT NULL REFERENCES rounds, "
    "image INTEGER NOT NULL REFERENCES images, kind TEXT NOT NULL, region INTEGER NOT NULL, y0 INTEGER NOT NULL, "
    "x0 INTEGER NOT NULL, y1 INTEGER NOT NULL, x1 INTEGER NOT NULL, shape BLOB, guess INTEGER, score REAL NOT NULL, "
    "cost REAL NOT NULL, asked_at TEXT NOT NULL, UNIQUE (image, kind, region)",
    "answers": "id INTEGER PRIMARY KEY, question INTEGER NOT NULL REFERENCES questions, annotator TEXT NOT NULL, "
    "kind TEXT NOT NULL CHECK (kind IN ('answer', 'skip', 'retract')), retracts INTEGER UNIQUE REFERENCES answers, "
    "seconds REAL, clicks REAL, at TEXT NOT NULL, content BLOB, pixels INTEGER NOT NULL, "
    "token TEXT NOT NULL UNIQUE",
}
INDICES = ("questions (round)", "answers (question)")
QUESTION_COLUMNS = "image, kind, region, y0, x0, y1, x1, shape, guess, score, cost, round, asked_at"
ANSWER_COLUMNS = "question, annotator, kind, retracts, seconds, clicks, content, pixels, token, at"

QUESTION = (
    "SELECT q.id, q.round, d.name, i.stem, q.kind, q.region, q.y0, q.x0, q.y1, q.x1, q.shape, q.guess, q.score, "
    "q.cost, q.asked_at FROM questions q JOIN images i ON i.id = q.image JOIN domains d ON d.id = i.domain"
)
ANSWER = (
    "SELECT a.id, a.question, a.annotator, a.token, a.kind, a.retracts, a.seconds, a.clicks, a.at, a.content, "
    "q.y1 - q.y0, q.x1 - q.x0 FROM answers a JOIN questions q ON q.id = a.question"
)


class Store:
    """The file at a path, made where there is none. It belongs to the thread that opened it."""

    def __init__(self, path: Path) -> None:
        """Raises ValueError when the file is not a ledger, or one of another version of fewmask."""
        self.path = path
        try:
            # Transactions are begun by hand: the module would begin them after the first read, too late to be safe.
            self._db = sqlite3.connect(path, timeout=60, isolation_level=None)
            try:
                self._prepare()
            except BaseException:
                self.close()
                raise
        except sqlite3.DatabaseError as error:
            raise ValueError(f"{path}: cannot be opened as a ledger ({error}); give a run's ledger.sqlite") from None

    def _prepare(self) -> None:
        self._db.execute("PRAGMA foreign_keys = ON")
        self._db.execute("PRAGMA synchronous = EXTRA")  # the journal's removal is on the disk too
        if self._version() == 0:
            self._create()
        if self._version() != VERSION:
            raise ValueError(
                f"{self.path}: a ledger of version {self._version()}, this fewmask reads {VERSION}; use the fewmask "
                "that wrote it"
            )

    def _version(self) -> int:
        return int(self._db.execute("PRAGMA user_version").fetchone()[0])

    def _create(self) -> None:
        with self.write():
            if self._version():
                return  # another process was first
            if self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                raise sqlite3.DatabaseError("it holds tables that are not a ledger's")
            for table, columns in TABLES.items():
                self._db.execute(f"CREATE TABLE {table} ({columns})")
                for change in ("UPDATE", "DELETE"):
                    self._db.execute(
                        f"CREATE TRIGGER no_{change.lower()}_of_{table} BEFORE {change} ON {table} "
                        f"BEGIN SELECT RAISE(ABORT, 'the ledger only grows: no {change} of {table}'); END"
                    )
            for number, index in enumerate(INDICES):
                self._db.execute(f"CREATE INDEX index_{number} ON {index}")
            self._db.execute(f"PRAGMA user_version = {VERSION}")

    @contextmanager
    def write(self) -> Iterator[None]:
        """One transaction: all of it is on the disk at the end, or nothing is. Other writers wait from its start."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def rows(self, query: str, **values: Any) -> list[Any]:
        return self._db.execute(query, values).fetchall()  # at once: an open cursor would keep writers waiting

    def insert(self, table: str, columns: str, rows: Iterable[Sequence[Any]], known: bool = False) -> None:
        """Append rows, inside of `write`; those that break a uniqueness are left out if they may be `known`."""
        places = ", ".join("?" * (columns.count(",") + 1))
        ending = " ON CONFLICT DO NOTHING" if known else ""
        self._db.executemany(f"INSERT INTO {table} ({columns}) VALUES ({places}){ending}", rows)

    def close(self) -> None:
        self._db.close()


def question_row(question: Question) -> tuple[Any, ...]:
    """The columns of `QUESTION_COLUMNS` after the image."""
    shape = question.shape
    packed = None if shape is None or shape.all() else zlib.compress(np.packbits(shape).tobytes())
    guess = None if question.guess is None else int(question.guess)
    where = (question.kind, int(question.region), *map(int, question.box))
    return *where, packed, guess, float(question.score), float(question.cost)


def answer_row(answer: Answer) -> tuple[Any, ...]:
    """The columns of `ANSWER_COLUMNS` before the time."""
    values = answer.values
    packed = None if values is None else zlib.compress(values.tobytes())
    decided = 0 if values is None else int((values != NOT_LABELLED).sum())
    who = (answer.question, answer.annotator, answer.kind, answer.retracts, answer.seconds, answer.clicks)
    return *who, packed, decided, answer.token


def as_question(row: Sequence[Any]) -> Question:
    number, asked_in, domain, stem, kind, region, y0, x0, y1, x1, packed, guess, score, cost, at = row
    shape = None
    if packed is not None:
        h, w = y1 - y0, x1 - x0
        bits = np.unpackbits(np.frombuffer(zlib.decompress(packed), np.uint8), count=h * w)
        shape = bits.reshape(h, w).astype(bool)
    return Question(domain, stem, kind, region, (y0, x0, y1, x1), score, cost, shape, guess, number, asked_in, at)


def as_answer(row: Sequence[Any]) -> Answer:
    *plain, packed, h, w = row
    values = None if packed is None else np.frombuffer(zlib.decompress(packed), np.uint8).reshape(h, w)
    number, question, annotator, token, kind, retracts, seconds, clicks, at = plain
    return Answer(question, annotator, token, values, kind, retracts, seconds, clicks, number, at)


def words(domain: str | None = None, stem: str | None = None) -> str:
    """The SQL of the tables `standing` (not taken back) and `words` (each annotator's last of each question).

    With the parameter :up_to; an image's are found by the parameters :domain and :stem, where they are given.
    """
    images = "SELECT i.id FROM images i JOIN domains d ON d.id = i.domain WHERE d.name = :domain"
    images += "" if stem is None else " AND i.stem = :stem"
    of = "" if domain is None else f"a.question IN (SELECT id FROM questions WHERE image IN ({images})) AND"
    return (
        f"standing AS (SELECT a.id, a.question, a.annotator, a.kind FROM answers a WHERE {of} a.kind <> 'retract' "
        "AND a.id <= :up_to AND NOT EXISTS (SELECT 1 FROM answers r WHERE r.retracts = a.id AND r.id <= :up_to)), "
        # of the columns without an aggregate SQLite takes those of the row that has the maximum
        "words AS (SELECT max(id) AS id, question, annotator, kind FROM standing GROUP BY question, annotator)"
    )


def one_of(column: str) -> str:
    """SQL: the column is one of `keys_of` in the parameter :keys."""
    return f"{column} IN (SELECT value FROM json_each(:keys))"


def keys_of(values: Iterable[int | str]) -> str:
    return json.dumps(list(values))
