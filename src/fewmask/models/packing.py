"""The feature maps of an encoder as one tensor, so that they are kept, cropped and batched like an image.

A map of stride s has (S/s)² of its cells in a cell of the packed tensor, whose stride S is that to which images are
padded. Maps that the decoder does not use are left out.

Shapes: B images · H×W pixels of padded images · h×w = H/S × W/S cells · C channels of a map · P packed channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

NO_MAPS = (
    "model.tuning.cached: {encoder} with {decoder} does not have feature maps at strides that divide {multiple}; set "
    "model.tuning.cached=false"
)


@dataclass(frozen=True)
class Map:
    """One of the encoder's feature maps."""

    channels: int
    stride: int
    used: bool
    """Whether the decoder uses its values."""


@dataclass(frozen=True)
class Packing:
    """How the maps are packed. The packed tensor is (B,P,h,w), of half precision."""

    maps: tuple[Map, ...]
    stride: int
    """S."""

    @property
    def channels(self) -> int:
        """P."""
        return sum(one.channels * (self.stride // one.stride) ** 2 for one in self.maps if one.used)

    def pack(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps (B,C,H/s,W/s) → (B,P,h,w)."""
        parts = []
        for one, values in zip(self.maps, maps, strict=True):
            if one.used:
                side = self.stride // one.stride
                cells = values.permute(0, 2, 3, 1).unflatten(2, (-1, side)).unflatten(1, (-1, side))
                parts.append(cells.transpose(2, 3).flatten(3))
        return torch.cat(parts, 3).permute(0, 3, 1, 2).half()

    def unpack(self, packed: Tensor, dtype: torch.dtype) -> list[Tensor]:
        """(B,P,h,w) → the maps (B,C,H/s,W/s), channels last in memory. A map that is not used is 0."""
        cells, maps, first = packed.permute(0, 2, 3, 1), [], 0
        for one in self.maps:
            side = self.stride // one.stride
            height, width = cells.shape[1] * side, cells.shape[2] * side
            if one.used:
                own = cells[..., first : first + one.channels * side**2].to(dtype)
                first += own.shape[3]
                own = own.unflatten(3, (side, side, one.channels)).transpose(2, 3)
                maps.append(own.reshape(len(cells), height, width, one.channels).permute(0, 3, 1, 2))
            else:
                zero = torch.zeros((), dtype=dtype, device=packed.device)
                maps.append(zero.expand(len(cells), one.channels, height, width))
        return maps


def packing_of(features: nn.Module, encoder: str, decoder: str, channels: int, stride: int) -> Packing:
    """How the maps of F's encoder are packed, from a pass of an image of `channels`. `stride` is S.

    Raises ValueError where the encoder's output is no list of maps whose strides divide S.
    """
    model, side = cast(Any, features), 8 * stride
    image = torch.zeros(1, channels, side, side, device=next(features.parameters()).device)
    was_training = features.training
    features.eval()
    try:
        with torch.no_grad():
            outputs = model.encoder(image)
        if not _are_maps(outputs, side, stride):
            raise ValueError(NO_MAPS.format(encoder=encoder, decoder=decoder, multiple=stride))
        leaves = [values.detach().requires_grad_() for values in outputs]
        out = model.decoder(leaves).sum()
        gradients = torch.autograd.grad(out, leaves, allow_unused=True)
    finally:
        features.train(was_training)
    maps = [
        Map(values.shape[1], side // values.shape[3], gradient is not None)
        for values, gradient in zip(outputs, gradients, strict=True)
    ]
    return Packing(tuple(maps), stride)


def _are_maps(outputs: object, side: int, stride: int) -> bool:
    if not isinstance(outputs, list | tuple) or not all(isinstance(o, Tensor) and o.dim() == 4 for o in outputs):
        return False
    return all(
        o.shape[2] == o.shape[3] and side % o.shape[3] == 0 and stride % (side // o.shape[3]) == 0 for o in outputs
    )
