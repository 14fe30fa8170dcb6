"""Reports the progress of a pass over the pool."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from fewmask.engine.device import memory_mib
from fewmask.engine.evaluation import Progress
from fewmask.engine.progress import ProgressEvent


def pool_progress(report: Callable[[ProgressEvent], None], domain: str, stage: str, device: torch.device) -> Progress:
    """A callback that reports the progress of the pass over a domain's pool.

    The pace is measured from the first images of this call, because earlier images may have been scored before a stop.
    """
    first: tuple[int, float] | None = None

    def progress(done: int, total: int) -> None:
        nonlocal first
        now = time.monotonic()
        first = first or (done, now)
        rate = (done - first[0]) / (now - first[1]) if done > first[0] else 0.0
        report(ProgressEvent(domain, stage, done, total, {}, rate, memory_mib(device)))

    return progress
