"""The soft Dice loss: one minus the overlap of prediction and label, class by class in each image.

Shapes: B images · C classes · H×W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fewmask.labels import NOT_LABELLED


def dice_loss(
    logits: Tensor, label: Tensor, pixels: Tensor | float | None = None, *, weight: Tensor | None = None
) -> Tensor:
    """Mean over the labelled pixels of 1 − D, where D is the soft Dice coefficient of the pixel's image (Milletari et
    al., V-Net, 3DV 2016).

    D is the mean of 2 Σ w y p / (Σ w y + Σ w p) over the classes that occur in the image's label. The sums run over its
    labelled pixels (254 and 255 are not labelled), p is the softmax of the logits, y is 1 where the label is the class,
    and w is the weight. V-Net has p² in place of p in the denominator.

    logits (B,C,H,W), label (B,H,W) integer, weight (B,H,W) or (B,1,1), 1 by default → scalar from 0 to 1. The average
    over pixels gives an image as much weight as it has labelled pixels. `pixels` is that of `cross_entropy`.
    """
    labelled = label < NOT_LABELLED
    w = labelled.float() if weight is None else torch.where(labelled, weight.float(), 0.0)
    p = logits.float().softmax(1)
    target = torch.where(labelled, label.long(), 0)
    none = p.new_zeros(p.shape[:2])
    overlap = none.scatter_add(1, target.flatten(1), (w * p.gather(1, target[:, None])[:, 0]).flatten(1))
    of_label = none.scatter_add(1, target.flatten(1), w.flatten(1))
    of_prediction = (w[:, None] * p).sum((2, 3))
    present = of_label > 0
    # Only classes that are not present are divided by something else than their two sums.
    coefficient = 2 * overlap / torch.where(present, of_label + of_prediction, 1.0)
    mean = (present * coefficient).sum(1) / present.sum(1).clamp_min(1)
    count = labelled.sum() if pixels is None else pixels
    total = (w.sum((1, 2)) * (1 - mean)).sum()
    return total / torch.as_tensor(count, device=logits.device).clamp_min(1e-9 if pixels is not None else 1)
