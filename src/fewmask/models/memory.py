"""Running out of memory, told apart from everything else that torch raises a RuntimeError for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

# Of torch's allocators, of the C++ library, of oneDNN and of OpenCV; none has a type of its own on a CPU.
_SAID = ("allocate memory", "out of memory", "not enough memory", "bad_alloc", "memory object", "insufficient memory")


def ran_out(error: BaseException) -> bool:
    """Whether this is what a system without enough memory leads to."""
    text = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(phrase in text for phrase in _SAID)


@contextmanager
def memory_for(purpose: str, fix: str) -> Iterator[None]:
    """Raises RuntimeError that says for what the memory did not suffice, and what to do."""
    try:
        yield
    except Exception as error:
        if not ran_out(error):
            raise
        raise RuntimeError(f"out of memory {purpose}; {fix} ({' '.join(str(error).split())[:200]})") from error
