"""The cost of each round's labels and the mIoU that they brought, and the mIoU that more labels would bring."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from fewmask.acquisition.budget import CostModel, Rate, Unit
from fewmask.acquisition.curve import Curve, fit
from fewmask.acquisition.regions import parse_regions
from fewmask.config import CampaignSettings
from fewmask.data.domain import Domain
from fewmask.runs import Entry


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
    spec = parse_regions(asked.regions)
    return pixels / (spec.side**2 or size / (spec.count or 1))


def curve(points: Sequence[tuple[float, float | None]]) -> Curve | None:
    """The learning curve through (cost, mIoU); None while there are too few points, or labels that cost nothing."""
    known = [(cost, miou) for cost, miou in points if miou is not None and cost > 0]
    return fit([cost for cost, _ in known], [miou for _, miou in known]) if known else None


def pool_cost(settings: CampaignSettings, domains: Iterable[Domain]) -> float | None:
    """About how many labels there can be in train, from the size of each domain's first image; None in a unit that
    counts no area."""
    if unit_of(settings) not in ("pixels", "regions"):
        return None
    sizes = [(len(d.splits["train"]), d.image(d.splits["train"][0])[..., 0].size) for d in domains]
    return sum(images * cost_of_image(settings, size, size) for images, size in sizes)


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
