"""The SQLite file behind the ledger: its tables, its transactions, and the content of its rows.

Every change is one transaction that is on the disk when `write` ends, so that a kill loses nothing that was reported as
saved. The file uses SQLite's rollback journal and not its write-ahead log, so that a ledger at rest is a single file,
which can be copied, and works on network disks. Every row has its own checksum, which detects a flipped bit.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from fewmask.annotation.questions import Answer, Question
from fewmask.files import write_new
from fewmask.labels import NOT_LABELLED

VERSION = 4
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
    "kind TEXT NOT NULL CHECK (kind IN ('answer', 'skip', 'retract', 'restore')), retracts INTEGER REFERENCES answers, "
    "seconds REAL, clicks REAL, at TEXT NOT NULL, content BLOB, pixels INTEGER NOT NULL, "
    "token TEXT NOT NULL UNIQUE",
    "verdicts": "id INTEGER PRIMARY KEY, answer INTEGER NOT NULL REFERENCES answers, reviewer TEXT NOT NULL, "
    "kind TEXT NOT NULL CHECK (kind IN ('accept', 'reject', 'restore', 'comment')), comment TEXT NOT NULL, "
    "at TEXT NOT NULL, token TEXT NOT NULL UNIQUE",
}
CHECKSUM = "checksum TEXT NOT NULL DEFAULT ''"
"""The last column of each table: the checksum of the others."""
INDICES = ("questions (round)", "answers (question)", "answers (retracts)", "verdicts (answer)")
COLUMNS = {
    "domains": "name, classes",
    "images": "domain, stem, content, height, width",
    "rounds": "asked, digest",
    "questions": "image, kind, region, y0, x0, y1, x1, shape, guess, score, cost, round, asked_at",
    "answers": "question, annotator, kind, retracts, seconds, clicks, content, pixels, token, at",
    "verdicts": "answer, reviewer, kind, comment, token, at",
}
"""The columns of a row beside its number and its checksum."""
KEYS = {table: "number" if table == "rounds" else "id" for table in TABLES}


def sound(table: str, alias: str) -> str:
    """The SQL condition that a row is as it was written."""
    columns = ", ".join(f"{alias}.{c}" for c in (KEYS[table], *COLUMNS[table].split(", ")))
    return f"({alias}.checksum = checksum_of('{table}', {columns}))"


QUESTION = (
    "SELECT q.id, q.round, d.name, i.stem, q.kind, q.region, q.y0, q.x0, q.y1, q.x1, q.shape, q.guess, q.score, "
    f"q.cost, q.asked_at, {sound('questions', 'q')} "
    "FROM questions q JOIN images i ON i.id = q.image JOIN domains d ON d.id = i.domain"
)
ANSWER = (
    "SELECT a.id, a.question, a.annotator, a.token, a.kind, a.retracts, a.seconds, a.clicks, a.at, a.content, "
    f"q.y1 - q.y0, q.x1 - q.x0, {sound('answers', 'a')} FROM answers a JOIN questions q ON q.id = a.question"
)


UNAVAILABLE = {
    sqlite3.SQLITE_BUSY: "another program has held it for a minute; end that one, or wait, and do the same again",
    sqlite3.SQLITE_LOCKED: "another program has held it for a minute; end that one, or wait, and do the same again",
    sqlite3.SQLITE_FULL: "nothing was saved; make room on its disk, and do the same again",
    sqlite3.SQLITE_READONLY: "nothing was saved; make it and its folder writable, and do the same again",
    sqlite3.SQLITE_PERM: "make it and its folder writable, and do the same again",
    sqlite3.SQLITE_IOERR: "its disk failed or is full; nothing was saved: see to the disk, and do the same again",
}


MEMORY = Path(":memory:")
SHORTEST = 512
"""The bytes of the smallest file that SQLite writes."""


class Unavailable(ValueError):
    """The ledger cannot be read or written now. The request itself is valid."""


class Store:
    """The file at a path, made where there is none. Only the thread that opened it may use it."""

    def __init__(self, path: Path) -> None:
        """Raises ValueError when the file is no ledger, or a ledger of another version of fewmask."""
        self.path = path
        if path.is_file() and (size := path.stat().st_size) < SHORTEST:  # SQLite would take it for a new file
            raise ValueError(f"{path}: {size} bytes: its content is lost; put the last copy of it there")
        if path.parent.is_dir() and not path.exists() and path != MEMORY:
            with closing(Store(MEMORY)) as new_store:  # a kill leaves no part of the file
                write_new(path, new_store._db.serialize())
        with self._translate_errors():
            # `write` begins transactions: the sqlite3 module would begin them after the first read, which is too late.
            self._db: sqlite3.Connection = sqlite3.connect(path, timeout=60, isolation_level=None)
            try:
                self._prepare()
            except BaseException:
                self.close()
                raise

    def _prepare(self) -> None:
        self._db.create_function("checksum_of", -1, checksum, deterministic=True)
        self._db.execute("PRAGMA foreign_keys = ON")
        self._db.execute("PRAGMA synchronous = EXTRA")  # also puts the journal's removal on the disk
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
                raise self._foreign("it holds tables that are not a ledger's")
            for table in TABLES:
                self._create_table(table)
            self._db.execute(f"PRAGMA user_version = {VERSION}")

    def _create_table(self, table: str) -> None:
        columns, _, unique = TABLES[table].partition(", UNIQUE (")
        unique = f", UNIQUE ({unique}" if unique else ""
        self._db.execute(f"CREATE TABLE {table} ({columns}, {CHECKSUM}{unique})")
        self._forbid_changes(table)
        for number, index in enumerate(INDICES):
            if index.startswith(f"{table} "):
                self._db.execute(f"CREATE INDEX index_{number} ON {index}")

    def _forbid_changes(self, table: str) -> None:
        for change in ("UPDATE", "DELETE"):
            self._db.execute(
                f"CREATE TRIGGER no_{change.lower()}_of_{table} BEFORE {change} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, 'the ledger only grows: no {change} of {table}'); END"
            )

    def grow_classes(self, domain: str, classes: str) -> None:
        """Add classes at the end of a domain's classes, inside of `write`. Nothing else is updated in place."""
        for change in ("update", "delete"):
            self._db.execute(f"DROP TRIGGER no_{change}_of_domains")
        self._db.execute("UPDATE domains SET classes = ? WHERE name = ?", (classes, domain))
        columns = f"{KEYS['domains']}, {COLUMNS['domains']}"
        self._db.execute(f"UPDATE domains SET checksum = checksum_of('domains', {columns}) WHERE name = ?", (domain,))
        self._forbid_changes("domains")

    def examine(self) -> None:
        """Read all of the file. Raises ValueError where anything in it is not as it was written."""
        with self._translate_errors():
            messages = [row[0] for row in self._db.execute("PRAGMA integrity_check(3)")]
            faults = [] if messages == ["ok"] else messages
            if self._db.execute("PRAGMA foreign_key_check").fetchone():
                faults.append("rows refer to others that are not there")
            if self._db.execute(
                "SELECT 1 FROM rounds WHERE asked <> (SELECT count(*) FROM questions WHERE round = number)"
            ).fetchone():
                faults.append("a round has lost questions")
            for table in TABLES:
                key = KEYS[table]
                altered = self.rows(f"SELECT {key} FROM {table} t WHERE NOT {sound(table, 't')} ORDER BY {key}")
                faults += [f"{table}: row {number} is not as it was written" for (number,) in altered[:3]]
        if faults:
            raise self.damaged("; ".join(faults))

    def damaged(self, how: str) -> ValueError:
        return ValueError(
            f"{self.path}: damaged ({how}), and nothing of it is used; put the last copy of it there, or recover what "
            "can be with `sqlite3 FILE .recover`"
        )

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        """Raise SQLite's errors as ValueErrors with the file and the fix."""
        try:
            yield
        except (
            sqlite3.Error,
            UnicodeDecodeError,
        ) as error:  # the second: damaged text in SQLite's message
            kind = getattr(error, "sqlite_errorcode", 0) & 0xFF  # without SQLite's extended code
            if kind == sqlite3.SQLITE_CANTOPEN and self.path.exists():
                kind = sqlite3.SQLITE_PERM
            if fix := UNAVAILABLE.get(kind):
                raise Unavailable(f"{self.path}: {error}; {fix}") from error
            if kind in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_NOTADB):
                raise self._foreign(str(error)) from error
            raise self.damaged(str(error)) from error

    def _foreign(self, why: str) -> ValueError:
        return ValueError(f"{self.path}: cannot be opened as a ledger ({why}); give a run's ledger.sqlite")

    @contextmanager
    def write(self) -> Iterator[None]:
        """A transaction: at the end all of it is on the disk, or nothing. Other writers wait from its start."""
        with self._translate_errors():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def rows(self, query: str, **values: Any) -> list[Any]:
        with self._translate_errors():
            return self._db.execute(query, values).fetchall()  # an open cursor would keep writers waiting

    def insert(self, table: str, rows: Iterable[Sequence[Any]], first: int | None = None) -> list[int]:
        """Append rows of `COLUMNS`, inside of `write`. Returns their numbers, which ascend from `first`."""
        key = KEYS[table]
        if first is None:
            first = 1 + int(self.rows(f"SELECT coalesce(max({key}), 0) FROM {table}")[0][0])
        numbered = [(number, *row) for number, row in enumerate(rows, first)]
        places = ", ".join("?" * (COLUMNS[table].count(",") + 3))
        with self._translate_errors():
            self._db.executemany(
                f"INSERT INTO {table} ({key}, {COLUMNS[table]}, checksum) VALUES ({places})",
                ((*row, checksum(table, *row)) for row in numbered),
            )
        return [row[0] for row in numbered]

    def close(self) -> None:
        self._db.close()


def question_row(question: Question) -> tuple[Any, ...]:
    """The values of a question's columns in `COLUMNS` after the image and before the round."""
    shape = question.shape
    packed = None if shape is None or shape.all() else zlib.compress(np.packbits(shape).tobytes())
    guess = None if question.guess is None else int(question.guess)
    where = (question.kind, int(question.region), *map(int, question.box))
    return *where, packed, guess, float(question.score), float(question.cost)


def answer_row(answer: Answer) -> tuple[Any, ...]:
    """The values of an answer's columns in `COLUMNS` before the time."""
    values = answer.values
    packed = None if values is None else zlib.compress(values.tobytes())
    decided = 0 if values is None else int((values != NOT_LABELLED).sum())
    who = (answer.question, answer.annotator, answer.kind, answer.retracts, answer.seconds, answer.clicks)
    return *who, packed, decided, answer.token


def as_question(row: Sequence[Any]) -> Question:
    number, asked_in, domain, stem, kind, region, y0, x0, y1, x1, packed, guess, score, cost, at, _ = row
    shape = None
    if packed is not None:
        h, w = y1 - y0, x1 - x0
        bits = np.unpackbits(np.frombuffer(zlib.decompress(packed), np.uint8), count=h * w)
        shape = bits.reshape(h, w).astype(bool)
    return Question(domain, stem, kind, region, (y0, x0, y1, x1), score, cost, shape, guess, number, asked_in, at)


def as_answer(row: Sequence[Any]) -> Answer:
    *plain, packed, h, w, _ = row
    values = None if packed is None else np.frombuffer(zlib.decompress(packed), np.uint8).reshape(h, w)
    number, question, annotator, token, kind, retracts, seconds, clicks, at = plain
    return Answer(question, annotator, token, values, kind, retracts, seconds, clicks, number, at)


def checksum(table: str, *row: Any) -> str:
    """The checksum of a row: of its number and its columns in the order of `COLUMNS`."""
    return blake2b(repr((table, *map(_plainly, row))).encode(), digest_size=8).hexdigest()


def _plainly(value: Any) -> Any:
    """A value as SQLite returns it: a whole number in a REAL column as a float, −0 as 0, NaN as NULL."""
    if isinstance(value, int | float):
        return None if value != value else (float(value) + 0.0).hex()
    return blake2b(value, digest_size=16).hexdigest() if isinstance(value, bytes) else value


def answers_sql(domain: str | None = None, stem: str | None = None) -> str:
    """The SQL of the tables `standing` and `last_answers`.

    `standing` holds the answers and skips that are not taken back, or were restored since. `last_answers` holds the
    last of them by each annotator for each question. The SQL has the parameter :up_to and, for an image or a domain,
    :domain and :stem.
    """
    images = "SELECT i.id FROM images i JOIN domains d ON d.id = i.domain WHERE d.name = :domain"
    images += "" if stem is None else " AND i.stem = :stem"
    scope = "" if domain is None else f"a.question IN (SELECT id FROM questions WHERE image IN ({images})) AND"
    return (
        f"standing AS (SELECT a.id, a.question, a.annotator, a.kind FROM answers a WHERE {scope} a.retracts IS NULL "
        "AND a.id <= :up_to AND 'retract' IS NOT (SELECT r.kind FROM answers r WHERE r.retracts = a.id "
        "AND r.id <= :up_to ORDER BY r.id DESC LIMIT 1)), "
        # SQLite takes the columns without an aggregate from the row that has the maximum
        "last_answers AS (SELECT max(id) AS id, question, annotator, kind FROM standing GROUP BY question, annotator)"
    )


def one_of(column: str) -> str:
    """The SQL condition that the column is one of `keys_of` in the parameter :keys."""
    return f"{column} IN (SELECT value FROM json_each(:keys))"


def keys_of(values: Iterable[int | str]) -> str:
    return json.dumps(list(values))
