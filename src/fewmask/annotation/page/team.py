"""Who is where, and who has done how much."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from threading import Lock

from fewmask.annotation.questions import Work


@dataclass(frozen=True)
class Member:
    """One annotator, as the team sees them."""

    name: str
    answered: int
    skipped: int
    seconds: float
    """The time of all their work."""
    questions: tuple[int, ...]
    """The ids of the questions that their windows show now."""
    seen: str | None
    """When a page of theirs last asked for something, or else when they answered last (UTC); None for never."""


class Presence:
    """When the page of each annotator last asked for something. Threads may call it at once."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._seen: dict[str, str] = {}

    def see(self, name: str) -> None:
        with self._lock:
            self._seen[name] = datetime.now(UTC).isoformat(timespec="seconds")

    def team(
        self, people: Collection[str], work: Mapping[str, Work], held: Mapping[int, Collection[str]]
    ) -> list[Member]:
        """All annotators by name: those of links (`people`), those who have worked, and those who look at a question
        of `held`."""
        with self._lock:
            seen = dict(self._seen)
        at: dict[str, tuple[int, ...]] = {}
        for question, holders in held.items():
            at |= {name: (*at.get(name, ()), question) for name in holders}
        nothing = Work(0, 0, 0.0, 0.0, None)
        return [
            Member(
                name,
                (done := work.get(name, nothing)).answered,
                done.skipped,
                done.seconds,
                at.get(name, ()),
                seen.get(name, done.last),
            )
            for name in sorted({*people, *work, *at, *seen})
        ]
