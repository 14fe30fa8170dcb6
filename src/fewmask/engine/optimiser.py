"""The optimiser, with its own rate for the pretrained encoder and for the rest, and the schedules of the rate."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from fewmask.config import OptimiserSettings
from fewmask.data.batches import Phase


def build_optimiser(
    settings: OptimiserSettings, encoder: Sequence[nn.Parameter], rest: Sequence[nn.Parameter]
) -> Optimizer:
    """Two groups: the encoder at `lr`, everything else at `head_lr`. The rates of a step are set by `set_rate`."""
    groups = [{"params": list(encoder), "peak": settings.lr}, {"params": list(rest), "peak": settings.head_lr}]
    if settings.name == "sgd":
        return SGD(
            groups,
            lr=settings.lr,
            momentum=settings.momentum,
            nesterov=settings.nesterov and settings.momentum > 0,
            weight_decay=settings.weight_decay,
        )
    return AdamW(groups, lr=settings.lr, weight_decay=settings.weight_decay, fused=True)


def set_rate(optimiser: Optimizer, factor: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = group["peak"] * factor


def rate_factor(settings: OptimiserSettings, step: int, phases: Sequence[Phase]) -> float:
    """The rate of `step` as a fraction of the peak; the schedule runs over the phases up to the next `restart`."""
    start = max((p.start for p in phases if p.start <= step and (p.restart or p.start == 0)), default=0)
    stop = min((p.start for p in phases if p.start > step and p.restart), default=phases[-1].stop)
    done, total = step - start, stop - start
    warm = round(settings.warmup * total)
    if done < warm:
        return (done + 1) / warm
    rest = (done - warm) / max(total - warm, 1)
    if settings.schedule == "poly":
        return (1 - rest) ** settings.power
    if settings.schedule == "cosine":
        return (1 + math.cos(math.pi * rest)) / 2
    return 1.0
