"""A first convolution for each kind of input, where domains have images of different channels; the rest is shared.

The first convolutions of all kinds are one, over the channels of all of them one after the other. A row is 0 in the
channels of other kinds, so that it meets the weights of its own kind alone. The rows of a batch have room for the kind
with the most channels and one plane more, which says the kind.

Shapes: B images · H×W pixels · C channels of a domain · T channels of all kinds together · P planes of a batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from timm.models import adapt_input_conv
from torch import Tensor, nn

from fewmask.config.inputs import RGB, InputSettings

Kind = tuple[str, ...]


@dataclass(frozen=True)
class Stems:
    """The kinds of input of a network. Domains whose channels have the same names in the same order share a kind."""

    kinds: tuple[Kind, ...]
    """RGB first, and the others by their names: in an order that the order of the domains does not change."""
    of: Mapping[str, int]
    """The kind of each domain."""

    @classmethod
    def of_inputs(cls, inputs: Mapping[str, InputSettings]) -> Stems:
        """Those of domains with these images; of none RGB."""
        kinds = tuple(sorted({one.channels for one in inputs.values()}, key=lambda k: (k != RGB, k))) or (RGB,)
        return cls(kinds, {name: kinds.index(one.channels) for name, one in inputs.items()})

    @property
    def several(self) -> bool:
        return len(self.kinds) > 1

    @property
    def total(self) -> int:
        """T."""
        return sum(map(len, self.kinds))

    @property
    def planes(self) -> int:
        """P: what the images of a batch have."""
        return max(map(len, self.kinds)) + self.several

    def places(self, kind: int) -> slice:
        """Where a kind's channels stand among those of all kinds."""
        first = sum(map(len, self.kinds[:kind]))
        return slice(first, first + len(self.kinds[kind]))

    def in_batch(self, image: np.ndarray, domain: str) -> np.ndarray:
        """An image (H,W,C) of the domain as a row of a batch (H,W,P)."""
        if not self.several:
            return image
        row = np.zeros((*image.shape[:2], self.planes), np.uint8)
        row[..., : image.shape[2]] = image
        row[..., -1] = self.of[domain]
        return row

    def normalised(self, image: Tensor, mean: Tensor, std: Tensor, domain: str | None = None) -> Tensor:
        """Images (B,C,H,W) of one domain, or rows of a batch (B,P,H,W), as the first convolution takes them (B,T,H,W).

        Raises ValueError where nothing says which kind the images are of.
        """
        image = image.to(mean.dtype)
        if not self.several:
            return (image - mean) / std
        if image.shape[1] == self.planes:
            which = image[:, -1:, :1, :1].round()
            return torch.cat([self._of_kind(image, j, mean, std) * (which == j) for j in range(len(self.kinds))], 1)
        kind = self._kind(image.shape[1], domain)
        whole = image.new_zeros(len(image), self.total, *image.shape[2:])
        whole[:, self.places(kind)] = self._of_kind(image, kind, mean, std)
        return whole

    def _of_kind(self, image: Tensor, kind: int, mean: Tensor, std: Tensor) -> Tensor:
        at = self.places(kind)
        return (image[:, : len(self.kinds[kind])] - mean[:, at]) / std[:, at]

    def _kind(self, channels: int, domain: str | None) -> int:
        """The kind of images of a domain; where no domain is named, that which alone has so many channels."""
        fits = [j for j, kind in enumerate(self.kinds) if len(kind) == channels]
        matches = fits if domain is None else [self.of[domain]]
        if len(matches) != 1 or matches[0] not in fits:
            there = "; ".join(", ".join(kind) for kind in self.kinds)
            raise ValueError(f"images of {channels} channels, of which the network has not one kind: it knows {there}")
        return matches[0]


def normalisation(stems: Stems, mean: tuple[float, ...], std: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (1,T,1,1) in 0–255: those of RGB that the encoder was trained with, and for each
    channel of another kind the mean of these three."""
    values = []
    for three in (mean, std):
        each = [three if kind == RGB else (sum(three) / 3,) * len(kind) for kind in stems.kinds]
        values.append(255 * torch.tensor([v for of_kind in each for v in of_kind]).view(1, -1, 1, 1))
    return values[0], values[1]


@torch.no_grad()
def set_stems(encoder: nn.Module, stems: Stems) -> None:
    """Let an encoder that takes RGB take the channels of all kinds. The weights of each kind are made of those of RGB
    as timm does it: one channel has their sum; more have them in turn, smaller as there are more channels."""
    if stems.kinds == (RGB,):
        return
    for layer in encoder.modules():
        if isinstance(layer, nn.Conv2d) and layer.in_channels == 3 and layer.groups == 1:
            own = [layer.weight if kind == RGB else _adapted(len(kind), layer.weight) for kind in stems.kinds]
            layer.weight = nn.Parameter(torch.cat(own, 1))
            layer.in_channels = stems.total


def _adapted(channels: int, weight: Tensor) -> Tensor:
    adapted: Tensor = adapt_input_conv(channels, weight.detach().clone())
    return adapted
