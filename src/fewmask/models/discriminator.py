"""Discriminators: one decides for every pixel of a label map whether it is real, one for every feature cell which
domain it comes from.

Shapes: B maps · C channels of a map · D channels of the first layer · H×W pixels or cells.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewmask.models.weights import with_drawn_weights

STRIDE = 32


class Discriminator(nn.Module):
    """The discriminator of Hung et al. (BMVC 2018, §3.1): five convolutions 4×4 of stride 2 to D, 2D, 4D, 8D and 1
    channels, with leaky ReLU between them and without normalisation."""

    def __init__(self, inputs: int, channels: int, rng: torch.Generator) -> None:
        super().__init__()
        widths = [inputs, *(channels * 2**i for i in range(4)), 1]

        def layers() -> nn.Sequential:
            convolutions = [nn.Conv2d(a, b, 4, stride=2, padding=1) for a, b in itertools.pairwise(widths)]
            between = [nn.LeakyReLU(0.2) for _ in convolutions]
            return nn.Sequential(*[m for pair in zip(convolutions, between, strict=True) for m in pair][:-1])

        self.layers = with_drawn_weights(layers, rng)

    def forward(self, maps: Tensor) -> Tensor:
        """maps (B,C,H,W) of any size → logits of being real (B,H,W): one for each 32×32 cell, upsampled bilinearly.

        Maps are padded with zeros to whole cells, at the bottom and on the right, as images are.
        """
        height, width = maps.shape[-2:]
        cells = self.layers(F.pad(maps, (0, -width % STRIDE, 0, -height % STRIDE)))
        pixels = F.interpolate(cells.float(), scale_factor=float(STRIDE), mode="bilinear", align_corners=False)
        return pixels[:, 0, :height, :width]


def cell_classifier(inputs: int, channels: int, rng: torch.Generator) -> nn.Sequential:
    """Three convolutions 1×1 to D, D and 1 channels, ReLU between them: maps (B,C,H,W) → logits (B,1,H,W).

    Every cell is classified independently. There is no normalisation: it would get the rows of one domain at a time,
    and remove the differences between the domains.
    """
    return with_drawn_weights(
        lambda: nn.Sequential(
            nn.Conv2d(inputs, channels, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, 1, 1),
        ),
        rng,
    )
