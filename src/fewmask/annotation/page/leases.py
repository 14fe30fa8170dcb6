"""Leases questions, so that two annotators do not paint the same question, one of them in vain.

A lease is no lock: every answer is kept, with a lease or without. Leases are in memory alone, and an open page renews
its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from threading import Lock

LASTS = 60.0
"""The seconds that a lease lasts without renewal. An open page renews its lease every three seconds."""


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

    def take(self, window: str, annotator: str, question: int, answerers: Collection[str], each: int | None) -> bool:
        """Lease a question, which `answerers` have answered, in the place of the window's former lease.

        Returns whether it was granted. It is granted where fewer than `each` others have answered or hold it, where
        `each` is None, and to everybody who has answered it.
        """
        with self._lock:
            self._drop(window)
            holders = {lease.annotator for lease in self._leases.values() if lease.question == question}
            holders |= set(answerers)
            granted = each is None or annotator in answerers or len(holders - {annotator}) < each
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
            names_by_question: dict[int, set[str]] = {}
            for lease in self._leases.values():
                names_by_question.setdefault(lease.question, set()).add(lease.annotator)
        return {question: sorted(names) for question, names in names_by_question.items()}

    def _drop(self, window: str | None = None) -> None:
        """Drop the leases that have ended, and the lease of a window."""
        now = self._now()
        self._leases = {w: lease for w, lease in self._leases.items() if lease.until > now and w != window}
