"""What the tests of annotation tools share: asked regions, partial masks, and what ought to come back.

Shapes: H×W pixels of an image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import helpers
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from fewmask.annotation.ledger import Ledger
from fewmask.annotation.questions import Question
from fewmask.data.domain import Domain
from fewmask.labels import NOT_LABELLED, VOID, LabelSpace, Mask

SIZE = (20, 24)
SHAPE = np.arange(24).reshape(4, 6) % 3 > 0
ODD_NAMES = ("road & <path>", 'the "sky"', "día 'x'")

# Quick by default; every format has to hold out 1,000 cases.
EXAMPLES = (40, pytest.param(300, marks=pytest.mark.slow))


def domain(size: tuple[int, int] = SIZE, names: tuple[str, ...] = ODD_NAMES, images: int = 3) -> Domain:
    """Domain a with class names that need escaping; its own ids are 5, 9 and 200, with 0 for void."""
    plain = helpers.domain("a", 3, images=images, labelled=0, size=size)
    return replace(plain, space=LabelSpace(names, plain.space.colours, {5: 0, 9: 1, 200: 2}, frozenset({0})))


@contextmanager
def ledger_with(domain: Domain, *questions: Question, path: Path = Path(":memory:")) -> Iterator[Ledger]:
    """A ledger that has asked these questions in round 1."""
    with Ledger(path) as ledger:
        ledger.add_images(domain, domain.splits["train"])
        ledger.ask(1, questions)
        yield ledger


def three() -> list[Question]:
    """A square with a guess and a superpixel of image a-0, a point of a-2."""
    return [
        Question("a", "a-0", "squares", 0, (2, 3, 7, 9), guess=1),
        Question("a", "a-0", "superpixels", 4, (10, 10, 14, 16), shape=SHAPE, guess=2),
        Question("a", "a-2", "points", 3, (0, 23, 1, 24)),
    ]


def change(at: str, value: Any) -> Callable[[Any], None]:
    """Put a value at a place in an export's JSON, such as annotations.0.result.0.type."""

    def put(record: Any) -> None:
        *path, last = [int(key) if key.isdigit() else key for key in at.split(".")]
        for key in path:
            record = record[key]
        record[last] = value

    return put


def partial_masks() -> st.SearchStrategy[Mask]:
    """Masks with holes, single pixels and empty classes, 254 and 255 among them."""
    values = st.sampled_from([0, 1, 2, NOT_LABELLED, VOID])
    return arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=14), elements=values, fill=values)


@st.composite
def partial_answers(draw: st.DrawFn) -> tuple[Mask, Question]:
    """A partial mask, and a question about any region of its image."""
    mask = draw(partial_masks())
    y0, x0 = (draw(st.integers(0, side - 1)) for side in mask.shape)
    y1, x1 = draw(st.integers(y0 + 1, mask.shape[0])), draw(st.integers(x0 + 1, mask.shape[1]))
    shape = draw(arrays(bool, (y1 - y0, x1 - x0)))
    shape.flat[0] = True
    return mask, Question("a", "a-0", "any", 0, (y0, x0, y1, x1), shape=shape)


def round_trip(examples: int, come_back: Callable[[Ledger, Mapping[str, Domain], Mask], None]) -> None:
    """`come_back` writes a mask of image a-0 and reads it: the ledger has what was asked for, and 254 elsewhere."""

    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    @given(case=partial_answers())
    def check(case: tuple[Mask, Question]) -> None:
        mask, question = case
        of = domain((mask.shape[0], mask.shape[1]), images=1)
        expected = np.full(mask.shape, NOT_LABELLED, dtype=np.uint8)
        question.window(expected)[:] = question.crop(mask)
        with ledger_with(of, question) as ledger:
            come_back(ledger, {"a": of}, mask)
            np.testing.assert_array_equal(ledger.labels("a", "a-0"), expected)

    check()


def refused(ledger: Ledger, read: Callable[[], object], *parts: str) -> None:
    """Reading raises one ValueError that says all of this, and the ledger has nothing."""
    with pytest.raises(ValueError, match=r"^nothing was imported:") as error:
        read()
    for words in parts:
        assert words in str(error.value), str(error.value)
    assert ledger.answers() == []
