"""The ledger: what was asked and answered, under kills, and beside other processes."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import helpers
import numpy as np
import pytest
from ledgers import CLASSES, SIZE, answer_with, domain, ledger, retract, square
from ondisk import environment

from fewmask.annotation.ledger import Ledger
from fewmask.annotation.questions import Answer, Question
from fewmask.annotation.record import content_hash
from fewmask.annotation.store import TABLES, VERSION
from fewmask.annotation.verdicts import Verdict
from fewmask.config import AnswerSettings
from fewmask.data.domain import Domain
from fewmask.labels import NOT_LABELLED, VOID

# ── Asking ───────────────────────────────────────────────────────────────────────────────────────────────────────────

__all__ = ["domain", "ledger"]


def test_questions_come_back_as_they_were_asked(ledger: Ledger) -> None:
    shape = np.zeros((3, 7), dtype=bool)
    shape[0, 1] = shape[2, 3:] = True
    questions = [
        square(3, guess=2, cost=12.5),
        Question("a", "a-2", "superpixels:9:10", 4, (2, 3, 5, 10), score=-1.0, shape=shape),
        Question("a", "a-2", "points", 77, (19, 23, 20, 24), score=0.1, guess=0),
    ]
    ledger.ask(1, questions)
    got = ledger.questions(1)
    assert [q.id for q in got] == [1, 2, 3]
    assert {q.round for q in got} == {1}
    for one, other in zip(questions, got, strict=True):
        plain = ("domain", "stem", "kind", "region", "box", "score", "cost", "guess")
        assert [getattr(one, name) for name in plain] == [getattr(other, name) for name in plain]
        np.testing.assert_array_equal(one.inside, other.inside)
    assert [q.shape is None for q in got] == [True, False, True]


def test_a_save_waits_for_the_disk(ledger: Ledger) -> None:
    assert ledger._store.rows("PRAGMA synchronous") == [(3,)]
    assert ledger._store.rows("PRAGMA journal_mode") == [("delete",)]


def test_answers_in_boxes_that_overlap_leave_each_other_alone(ledger: Ledger) -> None:
    upper = np.triu(np.ones((6, 6), bool))
    ledger.ask(
        1, [Question("a", "a-1", "superpixels", i, (2, 3, 8, 9), shape=s) for i, s in enumerate((upper, ~upper))]
    )
    one, two = ledger.questions()
    ledger.answer([answer_with(one, 1), answer_with(two, 2)])
    mask = ledger.labels("a", "a-1")
    np.testing.assert_array_equal(mask[2:8, 3:9], np.where(upper, 1, 2))
    assert (mask != NOT_LABELLED).sum() == 36


def test_a_round_is_asked_once(ledger: Ledger) -> None:
    questions = [square(0), square(1)]
    ledger.ask(1, questions)
    ledger.ask(1, [replace(q, score=9.0, guess=1) for q in reversed(questions)])  # scores differ between machines
    assert [q.region for q in ledger.questions()] == [0, 1]
    with pytest.raises(ValueError, match=r"round 1 has asked 2 other questions.*; ask these 1 in a round of their own"):
        ledger.ask(1, [square(0)])
    ledger.ask(2, [])
    assert ledger.rounds() == {1: 2, 2: 0}


def test_nothing_is_asked_twice(ledger: Ledger) -> None:
    ledger.ask(1, [square(0), square(1)])
    for again in ([square(5), square(1)], [square(5), square(5)]):
        with pytest.raises(ValueError, match=r"round 2 asks a/a-1 squares:5x4 #\d, which round \d asked"):
            ledger.ask(2, again)
    assert ledger.rounds() == {1: 2}
    assert len(ledger.questions()) == 2
    ledger.ask(2, [square(1, "a-2"), square(1, kind="squares:9")])  # another image, another cut


@pytest.mark.parametrize(
    "wrong",
    [
        {"box": (0, 0, 21, 4)},
        {"box": (0, 5, 5, 5)},
        {"score": float("nan")},
        {"cost": float("inf")},
        {"shape": np.zeros((5, 4), dtype=bool)},
        {"shape": np.ones((4, 4), dtype=bool)},
    ],
)
def test_a_question_that_cannot_be_asked_is_our_fault_and_leaves_nothing(ledger: Ledger, wrong: dict) -> None:
    with pytest.raises(AssertionError):
        ledger.ask(1, [square(1), square(0, **wrong)])
    assert (ledger.rounds(), ledger.questions()) == ({}, [])


def test_many_questions(ledger: Ledger) -> None:
    """As many as a campaign of points asks."""
    points = [
        Question("a", f"a-{i}", f"points:{k}", p, (p // 24, p % 24, p // 24 + 1, p % 24 + 1), score=p / 7)
        for k in range(5)
        for i in range(4)
        for p in range(480)
    ]
    ledger.ask(1, points)
    got = ledger.questions(open_only=True)
    assert len(got) == len(points) == 9_600
    ledger.answer([answer_with(q, q.region % CLASSES) for q in got if q.kind == "points:3" and q.stem == "a-2"])
    assert ledger.progress(1).open == 9_600 - 480
    np.testing.assert_array_equal(ledger.labels("a", "a-2").ravel(), np.arange(480) % CLASSES)


# ── Images ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_images_must_stay_as_they_were(ledger: Ledger, domain: Domain) -> None:
    ledger.add_images(domain, domain.splits["train"])
    assert ledger.sizes("a") == dict.fromkeys(domain.splits["train"], SIZE)
    source = domain.source
    assert isinstance(source, helpers.ArraySource)
    pixels = {stem: image.copy() for stem, image in source.images.items()}
    pixels["a-1"][0, 0] ^= 1
    pixels["a-3"][-1, -1] ^= 1
    changed = replace(domain, source=helpers.ArraySource(pixels, source.masks))
    with pytest.raises(ValueError, match=r"other pixels than .* images/a-1\.png, images/a-3\.png; put the images back"):
        ledger.add_images(changed, domain.splits["train"])
    with pytest.raises(ValueError, match="its classes are b0, b1, in the ledger a0, a1, a2; a run keeps its classes"):
        ledger.add_images(replace(domain, space=helpers.space(2, "b")), [])
    assert ledger.classes() == {"a": ("a0", "a1", "a2")}


def test_the_hash_of_an_image_is_of_its_pixels_and_shape() -> None:
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    assert content_hash(image) == content_hash(np.asfortranarray(image))
    assert content_hash(image) != content_hash(image.reshape(4, 2, 3))
    assert content_hash(image) != content_hash(image ^ 1)


# ── Answers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_answers_come_back_as_they_were_given(ledger: Ledger) -> None:
    ledger.ask(1, [square(0), square(1)])
    one, two = ledger.questions()
    given_back = answer_with(one, 2, seconds=1.5, clicks=3)
    assert ledger.answer([given_back, Answer(two.id, "bob", "t", kind="skip")]) == [1, 2]
    answer, skip = ledger.answers()
    assert (answer.kind, answer.annotator, answer.seconds, answer.clicks) == ("answer", "ann", 1.5, 3)
    np.testing.assert_array_equal(answer.values, given_back.values)
    assert (skip.kind, skip.annotator, skip.values, skip.seconds) == ("skip", "bob", None, None)
    assert [a.id for a in ledger.answers(up_to=1)] == [1]
    assert ledger.last_answer_id() == 2


def test_an_answer_that_arrives_twice_is_one(ledger: Ledger) -> None:
    ledger.ask(1, [square(0), square(1)])
    one, two = ledger.questions()
    assert ledger.answer([answer_with(one, 1, "t")]) == [1]
    assert ledger.answer([answer_with(one, 1, "t"), answer_with(two, 1, "u"), answer_with(two, 1, "u")]) == [1, 2, 2]
    assert ledger.answer([retract(1, one)]) == ledger.answer([retract(1, one)]) == [3]
    assert len(ledger.answers()) == 3
    for other in (
        answer_with(one, 2, "t"),
        answer_with(two, 1, "t"),
        answer_with(one, 1, "t", "bob"),
        replace(retract(1, one), token="t"),
    ):
        with pytest.raises(ValueError, match="another answer has its token 't'; give each a token of its own"):
            ledger.answer([other])


BAD = {
    "a class too many": (lambda q: answer_with(q, CLASSES), r"values \[3\] are no class; classes are 0\.\.2"),
    "too small": (
        lambda q: answer_with(q, 0, values=np.zeros((4, 4), np.uint8)),
        r"of the box's 5×4 pixels, .* \(4, 4\)",
    ),
    "not bytes": (lambda q: answer_with(q, 0, values=np.zeros((5, 4))), "these are float64"),
    "no values": (lambda q: answer_with(q, 0, values=None), "no values; send them, or skip"),
    "nothing decided": (lambda q: answer_with(q, NOT_LABELLED), "nothing is decided, all is 254; skip the question"),
    "a skip that answers": (lambda q: answer_with(q, 0, kind="skip"), "of kind skip, yet with values"),
    "back from nothing": (lambda q: Answer(q.id, "ann", "t", kind="retract"), "`retracts` says what"),
    "an answer that takes back": (lambda q: answer_with(q, 0, retracts=1), "`retracts` says what"),
    "back from elsewhere": (lambda q: retract(1, q), "answer 1 is none of this question"),
    "back from nowhere": (lambda q: retract(99, q), "answer 99 is none of this question"),
    "never asked": (lambda q: replace(answer_with(q, 0), question=77), "question 77: it does not exist"),
}


@pytest.mark.parametrize("bad", BAD)
def test_an_answer_that_cannot_be_is_refused_with_all_that_came_with_it(ledger: Ledger, bad: str) -> None:
    ledger.ask(1, [square(0), square(1)])
    one, two = ledger.questions()
    ledger.answer([answer_with(one, 1)])
    make, message = BAD[bad]
    with pytest.raises(ValueError, match=message):
        ledger.answer([answer_with(two, 1), make(two)])
    with pytest.raises(ValueError, match=f"nothing was saved: .*{message}.*; .* are no class"):
        ledger.answer([make(two), answer_with(two, 200)])
    assert len(ledger.answers()) == 1


def test_values_outside_of_the_region_are_refused(ledger: Ledger) -> None:
    shape = np.ones((5, 4), dtype=bool)
    shape[2, 2] = False
    ledger.ask(1, [square(0, shape=shape)])
    (question,) = ledger.questions()
    with pytest.raises(ValueError, match="values outside of the region"):
        ledger.answer([answer_with(question, 1, values=np.ones((5, 4), np.uint8))])
    ledger.answer([answer_with(question, VOID)])
    assert (ledger.labels("a", "a-1") == VOID).sum() == 19


def test_a_retraction_uncovers_what_was_said_before_and_cannot_be_repeated(ledger: Ledger) -> None:
    ledger.ask(1, [square(0)])
    (question,) = ledger.questions()
    first, second = ledger.answer([answer_with(question, 0), answer_with(question, 1)])
    (third,) = ledger.answer([Answer(question.id, "ann", "s", kind="skip")])
    states = []
    for taken in (third, second, first):
        states.append((ledger.labels("a", "a-1")[0, 0], ledger.progress().answered, ledger.progress().skipped))
        ledger.answer([retract(taken, question)])
    assert states == [(NOT_LABELLED, 0, 1), (1, 1, 0), (0, 1, 0)]
    assert (ledger.labels("a", "a-1") == NOT_LABELLED).all()
    assert [q.id for q in ledger.questions(open_only=True)] == [question.id]
    with pytest.raises(ValueError, match="answer 1 was taken back before, by ann"):
        ledger.answer([replace(retract(first, question), token="again")])
    assert ledger.labels("a", "a-1", up_to=second)[0, 0] == 1  # what was known then is known for good


def test_several_annotators_are_kept_apart(ledger: Ledger) -> None:
    ledger.ask(1, [square(0), square(1)])
    one, two = ledger.questions()
    ledger.answer(
        [
            answer_with(one, 0, who="ann"),
            answer_with(one, 2, who="bob"),
            answer_with(one, 2, who="cyd"),
            answer_with(one, 1, who="ann"),
        ]
    )
    ledger.answer([Answer(one.id, "dan", "s", kind="skip"), Answer(two.id, "dan", "u", kind="skip")])
    words = [(w.question, w.annotator, w.kind) for w in ledger.last_words()]
    assert words == [
        (1, "bob", "answer"),
        (1, "cyd", "answer"),
        (1, "ann", "answer"),
        (1, "dan", "skip"),
        (2, "dan", "skip"),
    ]
    assert ledger.labels("a", "a-1")[0, 0] == 1  # the last answer; a skip takes nothing away from others
    with Ledger(ledger.path, AnswerSettings(decide="majority")) as by_majority:
        assert by_majority.labels("a", "a-1")[0, 0] == 2
    progress = ledger.progress()
    assert (progress.answered, progress.skipped, progress.open, progress.pixels) == (1, 1, 0, 20)


def test_progress_and_what_was_spent(ledger: Ledger) -> None:
    ledger.ask(1, [square(0, cost=4), square(1, cost=5), square(2)])
    ledger.ask(2, [square(3)])
    one, two, _, four = ledger.questions()
    half = np.full((5, 4), NOT_LABELLED, np.uint8)
    half[:2] = 1
    ledger.answer(
        [
            answer_with(one, 0, seconds=2, clicks=1),
            answer_with(one, 1, seconds=3, clicks=4),
            answer_with(four, 0, clicks=7),
        ]
    )
    ledger.answer([Answer(two.id, "ann", "s", kind="skip", seconds=1.5)])
    ledger.answer([answer_with(one, 0, "half", values=half)])
    first = ledger.progress(1)
    assert (first.asked, first.answered, first.skipped, first.open) == (3, 1, 1, 1)
    assert (first.pixels, first.seconds, first.clicks, first.cost) == (8, 6.5, 5, 10)
    whole, early = ledger.progress(), ledger.progress(up_to=1)
    assert (whole.answered, whole.pixels, whole.clicks, whole.seconds) == (2, 28, 12, 6.5)
    assert (early.answered, early.pixels, early.clicks, early.seconds) == (1, 20, 1, 2)


# ── The file ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("table", TABLES)
def test_the_file_only_grows(ledger: Ledger, table: str) -> None:
    ledger.ask(1, [square(0)])
    ledger.answer([answer_with(ledger.questions()[0], 1)])
    ledger.judge(Verdict(1, "cyd", "accept", "v1"))
    db = sqlite3.connect(ledger.path)
    assert db.execute(f"SELECT count(*) FROM {table}").fetchone()[0] > 0
    before = db.execute(f"SELECT * FROM {table}").fetchall()
    column = db.execute(f"PRAGMA table_info({table})").fetchall()[1][1]
    for change in (f"UPDATE {table} SET {column} = {column}", f"DELETE FROM {table}"):
        with pytest.raises(sqlite3.IntegrityError, match="the ledger only grows"):
            db.execute(change)
    assert db.execute(f"SELECT * FROM {table}").fetchall() == before
    db.close()


def test_what_is_not_this_versions_ledger_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_text("answers: yes\n" * 100)
    with pytest.raises(ValueError, match=r"ledger\.sqlite: cannot be opened as a ledger \(file is not a database\)"):
        Ledger(path)
    path.unlink()
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE songs (title)")
    with pytest.raises(ValueError, match="it holds tables that are not a ledger's"):
        Ledger(path)
    for other in (1, VERSION - 1, VERSION + 1):
        db.execute(f"PRAGMA user_version = {other}")
        with pytest.raises(ValueError, match=f"a ledger of version {other}, this fewmask reads {VERSION}; use the"):
            Ledger(path)
    db.close()
    with pytest.raises(ValueError, match="unable to open database file"):
        Ledger(tmp_path / "nowhere" / "ledger.sqlite")


def test_the_ledger_opens_without_torch() -> None:
    code = "import sys, fewmask.annotation.ledger; assert not {'torch', 'cv2'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Asks and answers for ever, and says what is saved only after it is.
WORKER = """
import sys
from pathlib import Path
import numpy as np
from fewmask.annotation.questions import Answer, Question
from fewmask.annotation.ledger import Ledger

ledger, name, stop = Ledger(Path(sys.argv[1])), sys.argv[2], int(sys.argv[3])
print("ready", flush=True)
if name == "asker":
    number = max(ledger.rounds(), default=0)
    while number < stop:
        number += 1
        box = lambda i: (i // 24, i % 24, i // 24 + 1, i % 24 + 1)
        ledger.ask(number, [Question("a", f"a-{i % 4}", f"points:{number}", i, box(i)) for i in range(40)])
        print("round", number, flush=True)
        for question in ledger.questions(number):
            token = f"{name} {question.id}"
            ledger.answer([Answer(question.id, name, token, np.ones(question.size, np.uint8))])
            print("answer", token, flush=True)
else:
    for question in ledger.questions():
        token = f"{name} {question.id}"
        ledger.answer([Answer(question.id, name, token, np.ones(question.size, np.uint8))])
        print("answer", token, flush=True)
"""


def worker(path: Path, name: str, stop: int, log: Path) -> subprocess.Popen[bytes]:
    with open(log, "ab") as out:
        command = [sys.executable, "-c", WORKER, str(path), name, str(stop)]
        return subprocess.Popen(command, stdout=out, env=environment())


def test_a_kill_at_any_moment_loses_nothing_that_was_saved(ledger: Ledger, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch()
    rng = np.random.default_rng(0)
    for life in range(10):
        process = worker(ledger.path, "asker", 10**9, log)
        # After it has printed some lines, however long they take: a round is asked in the first life at least.
        wanted = log.read_text().count("\n") + int(rng.integers(3 if life == 0 else 1, 60))
        while log.read_text().count("\n") < wanted:
            assert process.poll() is None
            time.sleep(0.001)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        lines = [line[:-1].partition(" ")[::2] for line in log.open() if line.endswith("\n")]
        with Ledger(ledger.path) as opened:
            answers, rounds = opened.answers(), opened.rounds()
            questions = opened.questions()
        db = sqlite3.connect(ledger.path)
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []
        db.close()
        tokens = [answer.token for answer in answers]
        assert {rest for what, rest in lines if what == "answer"} <= set(tokens)
        assert len(set(tokens)) == len(tokens)
        assert {int(rest) for what, rest in lines if what == "round"} <= set(rounds)
        assert len(questions) == 40 * len(rounds)  # a round is asked or it is not
        assert len({(q.stem, q.kind, q.region) for q in questions}) == len(questions)
    assert len(rounds) > 1 and len(answers) > 1


def test_processes_that_answer_at_once_lose_nothing(ledger: Ledger, tmp_path: Path) -> None:
    ledger.ask(1, [square(region, f"a-{i}") for region in range(10) for i in range(4)])
    running = [worker(ledger.path, name, 0, tmp_path / name) for name in ("ann", "bob")]
    running.append(worker(ledger.path, "asker", 2, tmp_path / "asker"))
    assert [process.wait() for process in running] == [0, 0, 0]
    answers = ledger.answers()
    for name in ("ann", "bob", "asker"):
        reported = {s[7:] for s in (tmp_path / name).read_text().splitlines() if s.startswith("answer ")}
        assert len(reported) >= 40
        assert {a.token for a in answers if a.annotator == name} == reported
    assert [a.id for a in answers] == list(range(1, len(answers) + 1))


def test_processes_that_make_a_ledger_at_once_make_one(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    running = [worker(path, "ann", 0, tmp_path / str(i)) for i in range(3)]
    assert [process.wait() for process in running] == [0, 0, 0]
