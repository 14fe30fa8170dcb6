"""The view of a ledger: its answers as masks to train on, and the domain that they make.

Shapes: H×W pixels of an image · h×w pixels of a region's box.
"""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import helpers
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledgers import CLASSES, SIZE, answer_with, domain, ledger, square

from fewmask.annotation.ledger import Ledger
from fewmask.annotation.questions import Answer, Question
from fewmask.annotation.view import answered_domain, write_labels
from fewmask.data.domain import Domain, read_mask
from fewmask.labels import NOT_LABELLED, VOID, LabelSpace, Mask

__all__ = ["domain", "ledger"]


# ── The view ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def reference(size: tuple[int, int], questions: dict[int, Question], facts: list[Answer]) -> Mask:
    """What the facts say of an image, pixel by pixel and one fact after the other."""
    standing = [f for f in facts if f.kind != "retract" and f.id not in {g.retracts for g in facts}]
    words = [
        f
        for f in standing
        if f.id == max(g.id for g in standing if (g.question, g.annotator) == (f.question, f.annotator))
    ]
    answers = [f for f in words if f.kind == "answer"]
    counts = [f for f in answers if f.id == max(g.id for g in answers if g.question == f.question)]
    mask = np.full(size, NOT_LABELLED, dtype=np.uint8)
    for fact in sorted(counts, key=lambda f: f.id):
        y0, x0, _, _ = questions[fact.question].box
        assert fact.values is not None
        for (y, x), value in np.ndenumerate(fact.values):
            if value != NOT_LABELLED:
                mask[y0 + y, x0 + x] = value
    return mask


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("[!.]*") if p.is_file()}


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["answer", "answer", "answer", "skip", "retract", "ask", "reopen", "view"]),
        st.integers(0, 2**16),
        st.sampled_from(["ann", "bob"]),
    ),
    max_size=25,
)


@settings(max_examples=20)
@given(actions=ACTIONS, seed=st.integers(0, 2**16))
def test_the_view_grown_bit_by_bit_is_the_view_rebuilt(
    tmp_path_factory: pytest.TempPathFactory, actions: list[tuple[str, int, str]], seed: int
) -> None:
    folder = tmp_path_factory.mktemp("run")
    rng = np.random.default_rng(seed)
    of = {"a": helpers.domain("a", CLASSES, images=3, labelled=0, size=SIZE)}
    ledger = Ledger(folder / "ledger.sqlite")
    ledger.add_images(of["a"], of["a"].splits["train"])
    facts: list[Answer] = []
    questions: dict[int, Question] = {}
    for step, (action, number, who) in enumerate([("ask", 0, ""), *actions]):
        if action == "ask":
            new = []
            for region in range(3):
                y0, x0 = rng.integers(0, (15, 18))
                h, w = rng.integers(1, 6, 2)
                shape = rng.random((h, w)) < 0.7
                shape[0, 0] = True
                box = (int(y0), int(x0), int(y0 + h), int(x0 + w))
                new.append(Question("a", f"a-{rng.integers(3)}", f"random:{step}", region, box, shape=shape))
            ledger.ask(step, new)
            questions = {q.id: q for q in ledger.questions()}
        elif action == "reopen":
            ledger.close()
            ledger = Ledger(folder / "ledger.sqlite")
        elif action == "view":
            write_labels(ledger, of, folder / "labels", up_to=number % (len(facts) + 1))  # back and forth
        else:
            question = questions[1 + number % len(questions)]
            taken = {f.retracts for f in facts}
            open_to = [f.id for f in facts if f.kind != "retract" and f.id not in taken and f.question == question.id]
            values = rng.choice(np.array([0, 1, 2, NOT_LABELLED, VOID], np.uint8), question.size)
            values[~question.inside] = NOT_LABELLED
            values[0, 0] = number % CLASSES
            if action == "retract" and not open_to:
                continue
            fact = Answer(question.id, who, str(step), kind=action)  # type: ignore[arg-type]
            if action == "answer":
                fact = replace(fact, values=values)
            elif action == "retract":
                fact = replace(fact, retracts=open_to[number % len(open_to)])
            facts.append(replace(fact, id=ledger.answer([fact])[0]))
    write_labels(ledger, of, folder / "labels")
    write_labels(ledger, of, folder / "rebuilt")
    assert files(folder / "labels") == files(folder / "rebuilt")
    domain = answered_domain(of["a"], ledger, folder / "labels")
    for stem in domain.splits["train"]:
        own = {f.id for f in facts if questions[f.question].stem == stem}
        expected = reference(SIZE, questions, [f for f in facts if f.id in own])
        np.testing.assert_array_equal(ledger.labels("a", stem), expected)
        assert (stem in domain.labelled) == (expected != NOT_LABELLED).any() == domain.source.has_mask(stem)
        if stem in domain.labelled:
            np.testing.assert_array_equal(domain.mask(stem), expected)
    ledger.close()


def test_the_view_holds_the_datasets_own_ids(ledger: Ledger, domain: Domain, tmp_path: Path) -> None:
    space = LabelSpace(domain.space.names, domain.space.colours, {7: 0, 9: 1, 255: 2}, frozenset({3}))
    own = {"a": replace(domain, space=space)}
    ledger.ask(1, [square(0), square(1)])
    one, two = ledger.questions()
    ledger.answer([answer_with(one, 1), answer_with(two, VOID)])
    write_labels(ledger, own, tmp_path / "labels")
    raw = read_mask(tmp_path / "labels" / "a" / "a-1.png")
    assert (raw[0, 0], raw[0, 4], raw[-1, -1]) == (9, 3, NOT_LABELLED)
    trained = answered_domain(own["a"], ledger, tmp_path / "labels")
    np.testing.assert_array_equal(trained.mask("a-1"), ledger.labels("a", "a-1"))


# ── The domain ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_domain_with_answers(ledger: Ledger, tmp_path: Path) -> None:
    full = helpers.domain("a", CLASSES, images=4, labelled=4, size=SIZE)  # as the oracle sees it: every mask is there
    of = {"a": replace(full, labelled=("a-0",), splits={"train": full.splits["train"][:3], "val": ("a-3",)})}
    ledger.ask(1, [square(2, "a-2"), square(0, "a-0")])
    two, zero = ledger.questions()
    other = (int(full.mask("a-0")[0, 0]) + 1) % CLASSES
    ledger.answer([answer_with(two, 1), answer_with(zero, other)])
    folder = tmp_path / "labels"
    write_labels(ledger, of, folder)
    domain = pickle.loads(pickle.dumps(answered_domain(of["a"], ledger, folder)))  # noqa: S301, loaders do it
    assert (domain.labelled, domain.whole, domain.partial) == (
        ("a-0", "a-2"),
        ("a-0",),
        {"a-2": 20 / (SIZE[0] * SIZE[1])},
    )
    np.testing.assert_array_equal(domain.mask("a-2"), ledger.labels("a", "a-2"))
    corrected = full.mask("a-0").copy()
    corrected[:5, :4] = other
    np.testing.assert_array_equal(domain.mask("a-0"), corrected)
    np.testing.assert_array_equal(domain.mask("a-3"), full.mask("a-3"))  # of val
    np.testing.assert_array_equal(domain.image("a-1"), full.image("a-1"))
    assert [domain.source.has_mask(f"a-{i}") for i in range(4)] == [True, False, True, True]
    with pytest.raises(ValueError, match=r"^images/a-1\.png: nobody has answered about it"):
        domain.mask("a-1")
    before = answered_domain(of["a"], ledger, folder, up_to=0)
    assert (before.labelled, before.partial) == (("a-0",), {})
    assert not before.source.has_mask("a-2")
    gone = replace(of["a"], splits={"train": ("a-0", "a-1")})
    with pytest.raises(ValueError, match="answers about a-2, which train does not have"):
        answered_domain(gone, ledger, folder)


def test_an_image_that_is_answered_wholly_is_wholly_labelled(ledger: Ledger, tmp_path: Path) -> None:
    full = helpers.domain("a", CLASSES, images=4, labelled=4, size=SIZE)
    of = {"a": replace(full, labelled=())}
    height, width = SIZE
    parts = [
        Question("a", "a-0", "image", 0, (0, 0, height, width)),
        Question("a", "a-1", "image", 0, (0, 0, height, width)),
        Question("a", "a-2", "halves", 0, (0, 0, height, 5)),
        Question("a", "a-2", "halves", 1, (0, 4, height, width - 1)),  # as many pixels as the image, but not all of it
    ]
    ledger.ask(1, parts)
    whole, but_one, *halves = ledger.questions()
    ledger.answer([answer_with(q, 1) for q in (whole, but_one, *halves)])
    values = np.ones(SIZE, np.uint8)
    values[0, 0] = NOT_LABELLED
    ledger.answer([Answer(but_one.id, "ann", "again", values)])
    write_labels(ledger, of, tmp_path / "labels")
    domain = answered_domain(of["a"], ledger, tmp_path / "labels")
    assert domain.whole == ("a-0",)
    # In the third image the halves overlap in a column and leave a corner and the last column open.
    assert domain.partial == {s: (domain.mask(s) != NOT_LABELLED).mean() for s in ("a-1", "a-2")}
    assert domain.unlabelled == ("a-1", "a-2", "a-3")
