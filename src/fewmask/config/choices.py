"""The table of the methods and settings that `method: auto` chooses. Methods follow results/few-masks.json, and for
several domains compare-half.json. Settings of the training follow base-recipe-400.json.

The table holds a method that learns from the pool only if that method was shown to be better than labels alone: paired
by seed, with an interval above 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Choice:
    """A method with its settings, the kind of data that it is for, and the reason of the choice."""

    method: Mapping[str, Any]
    why: str
    domains: tuple[int, int | None] = (1, None)
    """The least and the largest number of domains; None: any number."""
    masks: tuple[int, int | None] = (0, None)
    """The least and the largest number of labelled images, in the mean of the domains."""
    pool: int = 0
    """The least number of unlabelled images for each labelled one."""
    train: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Settings of the training that go with the method, unless the configuration gives others."""
    why_train: str = ""
    """The reason for these settings."""

    def fits(self, domains: int, masks: float, pool: float) -> bool:
        return _within(domains, self.domains) and _within(masks, self.masks) and pool >= self.pool


BASE = {"class_weights": {"exponent": 0.5}, "average": {"lag": 0.02}}
"""Row `weights-50` of experiments/base-recipe.yaml."""
WHY_BASE = "with 30 masks they gain 4 points of test mIoU on CamVid, 1 on LabelMeFacade, and nothing on MSRC-v2"

CHOICES = (
    Choice(
        method={"name": "supervised"},
        why="for one domain no method that learns from the pool was shown to be better than labels alone",
        domains=(1, 1),
        train=BASE,
        why_train=WHY_BASE,
    ),
    Choice(
        method={"name": "joint"},
        why="for several domains no method that learns from the pool was shown to be better than labels alone",
        domains=(2, None),
        train=BASE,
        why_train=WHY_BASE,
    ),
)
"""The first choice that fits is taken. The last choices fit all data."""


def choose_method(domains: int, masks: float, pool: float) -> Choice:
    """The choice for a number of domains, of labelled images a domain, and of unlabelled images a labelled one."""
    return next(choice for choice in CHOICES if choice.fits(domains, masks, pool))


def _within(value: float, ends: tuple[int, int | None]) -> bool:
    return ends[0] <= value and (ends[1] is None or value <= ends[1])
