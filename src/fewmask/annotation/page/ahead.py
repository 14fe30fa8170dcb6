"""Computes values of images for the page's tools, such as a network's features, one image at a time and ahead of need.

The values are kept in memory within a limit. The value that was not used for the longest time is dropped, and computed
again when it is needed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import Generic, TypeVar

import numpy as np

Value = TypeVar("Value")
Key = tuple[str, str]
"""A domain and a stem."""
Read = Callable[[], np.ndarray]
MOST_BYTES = 512 << 20


class Ahead(Generic[Value]):
    """Threads may call it at once."""

    def __init__(
        self, make: Callable[[str, np.ndarray], Value], size: Callable[[Value], int], most_bytes: int = MOST_BYTES
    ) -> None:
        """`make` gets the name of a domain and an image of it (H,W,C) uint8. `size` gives the bytes of a value."""
        self._make, self._size, self._most = make, size, most_bytes
        self._worker = ThreadPoolExecutor(1, "ahead")
        self._lock = Lock()
        self._futures: dict[Key, Future[Value]] = {}
        self._values: OrderedDict[Key, Value] = OrderedDict()

    def has(self, key: Key) -> bool:
        with self._lock:
            return key in self._values

    def begin(self, key: Key, read: Read) -> Future[Value] | None:
        """Start to compute the value of an image, which `read` gives. Returns None where the value is known."""
        with self._lock:
            if key in self._values:
                return None
            if key not in self._futures:
                self._futures[key] = self._worker.submit(self._compute, key, read)
            return self._futures[key]

    def get(self, key: Key, read: Read) -> Value:
        """The value of an image, after a wait where it is not known yet. Raises what computing it raises."""
        future = self.begin(key, read)
        if future is not None:
            return future.result()
        with self._lock:
            if (value := self._values.get(key)) is not None:
                self._values.move_to_end(key)
                return value
        return self.get(key, read)  # the value was dropped in between

    def put(self, key: Key, value: Value) -> None:
        """Add a value that was computed elsewhere."""
        with self._lock:
            self._values[key] = value
            self._values.move_to_end(key)
            while len(self._values) > 1 and sum(map(self._size, self._values.values())) > self._most:
                self._values.popitem(last=False)

    def _compute(self, key: Key, read: Read) -> Value:
        try:
            with self._lock:
                value = self._values.get(key)
            if value is None:
                value = self._make(key[0], read())
                self.put(key, value)
            return value
        finally:
            with self._lock:
                self._futures.pop(key, None)

    def close(self) -> None:
        self._worker.shutdown(wait=False, cancel_futures=True)
