"""Batch normalisation over the images of all processes, so that the result does not depend on their number.

torch provides it for GPUs alone. On CPUs (gloo) this module sums the statistics.

Shapes: B images of this process · C channels · H×W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist
from timm.layers.norm_act import BatchNormAct2d, convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fewmask import distributed
from fewmask.models.still import is_still, keep_in_eval_mode

Module = TypeVar("Module", bound=nn.Module)


def synchronise(model: Module) -> Module:
    """Make every batch normalisation of the model one over all processes. With a single process the model stays
    unchanged. Frozen layers have nothing to synchronise.

    The model is on its device. Raises ValueError for a kind of batch normalisation that is not supported.
    """
    if distributed.world() == 1:
        return model
    if next(model.parameters()).device.type == "cuda":
        frozen = [name for name, module in model.named_modules() if is_still(module)]
        model = convert_sync_batchnorm(model)
        for name in frozen:  # timm makes new modules
            keep_in_eval_mode(model.get_submodule(name))
        return model
    for name, module in model.named_modules():
        if is_still(module):
            continue
        if type(module) in _SYNCHRONISED:
            module.__class__ = _SYNCHRONISED[type(module)]
        elif isinstance(module, _BatchNorm):
            raise ValueError(
                f"model: {name} is a {type(module).__name__}, which cannot be trained in several processes"
            )
    return model


@torch.no_grad()
def single_value_batch_norms(model: nn.Module, forward: Callable[[], object]) -> list[str]:
    """Names of the batch normalisations that get a single value per channel in this forward of the model. The mean
    would equal that value, so that the output would be the bias alone. torch refuses to train such a layer."""
    names = []

    def record_single_values(name: str, module: nn.Module, x: Tensor) -> None:
        if x[:, 0].numel() == 1:
            names.append(name)

    was_training = model.training
    model.train()
    norms = [(n, m) for n, m in model.named_modules() if isinstance(m, _BatchNorm) and m.training]
    hooks = [m.register_forward_pre_hook(lambda m, x, n=n: record_single_values(n, m, *x)) for n, m in norms]
    model.eval()
    forward()
    model.train(was_training)
    for hook in hooks:
        hook.remove()
    return names


@contextmanager
def statistics_kept(model: nn.Module) -> Iterator[None]:
    """Inside this context batch normalisation uses the statistics of its batch, as in training, and does not update the
    running ones. It is for rows that are not the model's data, such as a generator's images."""
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    momenta = [m.momentum for m in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


class _Synchronised(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return _normalise(self, x) if self.training else super().forward(x)


class _SynchronisedAct(BatchNormAct2d):
    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(_normalise(self, x))) if self.training else super().forward(x)


_SYNCHRONISED: dict[type, type] = {nn.BatchNorm2d: _Synchronised, BatchNormAct2d: _SynchronisedAct}


class _Total(torch.autograd.Function):
    """The sum over all processes. Its gradient is the sum of the gradients."""

    @staticmethod
    def forward(ctx: object, values: Tensor) -> Tensor:
        values = values.clone()
        dist.all_reduce(values)
        return values

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return _Total.forward(ctx, gradient.contiguous())


def _normalise(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """Normalise (B,C,H,W) with the statistics of all processes, as in training, and update the running ones."""
    values = x.float()
    # One sum collects each process's mean and its squared deviations from that mean. Sums of squares would lose the
    # variance of a channel far from zero to rounding, or make it negative.
    own_mean = values.mean((0, 2, 3))
    own_square = (values - own_mean[:, None, None]).square().sum((0, 2, 3))
    table = values.new_zeros(distributed.world(), 2 * len(own_mean) + 1)
    table[distributed.rank()] = torch.cat([own_mean, own_square, values.new_tensor([values[:, 0].numel()])])
    table = _Total.apply(table)
    counts = table[:, -1:].detach()
    count = counts.sum()
    means, squares = table[:, :-1].chunk(2, dim=1)
    mean = (counts * means).sum(0) / count
    variance = (squares + counts * (means - mean).square()).sum(0) / count
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
