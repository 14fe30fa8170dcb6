"""Detection of out-of-memory errors, which torch raises as RuntimeError like many others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

# Phrases of torch's allocators, the C++ library, oneDNN and OpenCV, which have no exception type for it on a CPU.
_PHRASES = (
    "allocate memory",
    "out of memory",
    "not enough memory",
    "bad_alloc",
    "memory object",
    "insufficient memory",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the memory was not enough."""
    text = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(phrase in text for phrase in _PHRASES)


@contextmanager
def memory_for(purpose: str, fix: str) -> Iterator[None]:
    """Raises RuntimeError with `purpose` and `fix` if the memory is not enough inside this context."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise RuntimeError(f"out of memory {purpose}; {fix} ({' '.join(str(error).split())[:200]})") from error
