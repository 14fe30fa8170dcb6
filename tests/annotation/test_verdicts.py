"""Verdicts on answers: what they change for questions and labels, and what they leave as it was.

Shapes: h×w pixels of a region's box.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import annotating
import numpy as np
import pytest
from annotating import three
from hypothesis import given
from hypothesis import strategies as st

from fewmask.annotation.ledger import Ledger
from fewmask.annotation.questions import Answer, Question
from fewmask.annotation.verdicts import MOST_LETTERS, Verdict
from fewmask.annotation.view import write_labels
from fewmask.config import AnswerSettings
from fewmask.labels import NOT_LABELLED


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with annotating.ledger_with(annotating.domain(), *three(), path=tmp_path / "ledger.sqlite") as opened:
        yield opened


def say(ledger: Ledger, question: Question, value: int, who: str = "ann") -> int:
    values = np.where(question.inside, np.uint8(value), np.uint8(NOT_LABELLED))
    token = f"{who}-{question.id}-{value}-{ledger.last_answer_id()}"
    return ledger.answer([Answer(question.id, who, token, values)])[0]


def open_questions(ledger: Ledger) -> list[int]:
    return [question.id for question in ledger.questions(open_only=True)]


def test_a_rejected_answer_counts_as_not_given_from_then_on(ledger: Ledger, tmp_path: Path) -> None:
    square, superpixel, _ = ledger.questions()
    first = say(ledger, square, 1)
    say(ledger, superpixel, 0)
    up_to, before = ledger.last_answer_id(), ledger.labels("a", "a-0")
    domains = {"a": annotating.domain()}
    write_labels(ledger, domains, tmp_path / "labels")
    assert open_questions(ledger) == [3]
    assert ledger.judge(Verdict(first, "cyd", "reject", "v1")) == 1
    assert open_questions(ledger) == [1, 3]
    assert [question.id for question in ledger.questions(open_only=True, annotator="ann")] == [1, 3]  # of ann too
    assert (square.window(ledger.labels("a", "a-0")) == NOT_LABELLED).all()
    assert (superpixel.window(ledger.labels("a", "a-0"))[superpixel.inside] == 0).all()
    np.testing.assert_array_equal(ledger.labels("a", "a-0", up_to), before)  # what was learnt before stays
    assert [answer.kind for answer in ledger.answers()] == ["answer", "answer", "retract"]  # and it is kept
    assert ledger.answers()[0].values is not None
    assert ledger.progress().answered == 1
    second = say(ledger, square, 2)
    assert open_questions(ledger) == [3]
    assert ledger.judge(Verdict(second, "cyd", "accept", "v2")) == 2
    assert open_questions(ledger) == [3]
    assert [(v.answer, v.kind) for v in ledger.verdicts()] == [(first, "reject"), (second, "accept")]


def test_a_rejection_uncovers_no_earlier_answer_of_the_same_person(ledger: Ledger) -> None:
    square = ledger.questions()[0]
    say(ledger, square, 0)
    ledger.judge(Verdict(say(ledger, square, 1), "cyd", "reject", "v1"))
    assert 1 in open_questions(ledger)
    assert ledger.last_words() == []


def test_answers_of_others_to_the_same_question_stay(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with annotating.ledger_with(annotating.domain(), *three(), path=path) as ledger:
        square = ledger.questions()[0]
        say(ledger, square, 0, "ann")
        wrong = say(ledger, square, 1, "bob")
    with Ledger(path, AnswerSettings(each=2, decide="majority")) as ledger:
        assert 1 not in open_questions(ledger)
        ledger.judge(Verdict(wrong, "ann", "reject", "v1"))
        assert 1 in open_questions(ledger)
        assert 1 in [question.id for question in ledger.questions(open_only=True, annotator="bob")]
        assert 1 not in [question.id for question in ledger.questions(open_only=True, annotator="ann")]
        assert (square.window(ledger.labels("a", "a-0")) == 0).all()


def test_a_verdict_that_arrives_twice_is_one(ledger: Ledger) -> None:
    number = say(ledger, ledger.questions()[0], 1)
    verdict = Verdict(number, "cyd", "reject", "v1")
    assert ledger.judge(verdict) == ledger.judge(verdict) == 1
    assert len(ledger.answers()) == 2
    with pytest.raises(ValueError, match="another verdict has its token 'v1'"):
        ledger.judge(replace(verdict, reviewer="dan"))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"answer": 9}, "there is no such answer"),
        ({"answer": 2}, "there is no such answer"),  # a skip
        ({"answer": 3}, "taken back or rejected before"),
        ({"answer": 3, "kind": "reject"}, "taken back or rejected before"),
        ({"reviewer": " "}, "reviewer ' ' is no name"),
        ({"kind": "comment"}, "a comment needs a text"),
        ({"kind": "comment", "comment": " \n"}, "a comment needs a text"),
        ({"comment": "fine"}, "other verdicts have none"),
        ({"kind": "comment", "comment": "x" * (MOST_LETTERS + 1)}, "at most 2,000"),
        ({"kind": "comment", "comment": "a\x00b"}, "cannot be seen"),
    ],
)
def test_what_is_no_verdict_is_refused(ledger: Ledger, wrong: dict[str, object], message: str) -> None:
    square, superpixel, point = ledger.questions()
    say(ledger, square, 1)
    ledger.answer([Answer(point.id, "ann", "skip", kind="skip")])
    retracted = say(ledger, superpixel, 1)
    ledger.answer([Answer(superpixel.id, "ann", "back", kind="retract", retracts=retracted)])
    with pytest.raises(ValueError, match=f"nothing was saved: verdict on answer .*{message}"):
        ledger.judge(replace(Verdict(1, "cyd", "accept", "v1"), **wrong))  # type: ignore[arg-type]
    assert ledger.verdicts() == [] and len(ledger.answers()) == 4


def test_a_comment_comes_back_as_it_was_written(ledger: Ledger) -> None:
    number = say(ledger, ledger.questions()[0], 1)
    text = "Zäune\tsind\n<b>nicht</b> 'dabei' \U0001f6b2"
    ledger.judge(Verdict(number, "Ödön", "comment", "v1", text))
    ledger.judge(Verdict(number, "cyd", "reject", "v2"))
    ledger.judge(Verdict(number, "cyd", "comment", "v3", "it was the pavement"))  # also on what is rejected
    assert [(v.reviewer, v.comment) for v in ledger.verdicts()] == [
        ("Ödön", text),
        ("cyd", ""),
        ("cyd", "it was the pavement"),
    ]
    assert all(verdict.at for verdict in ledger.verdicts())


def test_an_undone_rejection_counts_as_never_made(ledger: Ledger) -> None:
    square = ledger.questions()[0]
    say(ledger, square, 0)
    second = say(ledger, square, 1)
    before, rejected_at = ledger.labels("a", "a-0"), ledger.last_answer_id() + 2
    ledger.judge(Verdict(second, "cyd", "reject", "v1"))
    restored = Verdict(second, "dan", "restore", "v2")
    assert ledger.judge(restored) == ledger.judge(restored) == 2
    np.testing.assert_array_equal(ledger.labels("a", "a-0"), before)
    assert 1 not in open_questions(ledger)
    assert (square.window(ledger.labels("a", "a-0", rejected_at)) == NOT_LABELLED).all()  # what was learnt meanwhile
    kinds = ["answer", "answer", "retract", "retract", "restore", "restore"]
    assert [(entry.kind, entry.retracts) for entry in ledger.answers()] == list(
        zip(kinds, [None, None, 1, 2, 1, 2], strict=True)
    )
    with pytest.raises(ValueError, match="it is not rejected; there is nothing to undo"):
        ledger.judge(replace(restored, token="v3"))
    ledger.judge(Verdict(second, "cyd", "accept", "v4"))
    ledger.judge(Verdict(second, "cyd", "reject", "v5"))  # a second time
    assert 1 in open_questions(ledger)
    ledger.judge(Verdict(second, "cyd", "restore", "v6"))
    ledger.answer([Answer(square.id, "ann", "back", kind="retract", retracts=second)])
    assert [answer.id for answer in ledger.last_words()] == [1]  # the earlier one is restored too
    ledger.examine()


def test_what_others_answered_meanwhile_stays_the_later_answer(ledger: Ledger) -> None:
    square = ledger.questions()[0]
    first = say(ledger, square, 0, "ann")
    ledger.judge(Verdict(first, "cyd", "reject", "v1"))
    say(ledger, square, 2, "bob")
    ledger.judge(Verdict(first, "cyd", "restore", "v2"))
    assert (square.window(ledger.labels("a", "a-0")) == 2).all()


def test_what_cannot_be_undone(ledger: Ledger) -> None:
    square, superpixel, _ = ledger.questions()
    first, back = say(ledger, square, 0), say(ledger, superpixel, 0)
    ledger.answer([Answer(superpixel.id, "ann", "back", kind="retract", retracts=back)])
    ledger.judge(Verdict(first, "cyd", "reject", "v1"))
    say(ledger, square, 1)
    count = len(ledger.answers())
    for answer, message in ((first, "ann has answered the question again since"), (back, "it is not rejected")):
        with pytest.raises(ValueError, match=message):
            ledger.judge(Verdict(answer, "cyd", "restore", "v2"))
    with pytest.raises(ValueError, match="`retracts` says what"):  # a verdict alone restores
        ledger.answer([Answer(square.id, "cyd", "t", kind="restore", retracts=first)])
    assert len(ledger.answers()) == count


ACTIONS = st.lists(
    st.tuples(st.sampled_from(["answer", "skip", "back", "reject", "undo"]), st.integers(0, 2), st.sampled_from("abc")),
    max_size=25,
)


@given(ACTIONS, st.integers(1, 2))
def test_a_rejection_is_the_same_as_taking_back_all_that_its_annotator_said(
    actions: list[tuple[str, int, str]], each: int
) -> None:
    """Against a list of what each annotator has said about each question; and a rejection that is undone, as none."""
    history: dict[tuple[int, str], list[tuple[int, str]]] = {}
    rejected: dict[tuple[int, str], list[tuple[int, str]]] = {}
    with annotating.ledger_with(annotating.domain(), *three()) as ledger:
        ledger.rule = AnswerSettings(each=each, decide="majority")
        questions = ledger.questions()
        for step, (kind, place, who) in enumerate(actions):
            question = questions[place]
            words = history.setdefault((question.id, who), [])
            if kind == "answer":
                words.append((say(ledger, question, step % 3, who), kind))
            elif kind == "skip":
                words.append((ledger.answer([Answer(question.id, who, f"s{step}", kind="skip")])[0], kind))
            elif words and kind == "back":
                number, _ = words.pop()
                ledger.answer([Answer(question.id, who, f"b{step}", kind="retract", retracts=number)])
            elif words and words[-1][1] == "answer":
                if kind == "reject":
                    ledger.judge(Verdict(words[-1][0], "cyd", "reject", f"v{step}"))
                    rejected[question.id, who] = words.copy()
                    words.clear()
            elif not words and kind == "undo" and (taken := rejected.pop((question.id, who), [])):
                ledger.judge(Verdict(taken[-1][0], "cyd", "restore", f"v{step}"))
                words += taken
        last = {key: words[-1][0] for key, words in history.items() if words}
        assert sorted(answer.id for answer in ledger.last_words()) == sorted(last.values())
        counts = [sum(number == question.id for number, _ in last) for question in questions]
        assert open_questions(ledger) == [q.id for q, count in zip(questions, counts, strict=True) if count < each]
