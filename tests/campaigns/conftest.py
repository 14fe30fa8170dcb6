"""What the tests of campaigns share."""

from __future__ import annotations

from pathlib import Path

import pytest
from ondisk import two_domains


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Domains a (3 classes) and b (4): of train 4 masks and an image without one each, of which 1 is labelled."""
    return two_domains(tmp_path_factory.mktemp("data"), train=4, pool=1)
