"""A ledger that has asked three regions, for the tests of each tool's format."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from annotating import domain, ledger_with, three

from fewmask.annotation.ledger import Ledger
from fewmask.data.domain import Domain


@pytest.fixture
def domains() -> dict[str, Domain]:
    return {"a": domain()}


@pytest.fixture
def ledger(domains: dict[str, Domain]) -> Iterator[Ledger]:
    with ledger_with(domains["a"], *three()) as opened:
        yield opened
