"""Several annotators' answers made one: votes, trust, and how far they agree.

Shapes: A annotators · h×w pixels of a region's box · N patterns of votes · K values: the classes and void.
"""

from __future__ import annotations

from collections import Counter
from itertools import permutations
from pathlib import Path

import helpers
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fewmask.annotation.agreement import agreement, alpha, coincidences, share_agreed
from fewmask.annotation.consensus import NO_VOTE, Ballot, by_trust, estimate_trust, patterns, trust_of
from fewmask.annotation.ledger import Ledger
from fewmask.annotation.questions import Answer, Question
from fewmask.annotation.view import answered_domain, write_labels
from fewmask.config import AnswerSettings
from fewmask.data.domain import Domain
from fewmask.labels import NOT_LABELLED, VOID, Mask

CLASSES = 3
SIZE = (20, 24)
VALUES = st.sampled_from([0, 1, 2, NOT_LABELLED, VOID])


def answers(most: int = 5) -> st.SearchStrategy[np.ndarray]:
    """(A,h,w)."""
    return arrays(np.uint8, st.tuples(st.integers(1, most), st.integers(1, 4), st.integers(1, 4)), elements=VALUES)


def majority(values: np.ndarray) -> Mask:
    return by_trust(values, np.ones(len(values)))


def by_loop(values: np.ndarray, trust: np.ndarray) -> Mask:
    mask = np.full(values.shape[1:], NOT_LABELLED, np.uint8)
    for place in np.ndindex(mask.shape):
        votes = Counter[int]()
        for value, weight in zip(values[(slice(None), *place)], trust, strict=True):
            if value != NOT_LABELLED:
                votes[int(value)] += weight
        ranked = [*sorted(votes.values(), reverse=True), 0, 0]
        if ranked[0] > ranked[1]:
            mask[place] = max(votes, key=lambda value: votes[value])
    return mask


# ── Votes ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(answers(), st.data())
def test_votes_are_counted_as_by_hand(values: np.ndarray, data: st.DataObject) -> None:
    np.testing.assert_array_equal(majority(values), by_loop(values, np.ones(len(values))))
    trust = np.array(data.draw(st.lists(st.integers(0, 4), min_size=len(values), max_size=len(values)))) / 4
    np.testing.assert_array_equal(by_trust(values, trust), by_loop(values, trust))


@given(answers(), st.data())
def test_what_holds_of_every_vote(values: np.ndarray, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(values))))
    trust = np.array(data.draw(st.lists(st.floats(0.01, 9), min_size=len(values), max_size=len(values))))
    for outcome, moved in (
        (majority(values), majority(values[order])),
        (by_trust(values, trust), by_trust(values[order], trust[order])),
    ):
        np.testing.assert_array_equal(outcome, moved)  # who came first does not matter
        same = (values == values[0]).all(axis=0)
        np.testing.assert_array_equal(outcome[same], values[0][same])  # what all say
        assert ((outcome == NOT_LABELLED) | (values == outcome).any(axis=0)).all()  # what nobody says
    silent = np.full_like(values[:1], NOT_LABELLED)
    np.testing.assert_array_equal(majority(np.concatenate([values, silent])), majority(values))
    np.testing.assert_array_equal(majority(values[:1]), values[0])
    np.testing.assert_array_equal(by_trust(values, 3 * np.ones(len(values))), majority(values))


def test_sums_of_the_same_trust_in_another_order_are_a_tie() -> None:
    values = np.array([0, 0, 1, 1], np.uint8).reshape(4, 1, 1)
    trust = np.array([0.1, 0.2, 0.3, 0.0])
    assert 0.1 + 0.2 != 0.3
    assert by_trust(values, trust)[0, 0] == NOT_LABELLED


def test_void_is_a_vote() -> None:
    values = np.array([VOID, VOID, 1], np.uint8).reshape(3, 1, 1)
    assert majority(values)[0, 0] == VOID
    assert by_trust(values, np.array([1.0, 1.0, 2.5]))[0, 0] == 1
    assert by_trust(values[:1], np.zeros(1))[0, 0] == NOT_LABELLED


# ── Trust ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(arrays(np.int16, st.tuples(st.integers(1, 4), st.integers(0, 12)), elements=st.integers(-1, 3)))
def test_patterns_are_counted(votes: np.ndarray) -> None:
    columns, counts = patterns(votes)
    expected = Counter(map(tuple, votes.T.tolist()))
    assert dict(zip(map(tuple, columns.T.tolist()), counts.tolist(), strict=True)) == expected
    weight = np.arange(votes.shape[1]) / 4
    again, weighed = patterns(votes, weight)
    np.testing.assert_array_equal(again, columns)
    assert weighed.sum() == pytest.approx(weight.sum())


def crowd(rng: np.random.Generator, skill: list[float], pixels: int, values: int) -> tuple[np.ndarray, np.ndarray]:
    """True values (P,) and votes (A,P) of annotators who are right so often, and wrong in no particular way."""
    truth = rng.integers(0, values, pixels)
    wrong = (truth + rng.integers(1, values, (len(skill), pixels))) % values
    return truth, np.where(rng.random((len(skill), pixels)) < np.array(skill)[:, None], truth, wrong)


def test_trust_is_what_annotators_deserve() -> None:
    """In 4,000 pixels the EM finds how often each is right, and its vote is better than a majority."""
    skill = [0.95, 0.8, 0.5, 0.3]
    truth, votes = crowd(np.random.default_rng(0), skill, 4000, 5)
    trust = estimate_trust(*patterns(votes), 5)
    np.testing.assert_allclose(np.exp(trust) / (np.exp(trust) + 4), skill, atol=0.03)
    values = votes.astype(np.uint8)[:, None]
    right = [(outcome[0] == truth).mean() for outcome in (by_trust(values, trust), majority(values))]
    assert right[0] > right[1] + 0.1


def test_trust_does_not_depend_on_the_order_and_two_are_trusted_alike() -> None:
    _, votes = crowd(np.random.default_rng(1), [0.9, 0.6, 0.7], 300, 4)
    trust = estimate_trust(*patterns(votes), 4)
    for order in permutations(range(3)):
        np.testing.assert_allclose(estimate_trust(*patterns(votes[list(order)]), 4), trust[list(order)], atol=1e-4)
    one, other = estimate_trust(*patterns(votes[:2]), 4)
    assert one == pytest.approx(other)  # who of two is right their answers cannot tell
    few = estimate_trust(np.array([[1], [1]]), np.ones(1), 4)
    assert 0 < few[0] < trust.max()  # one pixel is no proof


def test_whoever_is_always_wrong_is_hardly_trusted_but_not_turned_round() -> None:
    truth = np.arange(400) % 2
    trust = estimate_trust(*patterns(np.stack([truth, truth, 1 - truth])), 2)
    assert 0 < trust[2] < 0.01 < trust[0]


def test_a_large_question_counts_no_more_than_a_small_one() -> None:
    """Who is wrong about one large region only is right in nine of ten questions."""
    names = ("ann", "ben", "cid")
    large = Ballot(names, np.array([[0], [0], [1]]), np.array([10_000.0]))
    small = [Ballot(names, np.array([[0], [1], [0]]), np.array([20.0]))] * 9
    trust = trust_of([large, *small], 3)
    assert trust["ann"] > trust["cid"] > trust["ben"]


# ── Agreement ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_alpha_of_the_published_example() -> None:
    """Krippendorff, "Computing Krippendorff's alpha-reliability" (2011), part C: nominal data, any number of observers,
    missing values. Alpha is .743."""
    table = """
        1 2 3 3 2 1 4 1 2 . . .
        1 2 3 3 2 2 4 1 2 5 . 3
        . 3 3 3 2 3 4 2 2 5 1 .
        1 2 3 3 2 4 4 1 2 5 1 .
    """
    rows = [
        [NO_VOTE if cell == "." else int(cell) - 1 for cell in row.split()] for row in table.split("\n") if row.strip()
    ]
    matrix = coincidences(*patterns(np.array(rows)), 5)
    np.testing.assert_allclose(matrix.sum(axis=1), [9, 13, 10, 5, 3])
    assert alpha(matrix) == pytest.approx(0.743, abs=5e-4)


@given(arrays(np.int16, st.tuples(st.integers(1, 4), st.integers(1, 8)), elements=st.integers(-1, 2)))
def test_coincidences_are_pairs_counted_by_hand(votes: np.ndarray) -> None:
    expected = np.zeros((3, 3))
    for column in votes.T:
        values = [value for value in column if value != NO_VOTE]
        for one, other in permutations(values, 2):
            expected[one, other] += 1 / (len(values) - 1)
    matrix = coincidences(*patterns(votes), 3)
    np.testing.assert_allclose(matrix, expected, atol=1e-12)
    agreed = share_agreed(matrix)
    assert (agreed is None) == (expected.sum() == 0)
    assert agreed is None or agreed == pytest.approx(np.trace(expected) / expected.sum())
    chance = alpha(matrix)
    assert chance is None or chance <= 1 + 1e-9


@pytest.fixture
def of() -> dict[str, Domain]:
    return {"a": helpers.domain("a", CLASSES, images=4, labelled=1, size=SIZE)}


@pytest.fixture
def path(tmp_path: Path, of: dict[str, Domain]) -> Path:
    """A ledger of four squares, two in image a-1 and two in a-2."""
    place = tmp_path / "ledger.sqlite"
    with Ledger(place) as ledger:
        ledger.add_images(of["a"], of["a"].splits["train"])
        ledger.ask(1, [Question("a", f"a-{1 + i // 2}", "squares:5", i, (0, 5 * i, 5, 5 * i + 5)) for i in range(4)])
    return place


def add_answer(ledger: Ledger, number: int, who: str, value: int, seconds: float = 1.0, rows: int = 5) -> None:
    values = np.full((5, 5), NOT_LABELLED, np.uint8)
    values[:rows] = value
    ledger.answer([Answer(number, who, f"{number} {who} {ledger.last_answer_id()}", values, seconds=seconds)])


def test_disagreement_is_listed_by_class_image_region_and_person(path: Path, of: dict[str, Domain]) -> None:
    with Ledger(path, AnswerSettings(each=2, decide="majority")) as ledger:
        add_answer(ledger, 1, "ann", 0)
        add_answer(ledger, 1, "bob", 0)
        add_answer(ledger, 2, "ann", 1, rows=4)
        add_answer(ledger, 2, "bob", 2, rows=3)  # 15 pixels that both decided, and differ
        add_answer(ledger, 3, "ann", VOID)
        add_answer(ledger, 3, "bob", VOID, seconds=9)
        add_answer(ledger, 4, "ann", 1)
        report = agreement(ledger, of)
    part = report["domains"]["a"]
    assert (part["questions"], part["pixels"], part["undecided"]) == (3, 65, 15)
    assert part["agreement"] == pytest.approx(50 / 65)
    assert part["classes"] == {
        "a1": {"share": pytest.approx(15 / 130), "agreement": 0},
        "a2": {"share": pytest.approx(15 / 130), "agreement": 0},
        "a0": {"share": pytest.approx(50 / 130), "agreement": 1},
        "void": {"share": pytest.approx(50 / 130), "agreement": 1},
    }
    assert part["confused"] == [{"classes": ["a1", "a2"], "share": pytest.approx(30 / 130)}]
    (image,) = part["images"]
    assert (image["stem"], image["image"], image["questions"], image["pixels"]) == ("a-1", "images/a-1.png", 2, 40)
    assert image["agreement"] == pytest.approx(25 / 40)
    (region,) = part["regions"]
    assert (region["id"], region["stem"], region["pixels"], region["agreement"]) == (2, "a-1", 15, 0)
    assert region["annotators"] == ["ann", "bob"]
    ann, bob = report["annotators"]["ann"], report["annotators"]["bob"]
    assert (ann["answered"], ann["shared"], bob["answered"], bob["seconds"]) == (4, 3, 3, 11)
    assert ann["with_others"] == bob["with_others"] == pytest.approx(50 / 65)
    assert ann["with_consensus"] == 1  # a tie has no outcome


def test_one_annotator_has_nobody_to_agree_with(path: Path, of: dict[str, Domain]) -> None:
    with Ledger(path) as ledger:
        assert agreement(ledger, of)["annotators"] == {}
        add_answer(ledger, 1, "ann", 0)
        ledger.answer([Answer(2, "bob", "s", kind="skip")])
        report = agreement(ledger, of)
    assert report["domains"]["a"] | {"trust": {}} == {
        "questions": 0,
        "pixels": 0,
        "undecided": 0,
        "agreement": None,
        "alpha": None,
        "trust": {},
        "classes": {},
        "confused": [],
        "images": [],
        "regions": [],
    }
    assert report["annotators"]["ann"]["with_others"] is report["annotators"]["bob"]["with_consensus"] is None


# ── In the ledger ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_question_waits_for_as_many_as_the_rule_says(path: Path) -> None:
    with Ledger(path, AnswerSettings(each=2)) as ledger:
        add_answer(ledger, 1, "ann", 0)
        add_answer(ledger, 1, "ann", 1)  # again: still one annotator
        ledger.answer([Answer(2, "ann", "s", kind="skip"), Answer(2, "bob", "t", kind="skip")])
        add_answer(ledger, 3, "ann", 0)
        add_answer(ledger, 3, "bob", 0)
        assert [q.id for q in ledger.questions(open_only=True)] == [1, 4]
        assert [q.id for q in ledger.questions(open_only=True, annotator="ann")] == [4]
        assert [q.id for q in ledger.questions(open_only=True, annotator="bob")] == [1, 4]
        progress = ledger.progress()
        assert (progress.answered, progress.skipped, progress.open) == (1, 1, 2)
        last = ledger.answers(question=3)[-1]
        ledger.answer([Answer(3, "bob", "back", kind="retract", retracts=last.id)])
        assert [q.id for q in ledger.questions(open_only=True)] == [1, 3, 4]


@pytest.mark.parametrize("decide", ["latest", "majority", "trust"])
def test_labels_up_to_an_answer_never_change(path: Path, of: dict[str, Domain], tmp_path: Path, decide: str) -> None:
    """Whatever arrives later, and however the trust in those who gave them changes by it."""
    rng, rule = np.random.default_rng(0), AnswerSettings.model_validate({"each": 3, "decide": decide})
    history: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    with Ledger(path, rule) as ledger:
        for _ in range(12):
            add_answer(ledger, int(rng.integers(1, 5)), str(rng.choice(["ann", "bob", "cyd"])), int(rng.integers(0, 3)))
            history[ledger.last_answer_id()] = ledger.labels("a", "a-1"), ledger.labels("a", "a-2")
    with Ledger(path, rule) as ledger:
        for up_to, masks in history.items():
            for stem, mask in zip(("a-1", "a-2"), masks, strict=True):
                np.testing.assert_array_equal(ledger.labels("a", stem, up_to), mask)
            write_labels(ledger, of, tmp_path / "labels", up_to)
            domain = answered_domain(of["a"], ledger, tmp_path / "labels", up_to)
            decided = {s for s, mask in zip(("a-1", "a-2"), masks, strict=True) if (mask != NOT_LABELLED).any()}
            assert set(domain.labelled) == decided | {"a-0"}
            pixels = sum(int((mask != NOT_LABELLED).sum()) for mask in masks)
            assert ledger.progress(up_to=up_to).pixels == pixels


def test_an_image_of_ties_is_not_labelled(path: Path, of: dict[str, Domain], tmp_path: Path) -> None:
    with Ledger(path, AnswerSettings(each=2, decide="majority")) as ledger:
        add_answer(ledger, 1, "ann", 0)
        add_answer(ledger, 1, "bob", 1)
        write_labels(ledger, of, tmp_path / "labels")
        domain = answered_domain(of["a"], ledger, tmp_path / "labels")
        assert domain.labelled == ("a-0",) and "a-1" in domain.unlabelled
        assert not list((tmp_path / "labels").rglob("*.png"))


def test_trust_decides_by_what_is_stated_or_by_what_the_answers_show(path: Path) -> None:
    with Ledger(path) as ledger:
        for number in (1, 2, 3, 4):
            add_answer(ledger, number, "ann", number % 3)
            add_answer(ledger, number, "bob", number % 3 if number < 4 else 2)
            add_answer(ledger, number, "eve", 0 if number < 4 else 2)
    for trust, expected in (({"ann": 2.5}, 1), ({"bob": 2.5}, 2), ({"ann": 0, "eve": 0}, 2), ({"ann": 2}, 254)):
        with Ledger(path, AnswerSettings(decide="trust", trust=trust)) as ledger:
            assert ledger.labels("a", "a-2")[0, 15] == expected, trust
            assert ledger.trust("a") == trust
    with Ledger(path, AnswerSettings(decide="trust")) as ledger:
        trusted = ledger.trust("a")
        assert trusted["bob"] > trusted["eve"] > 0 and trusted["ann"] > trusted["eve"]
        assert ledger.trust("a", up_to=1) == {}
