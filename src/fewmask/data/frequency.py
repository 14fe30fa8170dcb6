"""Weights of the labelled pixels of each class, from the frequencies of the classes.

Shapes: C classes · H×W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from fewmask.config import ClassWeightSettings
from fewmask.data.domain import Domain


def class_weights(domains: Mapping[str, Domain], settings: ClassWeightSettings) -> dict[int, Tensor]:
    """Class weights (C,) float32 by position of the domain. Domains without a labelled pixel are left out. With an
    exponent of 0 every weight is 1, so all domains are left out and no mask is read."""
    if settings.exponent == 0:
        return {}
    counts = {k: class_pixels(domain) for k, domain in enumerate(domains.values())}
    return {k: torch.from_numpy(weights_of(n, settings)).float() for k, n in counts.items() if n.any()}


def class_pixels(domain: Domain) -> np.ndarray:
    """Labelled pixels of each class (C,) int64 in the masks that training uses."""
    masks = (domain.mask(stem) for stem in domain.labelled)
    return sum((np.bincount(mask.ravel(), minlength=256) for mask in masks), np.zeros(256, np.int64))[
        : domain.space.num_classes
    ]


def weights_of(counts: np.ndarray, settings: ClassWeightSettings) -> np.ndarray:
    """Σ f w = 1 and w = min(s f^−exponent, cap) for frequencies f = n/Σn of the counts n (C,) → (C,) float64.

    A class without a pixel has weight 1.
    """
    weights = np.ones(len(counts))
    present = counts > 0
    share = counts[present] / counts.sum()
    raw = share**-settings.exponent
    capped = np.zeros(len(share), bool)
    # s grows with every class that is capped, so that none leaves the cap again.
    while True:
        rest = share * ~capped
        scale = (1 - settings.cap * share[capped].sum()) / (rest @ raw)
        over = capped | (scale * raw > settings.cap)
        if (over == capped).all():
            break
        capped = over
    weights[present] = np.where(capped, settings.cap, scale * raw)
    return weights
