"""Initial weights of small networks, drawn from a given generator, since torch's layers draw from the global one.

Shapes: as the layers have them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from fewmask.models.batch_norm import synchronise

Module = TypeVar("Module", bound=nn.Module)


def with_drawn_weights(make: Callable[[], Module], rng: torch.Generator) -> Module:
    """The module that `make` builds, on the generator's device. Weights of convolutions and linear layers are drawn as
    torch would draw them. Biases are 0, and normalisations are the identity."""
    with torch.device("meta"):
        module = make()
    module.to_empty(device=rng.device)
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.kaiming_uniform_(layer.weight, math.sqrt(5), generator=rng)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm2d | nn.GroupNorm):
            layer.reset_parameters()
        else:
            assert not list(layer.parameters(recurse=False)), f"{type(layer).__name__}: its weights are not drawn"
    return synchronise(module).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
