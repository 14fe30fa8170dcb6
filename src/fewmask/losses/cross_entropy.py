"""Cross-entropy over the pixels that have a class, and nothing else.

Shapes: B images · C classes · H×W pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fewmask.labels import NOT_LABELLED, VOID


def cross_entropy(logits: Tensor, label: Tensor, pixels: Tensor | float | None = None) -> Tensor:
    """Mean of −log p(label) over the pixels whose label is a class (254 and 255 are not).

    logits (B,C,H,W), label (B,H,W) integer → scalar, in nats. `pixels` replaces the number of pixels that the sum is
    divided by: with the mean count over processes and micro-batches, averaging their losses gives exactly the loss of
    one global batch. A batch without labelled pixels gives 0 with a gradient of 0, never NaN.
    """
    target = label.long()
    # One ignore value is all that the kernel knows; ours are two. Any other label that is no class is an error there.
    target = torch.where(target == NOT_LABELLED, VOID, target)
    total = F.cross_entropy(logits.float(), target, ignore_index=VOID, reduction="sum")
    count = (target != VOID).sum() if pixels is None else pixels
    return total / torch.as_tensor(count, device=logits.device).clamp_min(1e-9 if pixels is not None else 1)
