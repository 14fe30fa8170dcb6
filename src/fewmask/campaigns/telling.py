"""How far a look at the pool is, told as it goes on."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from fewmask.engine.device import memory_mib
from fewmask.engine.evaluation import Progress
from fewmask.engine.moments import Moment


def looking(hear: Callable[[Moment], None], domain: str, stage: str, device: torch.device) -> Progress:
    """Tells how far the look at a domain's pool is. The pace is that since the first images: what is done then may have
    been done before a stop."""
    first: tuple[int, float] | None = None

    def progress(done: int, total: int) -> None:
        nonlocal first
        now = time.monotonic()
        first = first or (done, now)
        rate = (done - first[0]) / (now - first[1]) if done > first[0] else 0.0
        hear(Moment(domain, stage, done, total, {}, rate, memory_mib(device)))

    return progress
