"""Cross-entropy over the pixels that have a class, and nothing else.

Shapes: B images · C classes · H×W pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fewmask.labels import NOT_LABELLED, VOID


def cross_entropy(
    logits: Tensor,
    label: Tensor,
    pixels: Tensor | float | None = None,
    *,
    weight: Tensor | None = None,
    gamma: float = 0.0,
    epsilon: float = 0.0,
) -> Tensor:
    """Mean of w (1−p)^γ (−log p + ε (1−p)), p = p(label), over the pixels whose label is a class (254, 255 are not).

    logits (B,C,H,W), label (B,H,W) integer → scalar, in nats. γ makes it the focal loss (Lin et al., ICCV 2017, eq. 4).
    ε makes it Poly-1, with γ in its focal form (Leng et al., PolyLoss, ICLR 2022). weight w (B,H,W) is a factor of each
    pixel, e.g. the confidence of its pseudo-label. It does not change the number that the sum is divided by.

    `pixels` replaces the number of pixels that the sum is divided by: with the mean count over processes and
    micro-batches, averaging their losses gives exactly the loss of one global batch. A batch without labelled pixels
    gives 0 with a gradient of 0, never NaN.
    """
    target = label.long()
    # The kernel takes a single ignore value, and there are two. It raises for any other label that is no class.
    target = torch.where(target == NOT_LABELLED, VOID, target)
    labelled = target != VOID
    if weight is None and gamma == epsilon == 0:
        total = F.cross_entropy(logits.float(), target, ignore_index=VOID, reduction="sum")
    else:
        loss = F.cross_entropy(logits.float(), target, ignore_index=VOID, reduction="none")
        # 1 − p, exact where p is nearly 1. Zero would give an infinite slope to a power between 0 and 1.
        error = -torch.expm1(-loss)
        loss = error.clamp_min(torch.finfo(loss.dtype).tiny) ** gamma * (loss + epsilon * error)
        total = loss.sum() if weight is None else (torch.where(labelled, weight, 0.0) * loss).sum()
    count = labelled.sum() if pixels is None else pixels
    return total / torch.as_tensor(count, device=logits.device).clamp_min(1e-9 if pixels is not None else 1)
