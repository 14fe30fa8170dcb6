"""The cost of a question, and the budget of a round.

Shapes: N candidates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import numpy as np

from fewmask.plurals import agreeing, count

Unit = Literal["pixels", "regions", "clicks", "seconds"]
Per = Literal["pool", "image"]


def counted(amount: float, unit: str) -> str:
    """`200 regions`, and `1 region`."""
    return count(round(amount), unit.removesuffix("s"), unit)


def buys_nothing(amount: float, unit: str, each: str = "") -> str:
    """`1 region buys no question`, and `2 regions buy no question`."""
    return f"{count(amount, unit.removesuffix('s'), unit)}{each} {agreeing(amount, 'buys', 'buy')} no question"


@dataclass(frozen=True)
class Budget:
    """`amount` of `unit` for one round: once for the whole pool, or for every image of it. 0 asks for nothing."""

    amount: float
    unit: Unit = "pixels"
    per: Per = "pool"

    def __post_init__(self) -> None:
        if not 0 <= self.amount < math.inf:
            raise ValueError(f"a budget of {self.amount} {self.unit}; give a number, 0 or more")
        if self.unit not in get_args(Unit):
            raise ValueError(f"a budget in {self.unit!r}; choose one of {', '.join(get_args(Unit))}")
        if self.per not in get_args(Per):
            raise ValueError(f"a budget per {self.per!r}; choose one of {', '.join(get_args(Per))}")


@dataclass(frozen=True)
class Rate:
    """Clicks that one kind of region takes."""

    per_region: float = 1.0
    per_pixel: float = 0.0


# A Cityscapes image of 1024×2048 took more than 1.5 hours on average (Cordts et al., CVPR 2016). An image that is
# annotated at another size has another rate: outlines grow with the length, pixels with the area.
SECONDS_PER_PIXEL = 5400 / (1024 * 2048)
# What's the Point (Bearman et al., ECCV 2016): the first point on an object of a class.
SECONDS_PER_CLICK = 2.4

OUTLINED = Rate(per_region=1.0, per_pixel=SECONDS_PER_PIXEL / SECONDS_PER_CLICK)
RATES: Mapping[str, Rate] = {
    "points": Rate(),
    "superpixels": Rate(),  # one click names the dominant class: Cai et al., CVPR 2021
    "squares": OUTLINED,  # an assumption: one click to name it, and outlines as dense as those of Cityscapes
    "image": OUTLINED,
}


@dataclass(frozen=True)
class CostModel:
    """Clicks of a region = `per_region` + `per_pixel` · its open pixels, seconds = clicks · `seconds_per_click`.

    These costs are estimates. The ledger holds the time that an answer really took, from which the rates can be set.
    """

    rates: Mapping[str, Rate] = field(default_factory=lambda: RATES)
    seconds_per_click: float = SECONDS_PER_CLICK

    def times(self, people: int) -> CostModel:
        """The model for questions that so many people answer each: clicks and seconds add up, pixels and regions do
        not."""
        rates = {kind: Rate(people * rate.per_region, people * rate.per_pixel) for kind, rate in self.rates.items()}
        return replace(self, rates=rates)

    def cost(self, kind: str, pixels: np.ndarray, unit: Unit) -> np.ndarray:
        """Cost (N,) float64 in `unit` of regions of one kind ("squares", …) with so many open pixels (N,).

        Raises ValueError for a kind without a rate.
        """
        if kind not in self.rates:
            raise ValueError(f"no rate for {kind!r}; there are rates for {', '.join(self.rates)}")
        size = np.asarray(pixels, dtype=np.float64)
        if unit == "pixels":
            return size.copy()
        if unit == "regions":
            return np.ones_like(size)
        clicks = self.rates[kind].per_region + self.rates[kind].per_pixel * size
        return clicks if unit == "clicks" else clicks * self.seconds_per_click
