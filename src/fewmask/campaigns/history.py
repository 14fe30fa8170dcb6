"""The cost of each round's labels and the mIoU that they brought, and the mIoU that more labels would bring."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from fewmask.acquisition.budget import CostModel, Rate, Unit
from fewmask.acquisition.curve import Curve, fit_curve
from fewmask.acquisition.regions import parse_regions
from fewmask.config import CampaignSettings
from fewmask.data.domain import Domain
from fewmask.runs import Entry


def unit_of(settings: CampaignSettings) -> Unit:
    """The unit in which labels are counted: the budget's."""
    ask = settings.ask or settings.first
    return ask.budget.unit if ask else "pixels"


def cost_model(settings: CampaignSettings) -> CostModel:
    defaults, cost = CostModel(), settings.cost
    rates: dict[str, Rate] = {kind: Rate(rate.per_region, rate.per_pixel) for kind, rate in cost.rates.items()}
    return CostModel({**defaults.rates, **rates}, cost.seconds_per_click or defaults.seconds_per_click)


def cost_of_image(settings: CampaignSettings, pixels: int, size: int) -> float:
    """The cost of the `pixels` labelled pixels that an image of `size` pixels came with.

    The cost follows the cost model. In regions, it is the number of regions that cover the labels: an image would
    otherwise count as one region, like a small square.
    """
    ask, unit = settings.ask or settings.first, unit_of(settings)
    if ask is None or unit != "regions":
        return float(cost_model(settings).cost("image", np.array([pixels]), unit)[0])
    spec = parse_regions(ask.regions)
    return pixels / (spec.side**2 or size / (spec.count or 1))


def curve(points: Sequence[tuple[float, float | None]]) -> Curve | None:
    """The learning curve through (cost, mIoU); None while there are too few points whose labels cost something."""
    validated = [(cost, miou) for cost, miou in points if miou is not None and cost > 0]
    return fit_curve([cost for cost, _ in validated], [miou for _, miou in validated]) if validated else None


def pool_cost(settings: CampaignSettings, domains: Iterable[Domain]) -> float | None:
    """The approximate cost of labelling all of train, from the size of each domain's first image.

    None in a unit that does not count area.
    """
    if unit_of(settings) not in ("pixels", "regions"):
        return None
    sizes = [(len(d.splits["train"]), d.image(d.splits["train"][0])[..., 0].size) for d in domains]
    return sum(images * cost_of_image(settings, size, size) for images, size in sizes)


def needs(history: Sequence[Entry], domains: Sequence[str], more: float) -> dict[str, float]:
    """The need of each domain for labels, with mean 1: the mIoU that its curve promises for `more` labels.

    While a domain has no curve yet, the need is 1 − mIoU. All needs are equal where nothing was validated.
    """
    points = {d: [(entry.cost[d], entry.miou[d]) for entry in history] for d in domains}
    curves = {d: curve(points[d]) for d in domains}
    last = {d: points[d][-1][1] if points[d] else None for d in domains}
    if all(curves.values()):
        gain = {d: fitted.gain(points[d][-1][0], more) for d, fitted in curves.items() if fitted is not None}
    elif all(miou is not None for miou in last.values()):
        gain = {d: 1 - miou for d, miou in last.items() if miou is not None}
    else:
        gain = {}
    mean = sum(gain.values()) / max(len(domains), 1)
    return {d: gain[d] / mean for d in domains} if mean > 0 else dict.fromkeys(domains, 1.0)
