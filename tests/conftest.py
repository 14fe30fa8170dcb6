"""Settings of all tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import browser, context
from command import fewmask
from hypothesis import settings

__all__ = ["browser", "context", "fewmask"]

# No test asserts a time: a slow or busy machine is not a failure. In CI every run draws the same examples.
settings.register_profile("fewmask", deadline=None, derandomize="CI" in os.environ, print_blob=True)
settings.load_profile("fewmask")

# A shell lets its background jobs ignore Ctrl-C, and so would every process that a test starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def nearby(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Starts servers of kinds of regions."""
    from nearby import Nearby

    servers: list[Nearby] = []

    def start(kind: str, **settings: Any) -> Any:
        servers.append(Nearby(tmp_path / "run", kind, **settings))
        return servers[-1]

    yield start
    for server in servers:
        server.kill()
