"""A ledger of a domain of four images, squares to ask about, and answers to them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import helpers
import numpy as np
import pytest

from fewmask.annotation.ledger import Ledger
from fewmask.annotation.questions import Answer, Question
from fewmask.data.domain import Domain
from fewmask.labels import NOT_LABELLED

CLASSES = 3
SIZE = (20, 24)


@pytest.fixture
def domain() -> Domain:
    return helpers.domain("a", CLASSES, images=4, labelled=1, size=SIZE)


@pytest.fixture
def ledger(tmp_path: Path, domain: Domain) -> Iterator[Ledger]:
    with Ledger(tmp_path / "ledger.sqlite") as opened:
        opened.add_images(domain, domain.splits["train"])
        yield opened


def square(region: int, stem: str = "a-1", **changes: object) -> Question:
    """One of the 4×6 squares of 5×4 pixels that tile an image."""
    y, x = region // 6 * 5, region % 6 * 4
    return replace(Question("a", stem, "squares:5x4", region, (y, x, y + 5, x + 4), score=0.5), **changes)  # type: ignore[arg-type]


def answer_with(question: Question, value: int, token: str = "", who: str = "ann", **changes: object) -> Answer:
    """An answer of one value for the whole region."""
    values = np.where(question.inside, np.uint8(value), np.uint8(NOT_LABELLED))
    token = token or f"{who}-{question.id}-{value}"
    return replace(Answer(question.id, who, token, values), **changes)  # type: ignore[arg-type]


def retract(answer: Answer | int, question: Question, who: str = "ann") -> Answer:
    taken = answer if isinstance(answer, int) else answer.id
    return Answer(question.id, who, f"back-{taken}", kind="retract", retracts=taken)
