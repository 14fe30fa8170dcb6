"""Leases of questions, so that two annotators do not paint the same question and one of them in vain.

A lease is not a lock: every answer is kept, leased or not. Leases are kept in memory alone, and an open page renews its
own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from threading import Lock

LASTS = 60.0
"""Seconds that a lease lasts unless the page, which asks every three, renews it."""


@dataclass(frozen=True)
class Lease:
    annotator: str
    question: int
    until: float


class Leases:
    """One lease for each window of a browser. Threads may call it at once."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._lock = Lock()
        self._leases: dict[str, Lease] = {}

    def take(self, window: str, annotator: str, question: int, said: Collection[str], each: int | None) -> bool:
        """Lease a question, of which the annotators `said` have spoken, in the place of what the window had.

        Whether it was granted: it is where fewer than `each` others have answered or hold it, and always to who has
        answered it, or where `each` is None.
        """
        with self._lock:
            self._drop(window)
            others = {lease.annotator for lease in self._leases.values() if lease.question == question} | set(said)
            granted = each is None or annotator in said or len(others - {annotator}) < each
            if granted:
                self._leases[window] = Lease(annotator, question, self._now() + LASTS)
            return granted

    def give_back(self, window: str) -> None:
        with self._lock:
            self._drop(window)

    def held(self) -> dict[int, list[str]]:
        """The annotators that hold each question now."""
        with self._lock:
            self._drop()
            found: dict[int, set[str]] = {}
            for lease in self._leases.values():
                found.setdefault(lease.question, set()).add(lease.annotator)
        return {question: sorted(names) for question, names in found.items()}

    def _drop(self, window: str | None = None) -> None:
        """Drop the leases that have ended, and that of a window."""
        now = self._now()
        self._leases = {w: lease for w, lease in self._leases.items() if lease.until > now and w != window}
