"""What the tests of the engine share."""

from __future__ import annotations

from pathlib import Path

import pytest
from ondisk import (
    config,
    two_domains,
)

from fewmask.data.domain import Domain
from fewmask.engine.run import load_domains


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_domains(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def domains(data: Path) -> dict[str, Domain]:
    return load_domains(config(data))
