"""Settings of all tests."""

from __future__ import annotations

import os

from browsing import browser, context
from command import fewmask
from hypothesis import settings

__all__ = ["browser", "context", "fewmask"]

# No test asserts a time: a slow or busy machine is not a failure. In CI every run draws the same examples.
settings.register_profile("fewmask", deadline=None, derandomize="CI" in os.environ, print_blob=True)
settings.load_profile("fewmask")
