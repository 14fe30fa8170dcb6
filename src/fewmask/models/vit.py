"""A ViT of timm as encoder, and two decoders that take its patch tokens as maps: linear, and DPT (Ranftl et al., ICCV
2021) without batch normalisation, as in Depth Anything and UniMatch V2.

Shapes: B images · H×W pixels · p side of a patch · D width of a token · h×w = H/p × W/p patches · C feature channels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEVELS = 4  # the number of DPT's levels


class ViT(nn.Module):
    """Encoder and decoder as F: image (B,3,H,W) → features (B,C,H/s,W/s), for H and W that p divides."""

    def __init__(
        self, name: str, decoder: str, pretrained: bool, options: Mapping[str, Any], decoder_options: Mapping[str, Any]
    ) -> None:
        """`decoder` is a key of `DECODERS`. Raises ValueError where the network of that name is no ViT, and TypeError
        for options that do not exist."""
        super().__init__()
        self.encoder = Encoder(name, pretrained, options)
        self.decoder = DECODERS[decoder](self.encoder, **decoder_options)

    def forward(self, image: Tensor) -> Tensor:
        features: Tensor = self.decoder(self.encoder(image))
        return features


class Encoder(nn.Module):
    """Image (B,3,H,W) → the patch tokens after some blocks, each through the final LayerNorm, as maps (B,D,h,w).

    Class and register tokens take part in the attention and are then left out, as in the heads of DINOv2. Position
    embeddings are resampled to every image's h×w.
    """

    taken: tuple[int, ...] = ()
    """The blocks whose tokens the decoder takes, in ascending order."""

    def __init__(self, name: str, pretrained: bool, options: Mapping[str, Any]) -> None:
        super().__init__()
        wanted = {"dynamic_img_size": True, "num_classes": 0, **options}
        try:
            self.model = cast(Any, timm.create_model(name, pretrained=pretrained, **wanted))
        except TypeError as error:
            raise ValueError(
                f"{name} is no ViT, or has no such options ({error}); take one such as vit_base_patch14_dinov2, or "
                "another decoder"
            ) from None
        if not all(hasattr(self.model, part) for part in ("patch_embed", "blocks", "norm", "forward_intermediates")):
            raise ValueError(f"{name} is no ViT; take one such as vit_base_patch14_dinov2, or another decoder")
        self.output_stride = int(self.model.patch_embed.patch_size[0])
        self.width, self.depth = int(self.model.embed_dim), len(self.model.blocks)

    def forward(self, image: Tensor) -> list[Tensor]:
        maps: list[Tensor] = self.model.forward_intermediates(
            image, indices=list(self.taken), norm=True, stop_early=True, intermediates_only=True
        )
        return maps

    def take(self, blocks: Sequence[int]) -> None:
        if any(not 0 <= block < self.depth for block in blocks) or list(blocks) != sorted(set(blocks)):
            raise ValueError(f"blocks {list(blocks)} of an encoder with {self.depth}, counted from 0 and ascending")
        self.taken = tuple(blocks)


class Linear(nn.Module):
    """The part of DINOv2's linear head (Oquab et al., 2023) before its 1×1 convolution, which is G_k: batch
    normalisation of the concatenated patch tokens of the last blocks. The multi-scale variant takes 4 blocks."""

    def __init__(self, encoder: Encoder, blocks: int = 1) -> None:
        super().__init__()
        encoder.take(range(encoder.depth - blocks, encoder.depth))
        self.norm = nn.BatchNorm2d(blocks * encoder.width)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps (B,D,h,w) → features (B,blocks·D,h,w), at stride p."""
        features: Tensor = self.norm(torch.cat(list(maps), 1))
        return features


class Dpt(nn.Module):
    """A pyramid of about 1/4, 1/8, 1/16 and 1/32 of the image from the maps of four blocks, which is fused from coarse
    to fine. Features are at stride 2 for every p.

    The paper's code makes 8h×8w cells from h×w patches, with 1.75 pixels each for p = 14, and resizes logits with
    aligned corners. Here the last fusion resizes to cells of 2 pixels, and cells lie over their pixels.
    """

    def __init__(
        self,
        encoder: Encoder,
        features: int | None = None,
        channels: Sequence[int] | None = None,
        blocks: Sequence[int] | None = None,
    ) -> None:
        """C = `features`, by default D/6. `channels` of the four levels are D/8, D/4, D/2 and D by default, as in
        UniMatch V2 for DINOv2's S and B. `blocks` are the last ones of each quarter of the encoder by default."""
        super().__init__()
        depth, width, self.patch = encoder.depth, encoder.width, encoder.output_stride
        encoder.take(blocks or [depth * (i + 1) // LEVELS - 1 for i in range(LEVELS)])
        channels = channels or [width // 8, width // 4, width // 2, width]
        if len(channels) != LEVELS or len(encoder.taken) != LEVELS or self.patch % 2:
            raise ValueError(f"DPT takes {LEVELS} blocks and {LEVELS} channels, and patches with an even side")
        features = features or width // 6
        nearest = 2 ** round(math.log2(self.patch))  # patches of 14 are treated like patches of 16
        scales = [nearest / 2 ** (i + 2) for i in range(LEVELS)]
        self.levels = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, c, 1), _resize(c, scale), nn.Conv2d(c, features, 3, padding=1, bias=False))
            for c, scale in zip(channels, scales, strict=True)
        )
        self.fusions = nn.ModuleList(_Fusion(features, coarsest=i == LEVELS - 1) for i in range(LEVELS))
        self.last = nn.Sequential(nn.Conv2d(features, features, 3, padding=1), nn.ReLU(inplace=True))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps (B,D,h,w), finest first → features (B,C,h·p/2,w·p/2)."""
        levels = [level(m) for level, m in zip(self.levels, maps, strict=True)]
        cells = [n * self.patch // 2 for n in maps[0].shape[-2:]]
        sizes = [cells, *([*level.shape[-2:]] for level in levels[:-1])]  # the size of each level after its fusion
        x: Tensor | None = None
        for fusion, level, size in reversed(list(zip(self.fusions, levels, sizes, strict=True))):
            x = fusion(level, x, size)
        features: Tensor = self.last(x)
        return features


class _Fusion(nn.Module):
    def __init__(self, channels: int, coarsest: bool) -> None:
        super().__init__()
        self.level = None if coarsest else _Residual(channels)
        self.both = _Residual(channels)
        self.project = nn.Conv2d(channels, channels, 1)

    def forward(self, level: Tensor, coarser: Tensor | None, size: Sequence[int]) -> Tensor:
        x = level if self.level is None else self.level(level) + coarser
        x = F.interpolate(self.both(x), size=list(size), mode="bilinear", align_corners=False)
        fused: Tensor = self.project(x)
        return fused


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.one, self.other = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.other(F.relu(self.one(F.relu(x))))


def _resize(channels: int, scale: float) -> nn.Module:
    if scale > 1:
        return nn.ConvTranspose2d(channels, channels, int(scale), stride=int(scale))
    return nn.Identity() if scale == 1 else nn.Conv2d(channels, channels, 3, stride=int(1 / scale), padding=1)


DECODERS: dict[str, type[nn.Module]] = {"dpt": Dpt, "linear": Linear}
