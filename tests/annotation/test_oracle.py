"""The simulated annotator: it gives what was asked for and no more, counts it, and goes on where it was killed."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import helpers
import numpy as np
import pytest

from fewmask.acquisition.budget import CostModel, Rate
from fewmask.annotation.ledger import Ledger
from fewmask.annotation.oracle import NAME, Given, Oracle, answer_all
from fewmask.annotation.questions import Answer, Question
from fewmask.annotation.view import answered_domain
from fewmask.data.domain import Domain
from fewmask.labels import NOT_LABELLED, VOID

SIZE = (20, 24)


COST = CostModel({"squares": Rate(1, 0.5), "superpixels": Rate(3), "points": Rate()}, seconds_per_click=2.0)


def tiles(stem: str, name: str = "a") -> list[Question]:
    return [
        Question(name, stem, "squares:8", 3 * (y // 8) + x // 8, (y, x, min(y + 8, 20), x + 8))
        for y in range(0, 20, 8)
        for x in range(0, 24, 8)
    ]


def domain(labelled: int = 4) -> Domain:
    return helpers.domain("a", 3, images=4, labelled=labelled, size=SIZE)


def region(kind: str) -> Question:
    shape = np.arange(30).reshape(5, 6) % 4 == 0
    return Question("a", "a-1", kind, 0, (14, 3, 19, 9), shape=shape, id=7)


def test_it_answers_with_the_mask_of_the_region_alone() -> None:
    of, question = domain(), region("squares:6")
    answer = Oracle({"a": of}, COST).answer(question)
    assert answer.values is not None
    np.testing.assert_array_equal(answer.values[question.inside], of.mask("a-1")[14:19, 3:9][question.inside])
    assert (answer.values[~question.inside] == NOT_LABELLED).all()
    assert (answer.values[question.inside] == VOID).any()  # void is an answer
    assert (answer.question, answer.kind) == (7, "answer")


@pytest.mark.parametrize(
    ("truth", "expected"),
    [([2, 2, 2, VOID, VOID, 1, 0, NOT_LABELLED], 2), ([2, 2, VOID, VOID, VOID, 1, 0, NOT_LABELLED], VOID)],
)
def test_where_outlines_are_not_paid_for_none_are_given(truth: list[int], expected: int) -> None:
    of, question = domain(), region("superpixels:9:10")
    question.window(of.mask("a-1"))[question.inside] = truth
    answer = Oracle({"a": of}, COST).answer(question)
    assert answer.values is not None
    assert (answer.values == np.where(question.inside, expected, NOT_LABELLED)).all()


def test_it_counts_what_it_gave() -> None:
    oracle = Oracle({"a": domain()}, COST)
    questions = [*tiles("a-0"), *tiles("a-2")[:2], Question("a", "a-0", "points", 5, (0, 5, 1, 6))]
    answers = [oracle.answer(replace(question, id=i)) for i, question in enumerate(questions)]
    assert [a.clicks for a in answers] == [33] * 6 + [17] * 3 + [33] * 2 + [1]  # 8×8 pixels, 4×8 at the lower edge
    assert [a.seconds for a in answers] == [2 * a.clicks for a in answers if a.clicks]
    pixels, clicks = 20 * 24 + 2 * 64 + 1, 6 * 33 + 3 * 17 + 2 * 33 + 1
    assert oracle.given == Given(images=2, regions=12, pixels=pixels, clicks=clicks, seconds=2 * clicks)


def test_an_image_without_a_mask_is_an_error_with_its_name() -> None:
    for stem, of in (("a-3", domain(labelled=3)), ("a-1", hidden())):
        oracle = Oracle({"a": of}, COST)
        with pytest.raises(ValueError, match=rf"^a: images/{stem}\.png: asked of the oracle, but it has no mask; add"):
            oracle.answer(tiles(stem)[0])
        assert oracle.given == Given()


def hidden() -> Domain:
    """A domain as training sees it, without the ground truth of its pool."""
    with Ledger(Path(":memory:")) as ledger:
        return answered_domain(replace(domain(), labelled=("a-0",)), ledger, Path("labels"))


def test_a_mask_of_another_size_is_an_error_with_its_name() -> None:
    of = domain()
    assert isinstance(of.source, helpers.ArraySource)
    masks = {**of.source.masks, "a-1": of.mask("a-1")[:-1]}
    oracle = Oracle({"a": replace(of, source=helpers.ArraySource(of.source.images, masks))}, COST)
    with pytest.raises(ValueError, match=r"^a: images/a-1\.png: the image is 24×20 pixels, its mask 24×19; make"):
        oracle.answer(tiles("a-1")[0])


def test_what_the_mask_does_not_know_is_skipped(tmp_path: Path) -> None:
    of = domain()
    of.mask("a-0")[:8, :8] = NOT_LABELLED
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.add_images(of, ["a-0"])
        ledger.ask(1, tiles("a-0")[:2])
        answer_all(ledger, Oracle({"a": of}, COST))
        assert [a.kind for a in ledger.answers()] == ["skip", "answer"]
        assert ledger.progress().open == 0


def test_all_open_questions_of_a_round_are_answered_once(tmp_path: Path) -> None:
    of = domain()
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.add_images(of, of.splits["train"])
        ledger.ask(1, [q for pair in zip(tiles("a-1"), tiles("a-0"), strict=True) for q in pair])
        ledger.ask(2, tiles("a-2"))
        first = Oracle({"a": of}, COST)
        answer_all(ledger, first, 1)
        assert (first.given.images, first.given.regions) == (2, 18)
        assert [ledger.progress(n).open for n in (1, 2)] == [0, 9]
        again = Oracle({"a": of}, COST)
        answer_all(ledger, again, 1)
        assert again.given == Given()
        answer_all(ledger, again)
        for stem in ("a-0", "a-1", "a-2"):
            np.testing.assert_array_equal(ledger.labels("a", stem), of.mask(stem))
        assert ledger.progress().pixels == first.given.pixels + again.given.pixels
        assert ledger.progress().clicks == first.given.clicks + again.given.clicks


@pytest.mark.parametrize("last", [1, 9, 10, 14, 18, 19])
def test_killed_it_goes_on(tmp_path: Path, last: int) -> None:
    of = domain()
    path = tmp_path / "ledger.sqlite"
    with Ledger(path) as ledger:
        ledger.add_images(of, of.splits["train"])
        ledger.ask(1, [q for stem in of.splits["train"] for q in tiles(stem)])
    child = os.fork()
    if not child:

        class Dying(Oracle):
            def answer(self, question: Question, annotator: str = NAME) -> Answer:
                if self.given.regions == last - 1:
                    os.kill(os.getpid(), signal.SIGKILL)
                return super().answer(question, annotator)

        answer_all(Ledger(path), Dying({"a": of}, COST))
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    with Ledger(path) as ledger:
        assert len(ledger.answers()) == (last - 1) // 9 * 9  # whole images
        rest = Oracle({"a": of}, COST)
        answer_all(ledger, rest)
        assert len(ledger.answers()) == 36
        assert rest.given.images == 4 - (last - 1) // 9
        for stem in of.splits["train"]:
            np.testing.assert_array_equal(ledger.labels("a", stem), of.mask(stem))
