"""Chooses the image of each row: the stocks to draw from, their turns, and the order of an epoch."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from fewmask.data.domain import Domain
from fewmask.randomness import generator


def stocks_of(domain: Domain, whole: bool | None) -> list[tuple[str, ...]]:
    """The stocks of images to draw from. If there are two, the second holds the images with a few answered regions.
    `whole` None is the pool. If every image of train is labelled, the pool holds all of them."""
    if whole is None:
        return [domain.unlabelled or domain.splits["train"]]
    answered = tuple(s for s in domain.labelled if s in domain.partial)
    stocks = [domain.whole] if whole and domain.whole else [domain.whole, answered]
    return [stock for stock in stocks if stock]


# Of the rows of a domain with wholly labelled images and images with a few answers; see `answered_share`.
LEAST_ANSWERED = 0.2


def answered_share(domain: Domain) -> float:
    """The share of the labelled rows that shows images with a few answered regions, beside wholly labelled images.

    It is their share of all labelled pixels, so an image with a labelled fraction of a tenth is drawn a tenth as often.
    There are often ten times as many of them. With equal shares they would fill the rows with unlabelled pixels. With
    `Batch.pixel_weight` every labelled pixel has the same weight. The share is at least a fifth, since otherwise a few
    points would hardly ever be drawn beside masks. It is at most their share of all images.
    """
    whole, answered = len(domain.whole), len(domain.labelled) - len(domain.whole)
    labelled = sum(domain.partial[s] for s in domain.labelled if s in domain.partial)
    if not answered:
        return 0.0
    return min(max(labelled / (labelled + whole), LEAST_ANSWERED), answered / (answered + whole))


def turn_of(number: int, share: float) -> tuple[int, int]:
    """The stock, 0 or 1, of row `number`, and how many earlier rows drew from it. An evenly spread `share` of the rows
    draws from stock 1."""
    visits = int(number * share)
    return (1, visits) if int((number + 1) * share) > visits else (0, number - visits)


@lru_cache(maxsize=64)
def order_of(seed: int, stream: int, epoch: int, count: int) -> np.ndarray:
    return generator(seed, "order", step=epoch, row=stream).permutation(count)
