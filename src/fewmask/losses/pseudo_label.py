"""What a network's answer is worth as a label: the most likely class, how sure it is, and how much it counts.

Shapes: B images · C classes · H×W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fewmask.labels import NOT_LABELLED, VOID


@torch.no_grad()
def pseudo_label(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The most likely class (B,H,W) uint8 and its softmax probability (B,H,W) fp32 of logits (B,C,H,W)."""
    confidence, label = logits.float().softmax(1).max(1)
    return label.to(torch.uint8), confidence


def carried_over(label: Tensor, theirs: Tensor, sure: Tensor, counterpart: Tensor) -> Tensor:
    """What pixels of one domain are in another domain's classes: what that domain's head says of them, where it is sure
    and its class is the counterpart of the pixel's own label. Elsewhere it is unknown, and void.

    label (B,H,W) uint8 in 0 … C_i−1 or not known, theirs (B,H,W) uint8 in 0 … C_j−1, sure (B,H,W) bool, counterpart
    (C_i,C_j) bool → (B,H,W) uint8.
    """
    agreed = counterpart[label.long().clamp_max(len(counterpart) - 1), theirs.long()]
    return torch.where((label < NOT_LABELLED) & sure & agreed, theirs, VOID)


def sure_fraction(label: Tensor, confidence: Tensor, threshold: float) -> Tensor:
    """(B,) of each image the part of its pixels whose confidence is at least the threshold. Void pixels of the label
    (B,H,W) do not count; an image that is void throughout has 0. confidence (B,H,W)."""
    valid = label != VOID
    return (valid & (confidence >= threshold)).sum((1, 2)) / valid.sum((1, 2)).clamp_min(1)


def pseudo_weight(label: Tensor, confidence: Tensor, answered: Tensor, threshold: float) -> Tensor:
    """How much each pixel counts (S4AL, WACV 2023): its confidence times `sure_fraction` of its image, and 1 where a
    person answered. label, confidence, answered (B,H,W) → (B,H,W) fp32."""
    fraction = sure_fraction(label, confidence, threshold)[:, None, None]
    return torch.where(answered, 1.0, confidence * fraction)


def ramp(step: int, begin: float, end: float) -> float:
    """0 up to `begin`, 1 from `end` on, linear between; a jump where they are one (Lee, 2013, eq. 16, without α_f)."""
    if begin < step < end:
        return (step - begin) / (end - begin)
    return float(step >= end)
