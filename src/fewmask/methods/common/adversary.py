"""Games between networks, written as terms of one loss with one backward pass: each term reaches one player alone.

    with frozen(discriminator):
        fool = loss(discriminator(p), real)            the gradient goes through the discriminator into p's network
    tell = loss(discriminator(p.detach()), fake)       the gradient stays in the discriminator

A game whose players want opposite signs of one and the same loss is one term: loss(discriminator(reverse(p))).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """What is computed in here sends its gradient through the modules, and none into their parameters.

    Elsewhere, also later in the same step, they learn as before. Running statistics move: see
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
    """The values as they are; their gradient times −scale (Ganin and Lempitsky, ICML 2015, eq. 9 and 10)."""
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
