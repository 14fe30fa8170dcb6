"""Batch normalisation over the images of all processes, so that two processes see what one would.

torch has this for GPUs alone; on CPUs (gloo) the statistics are summed here.

Shapes: B images of this process · C channels · H×W pixels.
"""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.distributed as dist
from timm.layers.norm_act import BatchNormAct2d, convert_sync_batchnorm
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce

Module = TypeVar("Module", bound=nn.Module)


def synchronise(model: Module) -> Module:
    """Make every batch normalisation of the model one over all processes; alone, the model stays as it is."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return model
    if torch.cuda.is_available():
        return convert_sync_batchnorm(model)
    for module in model.modules():
        if type(module) in _SYNCHRONISED:
            module.__class__ = _SYNCHRONISED[type(module)]
    return model


class _Synchronised(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return _normalise(self, x) if self.training else super().forward(x)


class _SynchronisedAct(BatchNormAct2d):
    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(_normalise(self, x))) if self.training else super().forward(x)


_SYNCHRONISED: dict[type, type] = {nn.BatchNorm2d: _Synchronised, BatchNormAct2d: _SynchronisedAct}


def _normalise(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """Training-mode batch normalisation of (B,C,H,W) with the statistics of all processes; moves the running ones."""
    values = x.float()
    sums = torch.cat(
        [values.sum((0, 2, 3)), (values * values).sum((0, 2, 3)), values.new_tensor([values[:, 0].numel()])]
    )
    sums = all_reduce(sums)
    count = sums[-1].detach()
    mean, square = (sums[:-1] / count).chunk(2)
    variance = square - mean * mean
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    with torch.no_grad():
        norm.num_batches_tracked += 1
        momentum = norm.momentum if norm.momentum is not None else 1 / float(norm.num_batches_tracked)
        norm.running_mean.lerp_(mean, momentum)
        norm.running_var.lerp_(variance * count / (count - 1), momentum)
    scale = torch.rsqrt(variance + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight
    shift = (norm.bias if norm.bias is not None else 0) - mean * scale
    return (values * scale[:, None, None] + shift[:, None, None]).to(x.dtype)
