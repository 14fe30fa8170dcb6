"""A small branch beside the heads, which a method trains on F's features.

Shapes: B images · C feature channels · D hidden channels · O channels out · h×w feature cells.
"""

from __future__ import annotations

import torch
from torch import nn

from fewmask.models.weights import with_drawn_weights


def branch(channels: int, hidden: int, out: int, kernel: int, rng: torch.Generator) -> nn.Sequential:
    """conv k×k (C→D), BN, ReLU, conv 1×1 (D→O): features (B,C,h,w) → (B,O,h,w), for an odd k.

    It is on the generator's device. The weights are drawn as torch would draw them, and biases are 0.
    """
    return with_drawn_weights(
        lambda: nn.Sequential(
            nn.Conv2d(channels, hidden, kernel, padding=kernel // 2, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, out, 1),
        ),
        rng,
    )
