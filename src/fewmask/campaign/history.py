"""What each round's labels cost and what they brought, and what more of them would bring."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fewmask.acquisition.budget import CostModel, Rate, Unit
from fewmask.acquisition.curve import Curve, fit
from fewmask.acquisition.regions import parse
from fewmask.config import CampaignSettings


@dataclass(frozen=True)
class Entry:
    """One round: the labels that it trained on, in all, and the scores on validation."""

    round: int
    cost: Mapping[str, float]
    """By domain, in the budget's unit."""
    pixels: Mapping[str, int]
    """By domain, labelled pixels."""
    miou: Mapping[str, float | None]
    """By domain; None where there is nothing to validate on."""
    seconds: float
    """Of its training."""
    look_seconds: float | None = None
    """Of the look at the pool before it, added up over processes; 0 without one, None if an older version looked."""

    @property
    def total(self) -> float:
        return sum(self.cost.values())

    @property
    def mean(self) -> float | None:
        known = [value for value in self.miou.values() if value is not None]
        return sum(known) / len(known) if known else None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"total_cost": self.total, "avg_miou": self.mean}


def unit_of(settings: CampaignSettings) -> Unit:
    """What labels are counted in: the budget's unit."""
    asked = settings.ask or settings.first
    return asked.budget.unit if asked else "pixels"


def cost_model(settings: CampaignSettings) -> CostModel:
    stated, own = CostModel(), settings.cost
    rates: dict[str, Rate] = {kind: Rate(rate.per_region, rate.per_pixel) for kind, rate in own.rates.items()}
    return CostModel({**stated.rates, **rates}, own.seconds_per_click or stated.seconds_per_click)


def cost_of_image(settings: CampaignSettings, pixels: int, size: int) -> float:
    """What the labels that an image of `size` pixels came with are counted as, `pixels` of them.

    By the cost model; in regions, of which it would be one like any small square, as many as cover its labels.
    """
    asked, unit = settings.ask or settings.first, unit_of(settings)
    if asked is None or unit != "regions":
        return float(cost_model(settings).cost("image", np.array([pixels]), unit)[0])
    spec = parse(asked.regions)
    return pixels / (spec.side**2 or size / (spec.count or 1))


def curve(points: Sequence[tuple[float, float | None]]) -> Curve | None:
    """The learning curve through (cost, mIoU); None while there are too few points, or labels that cost nothing."""
    known = [(cost, miou) for cost, miou in points if miou is not None and cost > 0]
    return fit([cost for cost, _ in known], [miou for _, miou in known]) if known else None


def forecast(history: Sequence[Entry], target: float | None) -> dict[str, Any] | None:
    """The curve over all domains as plain data, with the labels that the target needs beyond those there are.

    `needed` is (low, median, high), null where it is out of reach; None as long as nothing is known.
    """
    found = curve([(entry.total, entry.mean) for entry in history])
    if found is None:
        return None
    told: dict[str, Any] = {"a": found.a, "b": found.b, "c": found.c, "limit": list(found.limit()), "target": target}
    if target is not None:
        there = history[-1].total
        told["needed"] = [max(n - there, 0.0) if math.isfinite(n) else None for n in found.needed(target)]
    return told


def needs(history: Sequence[Entry], domains: Sequence[str], more: float) -> dict[str, float]:
    """How much each of the domains needs labels, with mean 1: the mIoU that its curve promises for `more` of them.

    While some curve is not known yet, what each domain lacks to a mIoU of 1; alike where nothing was validated.
    """
    points = {d: [(entry.cost[d], entry.miou[d]) for entry in history] for d in domains}
    curves = {d: curve(points[d]) for d in domains}
    last = {d: points[d][-1][1] if points[d] else None for d in domains}
    if all(curves.values()):
        gain = {d: found.gain(points[d][-1][0], more) for d, found in curves.items() if found is not None}
    elif all(miou is not None for miou in last.values()):
        gain = {d: 1 - miou for d, miou in last.items() if miou is not None}
    else:
        gain = {}
    mean = sum(gain.values()) / max(len(domains), 1)
    return {d: gain[d] / mean for d in domains} if mean > 0 else dict.fromkeys(domains, 1.0)
