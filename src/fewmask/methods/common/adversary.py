"""Adversarial games between networks, as terms of one loss with one backward pass. The gradient of each term reaches a
single player.

    with frozen(discriminator):
        fool = loss(discriminator(p), real)            the gradient goes through the discriminator into p's network
    tell = loss(discriminator(p.detach()), fake)       the gradient stays in the discriminator

If the players want opposite signs of the same loss, the game is a single term: loss(discriminator(reverse(p))).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """Inside this context gradients flow through the modules, but not into their parameters.

    Outside of it, also later in the same step, the modules learn as before. Their running statistics still change: see
    `models.batch_norm.statistics_kept`.
    """
    parameters = [p for m in modules for p in m.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def reverse(values: Tensor, scale: float = 1.0) -> Tensor:
    """Return the values unchanged and multiply their gradient by −scale (Ganin and Lempitsky, ICML 2015, eq. 9, 10)."""
    reversed_: Tensor = _Reverse.apply(values, scale)
    return reversed_


class _Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return -ctx.scale * gradient, None
