"""LoRA: a frozen linear layer with a trained difference of low rank (Hu et al., ICLR 2022).

    y = W x + b + α/r · B A x        W, b frozen; A drawn, B = 0 at first, so that the difference is 0

Shapes: r rank · I inputs · O outputs · A (r,I) · B (O,r) · W (O,I).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

PARTS = ("lora_a.weight", "lora_b.weight", "lora_scale")


class _LoRA(nn.Linear):
    lora_a: nn.Linear
    lora_b: nn.Linear
    lora_scale: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.lora_scale * self.lora_b(self.lora_a(x))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        # Files of weights hold W + α/r · B A as W, see `merge_lora`. Loaded from such a file, the difference is 0
        # again.
        if not any(prefix + part in state_dict for part in PARTS):
            fresh = (self.lora_a.weight, torch.zeros_like(self.lora_b.weight), self.lora_scale)
            state_dict |= {prefix + part: value.detach() for part, value in zip(PARTS, fresh, strict=True)}
        super()._load_from_state_dict(state_dict, prefix, *rest)


def add_lora(layer: nn.Linear, rank: int, alpha: float) -> None:
    """Freeze a linear layer and add A and B to it. torch's global generator draws A as for any linear layer."""
    assert type(layer) is nn.Linear
    layer.requires_grad_(False)
    layer.lora_a = nn.Linear(layer.in_features, rank, bias=False)
    layer.lora_b = nn.Linear(rank, layer.out_features, bias=False)
    nn.init.zeros_(layer.lora_b.weight)
    layer.register_buffer("lora_scale", torch.tensor(alpha / rank))
    layer.__class__ = _LoRA


def merge_lora(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of an equivalent network without LoRA: W + α/r · B A instead of W."""
    plain = dict(weights)
    for name in [n.removesuffix(PARTS[0]) for n in weights if n.endswith("." + PARTS[0])]:
        a, b, scale = (plain.pop(name + part) for part in PARTS)
        plain[name + "weight"] = plain[name + "weight"] + scale * (b @ a)
    return plain
