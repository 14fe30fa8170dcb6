"""Shannon entropy of a softmax.

Shapes: B images · C classes · h×w cells.
"""

from __future__ import annotations

import torch
from torch import Tensor


def entropy(logits: Tensor, dim: int = 1) -> Tensor:
    """H(softmax(logits)) along `dim`, in nats: 0 ≤ H ≤ log C, finite with a finite gradient at any finite logits.

    Where p underflows, log p stays finite in log-softmax, so p·log p is 0 instead of NaN. Computed in fp32.
    """
    log_p = torch.log_softmax(logits.float(), dim)
    return -(log_p.exp() * log_p).sum(dim)


def masked_mean(values: Tensor, mask: Tensor, count: Tensor | float | None = None) -> Tensor:
    """Mean of `values` where `mask`, both of one shape; `count` replaces the number of cells divided by.

    An empty mask gives 0 with a gradient of 0.
    """
    total = torch.where(mask, values, 0.0).sum()
    if count is None:
        return total / mask.sum().clamp_min(1)
    return total / torch.as_tensor(count, device=values.device).clamp_min(1e-9)
