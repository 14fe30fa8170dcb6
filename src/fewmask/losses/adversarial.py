"""What the players of a game are told of a discriminator's verdict.

Shapes: B images · C classes · H×W pixels.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from fewmask.labels import NOT_LABELLED
from fewmask.losses.entropy import masked_mean


def verdict_loss(verdict: Tensor, real: bool, mask: Tensor, pixels: Tensor | float | None = None) -> Tensor:
    """Mean over the mask of −log σ(v), or of −log(1 − σ(v)) where not `real`: binary cross-entropy with one target.

    verdict (B,H,W) logits of being real, mask (B,H,W) bool → scalar, in nats. `pixels` replaces the number of pixels
    that the sum is divided by; an empty mask gives 0 with a gradient of 0.
    """
    return masked_mean(F.softplus(-verdict.float() if real else verdict.float()), mask, pixels)


def one_hot(label: Tensor, classes: int) -> Tensor:
    """Labels (B,H,W) as maps (B,C,H,W) fp32; a pixel without a class is 0 in all of them."""
    known = label < NOT_LABELLED
    index = label.long().where(known, 0)
    return F.one_hot(index, classes).permute(0, 3, 1, 2).float() * known[:, None]
