"""Leases of questions, without a browser."""

from __future__ import annotations

import pages
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewmask.annotation.page.leases import LASTS, Leases

STEPS = st.lists(
    st.tuples(st.sampled_from("abcd"), st.sampled_from(["ann", "bob", "cyd"]), st.integers(1, 3), st.floats(0, LASTS)),
    max_size=20,
)


@given(STEPS, st.integers(1, 2))
def test_no_more_people_are_at_a_question_than_it_waits_for(
    steps: list[tuple[str, str, int, float]], each: int
) -> None:
    now = [0.0]
    leases = Leases(lambda: now[0])
    for window, annotator, question, passed in steps:
        now[0] += passed
        leases.take(window, annotator, question, (), each)
        assert all(len(names) <= each for names in leases.held().values())


def test_a_lease_is_given_back_and_ends_by_itself() -> None:
    now = [0.0]
    leases = Leases(lambda: now[0])
    assert leases.take("one", "ann", 1, (), 1)
    assert not leases.take("two", "bob", 1, (), 1)
    assert leases.take("three", "ann", 1, (), 1)  # her other window
    leases.give_back("one")
    assert not leases.take("two", "bob", 1, (), 1)
    leases.give_back("three")
    assert leases.take("two", "bob", 1, (), 1)
    now[0] = LASTS - 1
    assert leases.held() == {1: ["bob"]}
    assert leases.take("two", "bob", 1, (), 1)  # he is still there
    now[0] = 2 * LASTS - 2
    assert not leases.take("one", "ann", 1, (), 1)
    now[0] = 2 * LASTS
    assert leases.held() == {}
    assert leases.take("one", "ann", 1, (), 1)


def test_who_answered_counts_and_is_always_let_in() -> None:
    leases = Leases(lambda: 0.0)
    assert leases.take("one", "ann", 1, {"cyd"}, 2)
    assert not leases.take("two", "bob", 1, {"cyd"}, 2)
    assert leases.take("three", "cyd", 1, {"cyd"}, 2)
    assert leases.take("two", "bob", 1, {"cyd"}, None)


@pytest.mark.parametrize("classes", [45, 150])
def test_the_stand_in_has_as_many_classes_as_it_is_told(classes: int) -> None:
    assert pages.streets(1, classes).space.num_classes == classes
