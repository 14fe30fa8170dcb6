"""Loss terms that are computed from a discriminator's output.

Shapes: B images · C classes · H×W pixels.
"""

from __future__ import annotations

import torch
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
    has_class = label < NOT_LABELLED
    index = label.long().where(has_class, 0)
    return F.one_hot(index, classes).permute(0, 3, 1, 2).float() * has_class[:, None]


def with_fake(logits: Tensor) -> Tensor:
    """Logits (B,C,H,W) of the classes → (B,C+1,H,W) of the classes and of "fake". The logit of "fake" is 0 everywhere:
    a softmax is unchanged by a common shift, so one logit may be fixed (Salimans et al., NIPS 2016, §5)."""
    return F.pad(logits, (0, 0, 0, 0, 0, 1))


def surprise_if_real(logits: Tensor, possible: Tensor | None = None) -> Tensor:
    """−log P(y ∈ A | x) (B,H,W) in nats of the softmax of `with_fake`. A is the set of all classes, or of the classes
    that are `possible` (B,C) bool in the image. logits (B,C,H,W)."""
    logits = logits.float()
    inside = logits if possible is None else logits.masked_fill(~possible[:, :, None, None], -torch.inf)
    return surprise_if_fake(logits) - inside.logsumexp(1)


def surprise_if_fake(logits: Tensor) -> Tensor:
    """−log P(fake | x) (B,H,W) in nats of the softmax of `with_fake`. logits (B,C,H,W)."""
    return F.softplus(logits.float().logsumexp(1))
