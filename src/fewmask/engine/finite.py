"""The numbers of a step, and the check that none of them is NaN or infinite."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fewmask import distributed
from fewmask.data.batch import Batch
from fewmask.engine.progress import NonFiniteError


def check_finite(
    step: int, parts: Sequence[Mapping[str, Tensor]], norms: Mapping[str, Tensor], batches: Sequence[Batch]
) -> dict[str, float]:
    """The terms as numbers, averaged over micro-batches and processes. It is the only point of a step that waits for
    the device. `norms` are the norms of the gradients. Raises NonFiniteError."""
    names = list(parts[0])
    means = torch.stack([torch.stack([part[n] for part in parts]).mean() for n in names])
    means = distributed.all_reduce_sum(means) / distributed.world()
    numbers = torch.cat([means, torch.stack(list(norms.values()))]).tolist()
    values = dict(zip(names, numbers[: len(names)], strict=True))
    broken = [f"the term {n!r} is {v}" for n, v in values.items() if not math.isfinite(v)]
    if not broken:
        norm_values = zip(norms, numbers[len(names) :], strict=True)
        broken = [f"the gradient's norm is {v} in {n!r}" for n, v in norm_values if not math.isfinite(v)]
    if broken:
        files = "\n".join(f"  {name}" for batch in batches for name in batch.names)
        raise NonFiniteError(
            f"step {step}: {' and '.join(broken)}; nothing was updated. Lower the learning rate or the term's "
            f"weight, or try train.precision=fp32. The step's images:\n{files}"
        )
    return values
