"""Divergences between the softmaxes of two networks, for each pixel, in nats.

They are computed from log-probabilities in fp32, which stay finite where probabilities underflow.

Shapes: B images · C classes · H×W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def log_mean_softmax(logits: Sequence[Tensor], temperature: float = 1.0) -> Tensor:
    """log of the mean over networks of softmax(logits / T); each (B,C,H,W) → (B,C,H,W)."""
    log_p = torch.stack([torch.log_softmax(z.float() / temperature, 1) for z in logits])
    return log_p.logsumexp(0) - math.log(len(logits))


def kl_divergence(log_p: Tensor, logits: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(p ‖ softmax(logits / T)) of log-probabilities and logits (B,C,H,W) → (B,H,W): 0 where they are equal."""
    log_q = torch.log_softmax(logits.float() / temperature, 1)
    return (log_p.exp() * (log_p - log_q)).sum(1)


def js_divergence(first: Tensor, second: Tensor) -> Tensor:
    """½ KL(p ‖ m) + ½ KL(q ‖ m), m = (p + q)/2, of the softmaxes of two logits (B,C,H,W) → (B,H,W), at most log 2
    (Lin, IEEE Trans. Information Theory, 1991)."""
    log_mean = log_mean_softmax([first, second])
    log_ps = [torch.log_softmax(z.float(), 1) for z in (first, second)]
    return torch.stack([(log_p.exp() * (log_p - log_mean)).sum(1) for log_p in log_ps]).mean(0)
