"""The losses of an image translator: adversarial, cycle consistency and semantic consistency.

Zhu et al. (CycleGAN), ICCV 2017, §3; Mao et al. (LSGAN), ICCV 2017; Hoffman et al. (CyCADA), ICML 2018, §3.

Shapes: B images of 0–255 · C classes · H×W pixels. Masks (B,H,W) are bool; `pixels` replaces the number of the mask's
pixels that a sum is divided by, see `losses.entropy.masked_mean`. An empty mask gives 0 with a gradient of 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fewmask.labels import VOID
from fewmask.losses.cross_entropy import cross_entropy
from fewmask.losses.entropy import masked_mean


def least_squares(verdict: Tensor, real: bool, mask: Tensor, pixels: Tensor | float | None = None) -> Tensor:
    """Mean over the mask of (v − 1)², or of v² where not `real` (LSGAN, eq. 2 and 9, with 0, 1, 1 for a, b, c).

    verdict (B,H,W) → scalar.
    """
    return masked_mean((verdict.float() - float(real)).square(), mask, pixels)


def image_distance(first: Tensor, second: Tensor, mask: Tensor, pixels: Tensor | float | None = None) -> Tensor:
    """Mean over the mask and the channels of |first − second|, where 0–255 are −1…1 (CycleGAN, eq. 2 and §5.2).

    first, second (B,3,H,W) → scalar.
    """
    return masked_mean((first.float() - second.float()).abs().mean(1) / 127.5, mask, pixels)


def semantic_consistency(
    translated: Tensor, original: Tensor, mask: Tensor, pixels: Tensor | float | None = None
) -> Tensor:
    """Mean over the mask of −log p_translated(argmax p_original) (CyCADA, eq. 4): the network should predict the same
    classes for an image and for its translation.

    logits (B,C,H,W) → scalar, in nats. No gradient reaches `original`.
    """
    original_class = torch.where(mask, original.detach().argmax(1), VOID)
    return cross_entropy(translated, original_class, mask.sum() if pixels is None else pixels)
