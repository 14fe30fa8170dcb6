"""Image translators and their judges (Zhu et al., CycleGAN, ICCV 2017, §4 and appendix 7.2), of any size.

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
from fewmask.models.weights import drawn

STRIDE = 4


class Translator(nn.Module):
    """A ResNet between images: convolution 7×7 to D channels, two of stride 2 to 2D and 4D, residual blocks, and the
    way back, with instance normalisation and ReLU.

    It makes the whole image as its source does, or, if it `relights`, a gain and an offset for each value of the image:
    what is sharp stays sharp from the first step. One that added an offset alone would stay where it begins: by the
    normalisation it is blind to what colour it adds to. A light has no grain, so a gain comes to full size without the
    checkerboard of transposed convolutions, which a network that learns from a few hundred images takes for the target.
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

        self.layers = drawn(layers, rng)

    def forward(self, image: Tensor) -> Tensor:
        """image (B,3,H,W) of 0–255 → the same of the other domain, fp32."""
        height, width = image.shape[-2:]
        scaled = F.pad(image.float() / 127.5 - 1, (0, -width % STRIDE, 0, -height % STRIDE), mode="replicate")
        made = self.layers(scaled).float()
        if self.relights:
            gain, offset = made.chunk(2, 1)
            made = (1 + gain) * scaled + offset
        return (made[..., :height, :width].tanh() + 1) * 127.5


class PatchDiscriminator(nn.Module):
    """Whether each patch of p×p pixels is real: convolutions 4×4, of stride 2 to D, 2D, … and then of stride 1, with
    instance normalisation but for the first and the last, and leaky ReLU."""

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

        self.layers = drawn(layers, rng)

    def forward(self, image: Tensor) -> Tensor:
        """image (B,3,H,W) of 0–255 → (B,H,W) fp32, 1 for real and 0 for fake: of each pixel the nearest patch's.

        Raises ValueError for an image that is smaller than a few patches' steps.
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
    """The last translations, of which a judge is shown one in place of every second new one, so that it does not forget
    what was tried before (Shrivastava et al., CVPR 2017, §2.3). Equal in all processes."""

    def __init__(self, places: int) -> None:
        super().__init__()
        self.places = places
        self.register_buffer("images", torch.empty(places, 3, 0, 0, dtype=torch.uint8))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.images: Tensor
        self.seen: Tensor

    @torch.no_grad()
    def swap(self, image: Tensor, rng: torch.Generator) -> Tensor:
        """image (B,3,H,W) of 0–255, of all processes at once → the same, or what was remembered in its place.

        While there is room every image is remembered and shown; then, with a probability of ½ each, it takes the place
        of another one, which is shown. Of more images than there are places the rest is shown as it is.
        """
        owner = distributed.all_gather(torch.full((len(image),), distributed.rank()))
        every = distributed.all_gather(image)
        count = min(len(every), self.places)
        if count:
            self._fit(image)
            new, offset = every[:count], torch.arange(count, device=image.device)
            chance = distributed.broadcast(torch.randperm(self.places, generator=rng, device=image.device))[:count]
            full = self.seen + offset >= self.places
            place = torch.where(self.seen < self.places, (self.seen + offset) % self.places, chance)
            coin = distributed.broadcast(torch.rand(count, generator=rng, device=image.device))
            swapped = full & (coin < 0.5)
            old = self.images[place]
            kept = torch.where((swapped | ~full)[:, None, None, None], new.round().to(torch.uint8), old)
            self.images[place] = kept
            shown = torch.where(swapped[:, None, None, None], old.to(new.dtype), new)
            every = torch.cat([shown, every[count:]])
            self.seen += count
        return every[torch.nonzero(owner == distributed.rank()).flatten()]

    def forget(self) -> None:
        self.images = self.images[..., :0, :0].clone()
        self.seen = torch.zeros_like(self.seen)

    def _fit(self, image: Tensor) -> None:
        # Only a batch tells the size.
        if self.images.shape[2:] != image.shape[2:]:
            self.images = image.new_zeros(self.places, *image.shape[1:], dtype=torch.uint8)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *arguments: Any) -> None:
        # A run that is gone on with has seen no batch yet.
        if prefix + "images" in state_dict:
            self.images = torch.empty_like(state_dict[prefix + "images"], device=self.images.device)
        super()._load_from_state_dict(state_dict, prefix, *arguments)


class Way(NamedTuple):
    """From images of one side to the other's."""

    translator: Translator
    inverse: Translator
    own_judge: PatchDiscriminator
    other_judge: PatchDiscriminator
    history: History


class Translation(nn.Module):
    """Translators between a source and the target, judges of both, and what was shown to these."""

    def __init__(self, settings: TranslatorSettings, rng: torch.Generator) -> None:
        super().__init__()
        s = settings
        self.to_target, self.to_source = (Translator(s.channels, s.blocks, s.relights, rng) for _ in range(2))
        self.of_target, self.of_source = (PatchDiscriminator(s.discriminator_channels, s.patch, rng) for _ in range(2))
        self.made_targets, self.made_sources = (History(s.history).to(rng.device) for _ in range(2))

    def ways(self) -> tuple[Way, Way]:
        """From the source to the target, and from the target to the source."""
        return (
            Way(self.to_target, self.to_source, self.of_source, self.of_target, self.made_targets),
            Way(self.to_source, self.to_target, self.of_target, self.of_source, self.made_sources),
        )

    def forget(self) -> None:
        self.made_targets.forget()
        self.made_sources.forget()


def _doubled(wide: int, narrow: int, resized: bool) -> list[nn.Module]:
    """To twice the height and width: CycleGAN's transposed convolution, or a resize and a convolution (Odena et al.,
    Deconvolution and checkerboard artifacts, Distill 2016)."""
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
