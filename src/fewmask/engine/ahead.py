"""Work that threads do ahead of whoever needs its results."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any


def ahead_of(pool: ThreadPoolExecutor, work: Callable[[Any], Any], items: Iterable[Any], count: int) -> Iterator[Any]:
    """`map(work, items)` in the pool's threads, in order, with at most `count` results waiting.

    What `items` raises is raised when the results of all items before it were handed out.
    """
    waiting: deque[Future] = deque()
    source = iter(items)
    failure: Exception | None = None

    def submit(more: int) -> None:
        nonlocal failure
        try:
            for item in islice(source, more):
                waiting.append(pool.submit(work, item))
        except Exception as error:
            failure = error

    try:
        submit(count)
        while waiting:
            yield waiting.popleft().result()
            if failure is None:
                submit(1)
        if failure is not None:
            raise failure
    finally:
        for future in waiting:
            future.cancel()
