"""What is made of an image for the page's tools, such as a network's features: one image at a time, ahead of need.

It is kept in the memory within a bound: what was not used for the longest is forgotten, and made again when it is asked
for.
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
        self, make: Callable[[np.ndarray], Value], size: Callable[[Value], int], most_bytes: int = MOST_BYTES
    ) -> None:
        """`make` gets an image (H,W,3) uint8; `size` is how many bytes a value takes."""
        self._make, self._size, self._most = make, size, most_bytes
        self._worker = ThreadPoolExecutor(1, "ahead")
        self._lock = Lock()
        self._begun: dict[Key, Future[Value]] = {}
        self._there: OrderedDict[Key, Value] = OrderedDict()

    def has(self, key: Key) -> bool:
        with self._lock:
            return key in self._there

    def begin(self, key: Key, read: Read) -> Future[Value] | None:
        """Have it made, where it is not there yet; `read` gives the image where that has to be done."""
        with self._lock:
            if key in self._there:
                return None
            if key not in self._begun:
                self._begun[key] = self._worker.submit(self._made, key, read)
            return self._begun[key]

    def of(self, key: Key, read: Read) -> Value:
        """It, after a wait where it is not there yet. Raises what making it raises."""
        begun = self.begin(key, read)
        if begun is not None:
            return begun.result()
        with self._lock:
            if (found := self._there.get(key)) is not None:
                self._there.move_to_end(key)
                return found
        return self.of(key, read)  # forgotten between the two

    def put(self, key: Key, value: Value) -> None:
        """It was made elsewhere."""
        with self._lock:
            self._there[key] = value
            self._there.move_to_end(key)
            while len(self._there) > 1 and sum(map(self._size, self._there.values())) > self._most:
                self._there.popitem(last=False)

    def _made(self, key: Key, read: Read) -> Value:
        try:
            with self._lock:
                found = self._there.get(key)
            if found is None:
                found = self._make(read())
                self.put(key, found)
            return found
        finally:
            with self._lock:
                self._begun.pop(key, None)

    def close(self) -> None:
        self._worker.shutdown(wait=False, cancel_futures=True)
