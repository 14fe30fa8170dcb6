"""What `method: auto` takes, in one table. It follows results/few-masks.json; for several domains, compare-half.json.

A method that looks at the pool stands here once it was shown to be above labels alone: paired by seed, with an interval
above 0. No other one is taken, however well it does elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Choice:
    """A method with its settings, for data of this kind, and why it is taken."""

    method: Mapping[str, Any]
    why: str
    domains: tuple[int, int | None] = (1, None)
    """From so many domains to so many; None: any number."""
    masks: tuple[int, int | None] = (0, None)
    """From so many labelled images, in the mean of the domains, to so many."""
    pool: int = 0
    """At least so many unlabelled images for each labelled one."""

    def fits(self, domains: int, masks: float, pool: float) -> bool:
        return _within(domains, self.domains) and _within(masks, self.masks) and pool >= self.pool


CHOICES = (
    Choice(
        method={"name": "supervised"},
        why="of one domain no method that looks at the pool is shown to be above labels alone",
        domains=(1, 1),
    ),
    Choice(
        method={"name": "joint"},
        why="of several domains no method that looks at the pool is shown to be above labels alone",
        domains=(2, None),
    ),
)
"""The first one that fits is taken; the last ones fit all data."""


def choose(domains: int, masks: float, pool: float) -> Choice:
    """For so many domains, labelled images a domain, and unlabelled images a labelled one."""
    return next(choice for choice in CHOICES if choice.fits(domains, masks, pool))


def _within(value: float, ends: tuple[int, int | None]) -> bool:
    return ends[0] <= value and (ends[1] is None or value <= ends[1])
