"""Questions to annotators, their answers, and the formats in which both are exchanged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fewmask.lazy import attach

if TYPE_CHECKING:
    from fewmask.annotation.ledger import Ledger as Ledger
    from fewmask.annotation.oracle import Oracle as Oracle
    from fewmask.annotation.questions import Answer as Answer
    from fewmask.annotation.questions import Question as Question

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "fewmask.annotation.questions": "Answer Question",
        "fewmask.annotation.ledger": "Ledger",
        "fewmask.annotation.oracle": "Oracle",
    },
)
