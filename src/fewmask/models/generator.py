"""A generator of images from noise as in DCGAN (Radford et al., ICLR 2016): transposed convolutions with batch
normalisation.

Shapes: B images · N numbers of noise and condition · S side of the generated image · H×W size of the output.
"""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewmask.models.weights import with_drawn_weights

FIRST = 4


class Generator(nn.Module):
    """A linear layer to 4×4 cells, then transposed convolutions 4×4 of stride 2 up to S×S, the last of which has 3
    channels and a tanh. Every other layer halves the channels, down to `channels` before the last layer."""

    def __init__(self, inputs: int, side: int, channels: int, rng: torch.Generator) -> None:
        """`side` is a power of 2, at least 8."""
        super().__init__()
        doublings = round(math.log2(side / FIRST))
        assert side == FIRST * 2**doublings >= 2 * FIRST
        widths = [channels * 2**i for i in reversed(range(doublings))]

        def layers() -> nn.Sequential:
            parts: list[nn.Module] = [
                nn.Linear(inputs, widths[0] * FIRST**2, bias=False),
                nn.Unflatten(1, (widths[0], FIRST, FIRST)),
                nn.BatchNorm2d(widths[0]),
                nn.ReLU(),
            ]
            for wide, narrow in itertools.pairwise(widths):
                up = nn.ConvTranspose2d(wide, narrow, 4, stride=2, padding=1, bias=False)
                parts += [up, nn.BatchNorm2d(narrow), nn.ReLU()]
            return nn.Sequential(*parts, nn.ConvTranspose2d(widths[-1], 3, 4, stride=2, padding=1), nn.Tanh())

        self.layers = with_drawn_weights(layers, rng)

    def forward(self, inputs: Tensor, size: tuple[int, int]) -> Tensor:
        """inputs (B,N) → images (B,3,H,W) in 0–255, generated at S×S and resized to `size` bilinearly."""
        image = F.interpolate(self.layers(inputs).float(), size=size, mode="bilinear", align_corners=False)
        return (image + 1) * 127.5
