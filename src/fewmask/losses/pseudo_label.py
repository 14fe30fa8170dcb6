"""Pseudo-labels: the most likely class of each pixel, its confidence, and its weight in a loss.

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


def carried_over(label: Tensor, other_label: Tensor, sure: Tensor, counterpart: Tensor) -> Tensor:
    """Labels of one domain's pixels in the classes of another domain. A pixel takes the prediction of the other
    domain's head where that head is confident and the predicted class is a counterpart of the pixel's label. Elsewhere
    the label is void.

    label (B,H,W) uint8 in 0 … C_i−1 or no class, other_label (B,H,W) uint8 in 0 … C_j−1, sure (B,H,W) bool, counterpart
    (C_i,C_j) bool → (B,H,W) uint8.
    """
    agreed = counterpart[label.long().clamp_max(len(counterpart) - 1), other_label.long()]
    return torch.where((label < NOT_LABELLED) & sure & agreed, other_label, VOID)


def sure_fraction(label: Tensor, confidence: Tensor, threshold: float) -> Tensor:
    """The fraction (B,) of each image's pixels whose confidence is at least the threshold. Void pixels of the label
    (B,H,W) do not count. An image with void pixels only has 0. confidence (B,H,W)."""
    valid = label != VOID
    return (valid & (confidence >= threshold)).sum((1, 2)) / valid.sum((1, 2)).clamp_min(1)


def pseudo_weight(label: Tensor, confidence: Tensor, answered: Tensor, threshold: float) -> Tensor:
    """The weight of each pixel (S4AL, WACV 2023): its confidence times `sure_fraction` of its image. The weight is 1
    where a person answered. label, confidence, answered (B,H,W) → (B,H,W) fp32."""
    fraction = sure_fraction(label, confidence, threshold)[:, None, None]
    return torch.where(answered, 1.0, confidence * fraction)


def ramp(step: int, begin: float, end: float) -> float:
    """0 up to `begin`, 1 from `end` on, linear between them (Lee, 2013, eq. 16, without α_f). It jumps at `end` if
    `begin` equals `end`."""
    if begin < step < end:
        return (step - begin) / (end - begin)
    return float(step >= end)
