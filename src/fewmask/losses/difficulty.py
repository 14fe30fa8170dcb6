"""The loss of a difficulty branch, which predicts where the network is wrong (DEAL, Xie et al., ACCV 2020).

Shapes: B images · C classes · H×W pixels.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from fewmask.labels import NOT_LABELLED
from fewmask.losses.entropy import masked_mean


def difficulty_loss(
    difficulty: Tensor,
    logits: Tensor,
    label: Tensor,
    pixels: Tensor | float | None = None,
    *,
    weight: Tensor | None = None,
) -> Tensor:
    """Mean binary cross-entropy of the error mask, 1 where argmax(logits) ≠ label, over the pixels that have a class.

    difficulty (B,1,H,W) logits of being wrong, logits (B,C,H,W), label (B,H,W) integer → scalar, in nats. Its gradient
    reaches the difficulty alone. `weight` (B,1,1) or (B,H,W) is a factor of each pixel. `pixels` replaces the number of
    pixels that the sum is divided by. Without a labelled pixel the loss is 0.
    """
    misclassified = logits.detach().argmax(1) != label
    loss = F.binary_cross_entropy_with_logits(difficulty[:, 0].float(), misclassified.float(), reduction="none")
    return masked_mean(loss if weight is None else weight * loss, label < NOT_LABELLED, pixels)
