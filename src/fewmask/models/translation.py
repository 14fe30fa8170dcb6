"""Image translators and their discriminators (Zhu et al., CycleGAN, ICCV 2017, §4 and appendix 7.2).

Shapes: B images · D channels of the first layer · H×W pixels · N places of the history.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewmask import distributed
from fewmask.config import TranslatorSettings
from fewmask.models.weights import with_drawn_weights

STRIDE = 4


class Translator(nn.Module):
    """A ResNet between images: a convolution 7×7 to D channels, two of stride 2 to 2D and 4D, residual blocks, and the
    mirrored layers back, with instance normalisation and ReLU.

    It predicts the whole image as in CycleGAN, or, if it `relights`, a gain and an offset for each value of the image,
    so that sharp edges stay sharp from the first step. An offset alone would not learn: the normalisation hides the
    colour to which it is added. Gain and offset are upsampled by resizing. Transposed convolutions would add a
    checkerboard pattern, which a network that learns from a few hundred images takes for a property of the target.
    """

    def __init__(self, channels: int, blocks: int, relights: bool, rng: torch.Generator) -> None:
        super().__init__()
        self.relights = relights
        widths = (channels, 2 * channels, 4 * channels)

        def layers() -> nn.Sequential:
            parts = [nn.ReflectionPad2d(3), nn.Conv2d(3, channels, 7), *_normalised(channels)]
            for narrow, wide in itertools.pairwise(widths):
                parts += [nn.Conv2d(narrow, wide, 3, stride=2, padding=1), *_normalised(wide)]
            parts += [_Block(widths[-1]) for _ in range(blocks)]
            for wide, narrow in itertools.pairwise(reversed(widths)):
                parts += [*_doubled(wide, narrow, resized=relights), *_normalised(narrow)]
            return nn.Sequential(*parts, nn.ReflectionPad2d(3), nn.Conv2d(channels, 6 if relights else 3, 7))

        self.layers = with_drawn_weights(layers, rng)

    def forward(self, image: Tensor) -> Tensor:
        """image (B,3,H,W) of 0–255 → its translation to the other domain, fp32."""
        height, width = image.shape[-2:]
        scaled = F.pad(image.float() / 127.5 - 1, (0, -width % STRIDE, 0, -height % STRIDE), mode="replicate")
        made = self.layers(scaled).float()
        if self.relights:
            gain, offset = made.chunk(2, 1)
            made = (1 + gain) * scaled + offset
        return (made[..., :height, :width].tanh() + 1) * 127.5


class PatchDiscriminator(nn.Module):
    """A discriminator that decides whether each patch of p×p pixels is real: convolutions 4×4, of stride 2 to D, 2D, …
    and then of stride 1. All but the first and the last have instance normalisation, and all but the last leaky
    ReLU."""

    def __init__(self, channels: int, patch: int, rng: torch.Generator) -> None:
        super().__init__()
        self.patch = patch
        halvings = {16: 1, 34: 2, 70: 3}[patch]
        self.least = 4 * 2**halvings
        widths = [channels * 2**i for i in range(halvings + 1)]

        def layers() -> nn.Sequential:
            parts: list[nn.Module] = [nn.Conv2d(3, channels, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
            for step, (narrow, wide) in enumerate(itertools.pairwise(widths), 2):
                convolution = nn.Conv2d(narrow, wide, 4, stride=2 if step <= halvings else 1, padding=1)
                parts += [convolution, nn.InstanceNorm2d(wide), nn.LeakyReLU(0.2)]
            return nn.Sequential(*parts, nn.Conv2d(widths[-1], 1, 4, padding=1))

        self.layers = with_drawn_weights(layers, rng)

    def forward(self, image: Tensor) -> Tensor:
        """image (B,3,H,W) of 0–255 → (B,H,W) fp32, 1 for real and 0 for fake. Each pixel has the value of the nearest
        patch.

        Raises ValueError for an image that is too small for the patches.
        """
        height, width = image.shape[-2:]
        if min(height, width) < self.least:
            raise ValueError(
                f"train.crop: {height}×{width} is too small for patches of {self.patch} pixels; take at least "
                f"{self.least} a side, or a smaller method.translator.patch"
            )
        verdict = self.layers(image.float() / 127.5 - 1).float()
        return F.interpolate(verdict, size=(height, width), mode="nearest")[:, 0]


class History(nn.Module):
    """The last translations. A discriminator gets one of them instead of every second new one, so that it still
    recognises earlier translations (Shrivastava et al., CVPR 2017, §2.3). The history is equal in all processes."""

    def __init__(self, places: int) -> None:
        super().__init__()
        self.places = places
        self.register_buffer("images", torch.empty(places, 3, 0, 0, dtype=torch.uint8))
        self.register_buffer("added", torch.zeros((), dtype=torch.int64))
        self.images: Tensor
        self.added: Tensor

    @torch.no_grad()
    def swap(self, image: Tensor, rng: torch.Generator) -> Tensor:
        """image (B,3,H,W) of 0–255, in all processes at once → the images for the discriminator, new or remembered
        ones.

        While there is room every image is remembered and returned. Later each image, with a probability of ½, replaces
        a remembered one, which is returned instead. If there are more images than places, the rest is returned
        unchanged.
        """
        owner = distributed.all_gather(torch.full((len(image),), distributed.rank()))
        every = distributed.all_gather(image)
        count = min(len(every), self.places)
        if count:
            self._fit(image)
            new, offset = every[:count], torch.arange(count, device=image.device)
            chance = distributed.broadcast(torch.randperm(self.places, generator=rng, device=image.device))[:count]
            full = self.added + offset >= self.places
            place = torch.where(self.added < self.places, (self.added + offset) % self.places, chance)
            coin = distributed.broadcast(torch.rand(count, generator=rng, device=image.device))
            swapped = full & (coin < 0.5)
            old = self.images[place]
            kept = torch.where((swapped | ~full)[:, None, None, None], new.round().to(torch.uint8), old)
            self.images[place] = kept
            shown = torch.where(swapped[:, None, None, None], old.to(new.dtype), new)
            every = torch.cat([shown, every[count:]])
            self.added += count
        return every[torch.nonzero(owner == distributed.rank()).flatten()]

    def forget(self) -> None:
        self.images = self.images[..., :0, :0].clone()
        self.added = torch.zeros_like(self.added)

    def _fit(self, image: Tensor) -> None:
        # The size is known from the first batch on.
        if self.images.shape[2:] != image.shape[2:]:
            self.images = image.new_zeros(self.places, *image.shape[1:], dtype=torch.uint8)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *arguments: Any) -> None:
        # A resumed run has not had a batch yet.
        if prefix + "images" in state_dict:
            self.images = torch.empty_like(state_dict[prefix + "images"], device=self.images.device)
        super()._load_from_state_dict(state_dict, prefix, *arguments)


class Way(NamedTuple):
    """One direction of a translation, with its inverse and the discriminators of its own and of the other domain."""

    translator: Translator
    inverse: Translator
    own_judge: PatchDiscriminator
    other_judge: PatchDiscriminator
    history: History


class Translation(nn.Module):
    """Translators between a source and the target, discriminators of both, and the histories of the translations."""

    def __init__(self, settings: TranslatorSettings, rng: torch.Generator) -> None:
        super().__init__()
        s = settings
        self.to_target, self.to_source = (Translator(s.channels, s.blocks, s.relights, rng) for _ in range(2))
        self.of_target, self.of_source = (PatchDiscriminator(s.discriminator_channels, s.patch, rng) for _ in range(2))
        self.made_targets, self.made_sources = (History(s.history).to(rng.device) for _ in range(2))

    def ways(self) -> tuple[Way, Way]:
        """The ways from the source to the target and from the target to the source."""
        return (
            Way(self.to_target, self.to_source, self.of_source, self.of_target, self.made_targets),
            Way(self.to_source, self.to_target, self.of_target, self.of_source, self.made_sources),
        )

    def forget(self) -> None:
        self.made_targets.forget()
        self.made_sources.forget()


def _doubled(wide: int, narrow: int, resized: bool) -> list[nn.Module]:
    """Layers that double height and width: CycleGAN's transposed convolution, or a resize and a convolution (Odena et
    al., Deconvolution and checkerboard artifacts, Distill 2016)."""
    if resized:
        return [nn.Upsample(scale_factor=2), nn.Conv2d(wide, narrow, 3, padding=1)]
    return [nn.ConvTranspose2d(wide, narrow, 3, stride=2, padding=1, output_padding=1)]


class _Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()

        def half() -> list[nn.Module]:
            return [nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3)]

        self.layers = nn.Sequential(*half(), *_normalised(channels), *half(), nn.InstanceNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def _normalised(channels: int) -> list[nn.Module]:
    return [nn.InstanceNorm2d(channels), nn.ReLU(inplace=True)]
