"""A ledger that suffered: flipped bits, cuts, older copies, disks; nothing of it is used in silence."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import annotating
import numpy as np
import pytest
from annotating import three

from fewmask.annotation import store
from fewmask.annotation.ledger import Ledger
from fewmask.annotation.questions import Answer
from fewmask.annotation.store import Unavailable
from fewmask.annotation.verdicts import Verdict
from fewmask.labels import NOT_LABELLED


def everything(path: Path) -> list[object]:
    """All that training, questions and reports read from a ledger."""
    with Ledger(path) as ledger:
        ledger.examine()
        answers = [(a.id, a.question, a.annotator, a.token, a.kind, a.retracts, a.seconds, a.clicks, a.at,
                    a.values is not None and a.values.tobytes()) for a in ledger.answers()]  # fmt: skip
        questions = [
            (str(q), q.id, q.round, q.box, q.inside.tobytes(), q.guess, q.score, q.cost) for q in ledger.questions()
        ]
        masks = [
            (name, stem, ledger.labels(name, stem).tobytes())
            for name in ledger.classes()
            for stem in ledger.sizes(name)
        ]
        return [
            *(ledger.classes(), answers, questions, masks, ledger.rounds(), ledger.progress(), ledger.work()),
            ledger.verdicts(),
        ]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A ledger with answers by two people, one taken back, and a skip."""
    place = tmp_path / "ledger.sqlite"
    with annotating.ledger_with(annotating.domain(), *three(), path=place) as ledger:
        square, superpixel, point = ledger.questions()
        for who, question, value in (("ann", square, 1), ("bob", square, 2), ("ann", superpixel, 0)):
            values = np.where(question.inside, np.uint8(value), np.uint8(NOT_LABELLED))
            ledger.answer([Answer(question.id, who, f"{who}-{question.id}", values, seconds=1, clicks=-0.0)])
        ledger.answer([Answer(square.id, "bob", "back", kind="retract", retracts=2)])
        ledger.answer([Answer(point.id, "ann", "skip", kind="skip", seconds=2.5)])
        ledger.judge(Verdict(1, "cyd", "accept", "verdict-1"))
        ledger.judge(Verdict(3, "cyd", "comment", "verdict-2", "the edge is coarse"))
    return place


@pytest.mark.parametrize("count", [150, pytest.param(1000, marks=pytest.mark.slow)])
def test_no_flipped_bit_changes_anything_in_silence(count: int, path: Path, tmp_path: Path) -> None:
    expected, data = everything(path), path.read_bytes()
    rng, noticed = np.random.default_rng(0), 0
    used = np.flatnonzero(np.frombuffer(data, np.uint8))  # most of the file is nothing, and nobody reads it
    flipped = tmp_path / "flipped.sqlite"
    for at, bit in zip(rng.choice(used, count), rng.integers(0, 8, count), strict=True):
        changed = bytearray(data)
        changed[at] ^= 1 << int(bit)
        flipped.write_bytes(changed)
        message = ""
        try:
            assert everything(flipped) == expected, f"byte {at}, bit {bit}"
        except ValueError as error:
            message = str(error)
        assert not message or (str(flipped) in message and "; " in message), message
        noticed += bool(message)
    assert noticed > count / 2


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [("answers", "content", b"x"), ("answers", "annotator", "eve"), ("answers", "kind", "answer"),
     ("images", "stem", "a-9"),
     ("questions", "x0", 4), ("questions", "cost", 9.5), ("images", "height", 21), ("domains", "classes", "[]"),
     ("rounds", "asked", 2), ("answers", "checksum", ""), ("verdicts", "comment", "fine"),
     ("verdicts", "kind", "reject")],
)  # fmt: skip
def test_a_row_that_was_changed_is_named(table: str, column: str, value: object, path: Path) -> None:
    db = sqlite3.connect(path)
    db.execute(f"DROP TRIGGER no_update_of_{table}")
    key = "number" if table == "rounds" else "id"
    db.execute(f"UPDATE {table} SET {column} = ? WHERE {key} = (SELECT max({key}) FROM {table})", (value,))
    db.commit()
    db.close()
    with (
        Ledger(path) as ledger,
        pytest.raises(ValueError, match=r"ledger\.sqlite: damaged \(.*(row \d|lost).*put the last copy"),
    ):
        ledger.examine()


def test_a_row_that_is_gone_is_missed(path: Path) -> None:
    db = sqlite3.connect(path)
    db.execute("DROP TRIGGER no_delete_of_questions")
    db.execute("DELETE FROM questions WHERE id = 3")
    db.commit()
    db.close()
    with Ledger(path) as ledger, pytest.raises(ValueError, match="a round has lost questions"):
        ledger.examine()


@pytest.mark.parametrize("size", [0, 1, 100, 4096, 9000])
def test_a_ledger_that_was_cut_is_refused(size: int, path: Path) -> None:
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"ledger\.sqlite: .*; "):
        everything(path)
    assert path.stat().st_size == size


def test_answers_that_come_back_otherwise_than_they_were_given_are_no_damage(path: Path) -> None:
    """−0 and whole seconds, as SQLite keeps them."""
    with Ledger(path) as ledger:
        ledger.answer([Answer(3, "bob", "x", kind="skip", seconds=3, clicks=-0.0)])
    everything(path)


# ── A ledger that cannot be used now ─────────────────────────────────────────────────────────────────────────────────


def test_a_ledger_that_another_program_holds_is_said_to_be_locked(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connect = sqlite3.connect
    monkeypatch.setattr(store.sqlite3, "connect", lambda path, **given: connect(path, **(given | {"timeout": 0.01})))
    other = connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(Unavailable, match=r"ledger\.sqlite: database is locked; another program has held it"):
        Ledger(path)
    other.execute("ROLLBACK")
    ledger = Ledger(path)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable, match="is locked"):
        ledger.answer([Answer(3, "bob", "x", kind="skip")])
    other.execute("ROLLBACK")
    other.close()
    ledger.answer([Answer(3, "bob", "x", kind="skip")])
    ledger.close()


def of_code(code: int, words: str) -> sqlite3.Error:
    error = sqlite3.OperationalError(words)
    error.sqlite_errorcode = code
    return error


@pytest.mark.parametrize(
    ("code", "fix"),
    [(sqlite3.SQLITE_FULL, "make room"), (sqlite3.SQLITE_READONLY, "make it and its folder writable"),
     (sqlite3.SQLITE_IOERR | 3 << 8, "see to the disk"), (sqlite3.SQLITE_BUSY | 1 << 8, "another program")],
)  # fmt: skip
def test_what_a_disk_does_is_said_with_the_fix(code: int, fix: str, path: Path) -> None:
    with Ledger(path) as ledger:
        with pytest.raises(Unavailable, match=rf"ledger\.sqlite: some words; .*{fix}"), ledger._store.write():
            raise of_code(code, "some words")
        assert len(ledger.answers()) == 5


def test_a_full_disk_leaves_the_ledger_as_it_was(path: Path) -> None:
    before = everything(path)
    with Ledger(path) as ledger:
        (pages,) = ledger._store._db.execute("PRAGMA page_count").fetchone()
        ledger._store._db.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(
            Unavailable, match=r"ledger\.sqlite: database or disk is full; nothing was saved; make room"
        ):
            ledger.answer([Answer(3, "bob" * 9999, f"{i}", kind="skip") for i in range(3)])
    assert everything(path) == before


def test_a_new_ledger_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("fewmask.files.os.link", killed)
        with pytest.raises(Killed):
            Ledger(tmp_path / "ledger.sqlite")
    assert not list(tmp_path.iterdir())

    def no_links(*_: object) -> None:
        raise PermissionError(1, "no links")

    with monkeypatch.context() as patch:
        patch.setattr("fewmask.files.os.link", no_links)
        Ledger(tmp_path / "ledger.sqlite").close()
    assert [p.name for p in tmp_path.iterdir()] == ["ledger.sqlite"]


def test_the_fingerprint_is_of_answers_and_their_order(path: Path, tmp_path: Path) -> None:
    def marks(of: Path, change: Callable[[Ledger], object]) -> tuple[str, str]:
        with Ledger(of) as ledger:
            change(ledger)
            return ledger.fingerprint(5), ledger.fingerprint(6)

    other = tmp_path / "other.sqlite"
    shutil.copy(path, other)
    one = marks(path, lambda ledger: ledger.answer([Answer(3, "bob", "x", kind="skip")]))
    two = marks(other, lambda ledger: ledger.answer([Answer(3, "bob", "y", kind="skip")]))
    assert one[0] == two[0] != one[1] != two[1]
