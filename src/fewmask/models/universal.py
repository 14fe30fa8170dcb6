"""One network for K label spaces: shared F, a head G_k per domain, and the embedding head E of the training methods.

Shapes: B images · H×W pixels · C feature channels · C_k classes of domain k · D embedding size · h×w feature cells
(stride s) · h'×w' embedding cells (stride s' ≥ s).
"""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewmask.config import ModelSettings
from fewmask.config.inputs import PLAIN, InputSettings
from fewmask.config.scale import Scale, scaled
from fewmask.formats.bands import at_size, stretched
from fewmask.labels import VOID, LabelSpace
from fewmask.models import encoders
from fewmask.models.memory import is_out_of_memory, memory_for
from fewmask.models.norms import set_norms
from fewmask.models.packing import Packing, packing_of
from fewmask.models.stems import Stems, normalisation, set_stems
from fewmask.models.tuning import freeze_untrained
from fewmask.randomness import torch_seed

STRIP = 2**24
"""Logits at the image's size that `classes` holds at a time."""


class UniversalSegmenter(nn.Module):
    """F, {G_k} and E of Kalluri et al. (ICCV 2019), with current encoders and decoders as F.

    Images are in 0–255, of any size. The network normalises them, pads them to its stride and crops its output. They
    are RGB or have the channels that `inputs` gives, see `models.stems`.
    """

    packing: Packing | None = None
    """Set where the encoder's features stand for images, see `keep_features`."""

    def __init__(
        self,
        settings: ModelSettings,
        spaces: Mapping[str, LabelSpace],
        seed: int = 0,
        inputs: Mapping[str, InputSettings] | None = None,
    ) -> None:
        """Raises ValueError that names the setting when an encoder, decoder or stride does not exist or fit."""
        super().__init__()
        self.settings = settings
        self.spaces = dict(spaces)
        self.sizes: Mapping[str, Scale] = dict.fromkeys(spaces)
        """The size to which the images of each domain were resized when its head was trained."""
        self.inputs = {name: (inputs or {}).get(name, PLAIN) for name in spaces}
        """What the pixels of each domain's images are."""
        self.stems = Stems.of_inputs(self.inputs)
        mean, std = normalisation(self.stems, *encoders.normalisation(settings))
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(torch_seed(seed, "init"))
            self.features = encoders.build(settings)
            set_stems(self.encoder, self.stems)
            set_norms(self.features, self.encoder, settings.norm)
            self.channels, self.stride = self._probe()
            self.heads = nn.ModuleDict(
                {_key(name): nn.Conv2d(self.channels, s.num_classes, 1) for name, s in spaces.items()}
            )
            multiple = encoders.stride_multiple(self.features)
            pool = self._cells_of_embedding(multiple)
            self.embedding = nn.Sequential(nn.AvgPool2d(pool), nn.Conv2d(self.channels, settings.embedding.dim, 1))
            freeze_untrained(self.encoder, settings)
        self.mean: Tensor
        self.std: Tensor
        self.embedding_stride = self.stride * pool
        self.multiple = max(multiple, self.embedding_stride)

    def _cells_of_embedding(self, multiple: int) -> int:
        """The number of F's cells on a side of one of E's cells. It gives the configured stride of E, or the nearest
        one that fits the padding of images: 14 instead of 8 for DPT on patches of 14."""
        pool = max(1, self.settings.embedding.stride // self.stride)
        if multiple % (self.stride * pool) == 0 or self.stride * pool % multiple == 0:
            return pool
        cells = multiple // self.stride
        return min((n for n in range(1, cells + 1) if cells % n == 0), key=lambda n: (abs(n - pool), -n))

    def _probe(self) -> tuple[int, int]:
        """Channels and stride of F's output, from a forward pass."""
        side = 8 * encoders.stride_multiple(self.features)
        self.features.eval()
        try:
            enough = memory_for(f"on one image of {side}×{side}", "free memory, or take a smaller model.encoder")
            with enough, torch.no_grad():
                out = self.features(torch.zeros(1, self.stems.total, side, side))
        except (AssertionError, RuntimeError, ValueError, IndexError, TypeError) as error:
            if is_out_of_memory(error):
                raise
            pixels = "RGB images" if self.stems.total == 3 else f"images of {self.stems.total} channels"
            raise ValueError(
                f"model.encoder: {self.settings.encoder} with {self.settings.decoder} does not take {pixels} of "
                f"{side}×{side} ({' '.join(str(error).split())[:300]}); take one that works at any size, or see its "
                "`encoder_options` and `decoder_options`"
            ) from None
        self.features.train()
        return out.shape[1], side // out.shape[-1]

    @property
    def domains(self) -> tuple[str, ...]:
        return tuple(self.spaces)

    @property
    def encoder(self) -> nn.Module:
        return encoders.encoder_of(self.features)

    def encode(self, image: Tensor, domain: str | None = None) -> Tensor:
        """F: image (B,3,H,W) uint8 or float in 0–255 → features (B,C,h,w) of the image padded to the stride.

        Where domains have images of different channels, the image is that of a batch or of a `domain`. After
        `keep_features` the image may be what `pack` returns, or a window of it.
        """
        if self.packing is not None and image.dtype == torch.float16:
            features: Tensor = self.features.decoder(self.packing.unpack(image, self.mean.dtype))  # type: ignore[operator]
            return features
        return self.features(self._padded(image, domain, (0, 0)))

    def _padded(self, image: Tensor, domain: str | None, least: tuple[int, int]) -> Tensor:
        """The normalised images, padded on the right and below to whole cells and to the size `least`."""
        image = self.stems.normalised(image, self.mean, self.std, domain)
        height, width = (side + -side % self.multiple for side in map(max, image.shape[-2:], least))
        return F.pad(image, (0, width - image.shape[-1], 0, height - image.shape[-2]))

    def keep_features(self) -> Packing:
        """Let `encode` take the encoder's features in place of images. Returns how `pack` packs them. Raises ValueError
        for an encoder without maps that can be cropped."""
        settings = self.settings
        self.packing = packing_of(self.features, settings.encoder, settings.decoder, self.stems.total, self.multiple)
        return self.packing

    def pack(self, image: Tensor, domain: str, least: tuple[int, int]) -> Tensor:
        """The encoder's features of whole images (B,C,H,W) of a domain, padded to at least the size `least`, as one
        tensor of half precision at the stride `multiple`."""
        assert self.packing is not None
        maps = self.encoder(self._padded(image, domain, least))
        return self.packing.pack(maps)

    def head(self, domain: str) -> nn.Module:
        """G_k itself: a 1×1 convolution, with weights (C_k,C,1,1) and biases (C_k,)."""
        return self.heads[_key(domain)]

    def decode(self, features: Tensor, domain: str) -> Tensor:
        """G_k: features (B,C,h,w) → logits (B,C_k,h,w). `upsample` brings them to the image's size."""
        return self.head(domain)(features)

    def embed(self, features: Tensor) -> Tensor:
        """E: features (B,C,h,w) → (B,D,h',w') at the embedding's stride. Inference does not need it."""
        return self.embedding(features)

    def upsample(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """Logits (B,C_k,h,w) at the feature stride → (B,C_k,H,W), upsampled bilinearly and without the padding of
        `encode`."""
        if self.stride > 1:
            logits = F.interpolate(logits, scale_factor=float(self.stride), mode="bilinear", align_corners=False)
        return logits[..., : size[0], : size[1]]

    def logits(self, features: Tensor, domain: str, size: tuple[int, int]) -> Tensor:
        """G_k at the size of the image: features (B,C,h,w) → logits (B,C_k,H,W)."""
        return self.upsample(self.decode(features, domain), size)

    def classes(self, features: Tensor, domain: str, size: tuple[int, int]) -> Tensor:
        """The most likely class of each pixel: features (B,C,h,w) → (B,H,W) uint8.

        It is the argmax of `logits`, taken in strips of rows, so that the logits of a large image never exist at once.
        """
        logits, (height, width) = self.decode(features, domain), size
        classes = torch.empty(len(logits), height, width, dtype=torch.uint8, device=logits.device)
        cells = max(1, STRIP // (logits[:, :, 0].numel() * self.stride**2))
        for first in range(0, -(-height // self.stride), cells):
            # Bilinear upsampling uses one cell beyond the strip.
            above, top = max(first - 1, 0), first * self.stride
            strip = logits[:, :, above : first + cells + 1]
            rows = slice(top - above * self.stride, min(top + cells * self.stride, height) - above * self.stride)
            whole = self.upsample(strip, (strip.shape[2] * self.stride, width))
            classes[:, top : top + rows.stop - rows.start] = whole[:, :, rows].argmax(1)
        return classes

    def forward(self, image: Tensor, domain: str) -> Tensor:
        """Logits (B,C_k,H,W) of `domain`'s classes at the size of the image."""
        height, width = image.shape[-2:]
        return self.logits(self.encode(image, domain), domain, (height, width))

    def predict(self, image: np.ndarray, domain: str | None = None) -> tuple[np.ndarray, np.ndarray]:
        """An image (H,W,3) uint8 RGB → the class of each pixel (H,W) uint8 and the probabilities (C_k,H,W) float32.

        Of a domain with other channels or another depth the image is (H,W,C), with the values of its files. The image
        is resized to the size of the domain, as in `fewmask predict`. Raises ValueError for a domain that the model
        does not have, and for an array of another shape or type.
        """
        if domain is None and len(self.domains) == 1:
            (domain,) = self.domains
        if domain not in self.domains:
            raise ValueError(f"domain {domain!r}: no such head; give one of {', '.join(self.domains)}")
        pixels = self.inputs[domain]
        deep = pixels.depth != 8
        if image.ndim != 3 or image.shape[2] != len(pixels.channels) or (not deep and image.dtype != np.uint8):
            what = "RGB" if pixels.plain else ", ".join(pixels.channels)
            kind = "numbers" if deep else "uint8"
            raise ValueError(
                f"the image is {image.dtype} of shape {image.shape}; give {kind} of "
                f"(H,W,{len(pixels.channels)}), in {what}"
            )
        if deep:
            if not np.isfinite(image).all():
                raise ValueError("the image has values that are not finite; write numbers there")
            image = stretched(image, pixels.stretch or ())
        size = image.shape[0], image.shape[1]
        height, width = scaled(size, self.sizes[domain])
        small = at_size(image, height, width)
        was_training = self.training
        self.eval()
        try:
            with torch.inference_mode():
                batch = torch.from_numpy(np.ascontiguousarray(small))[None].to(self.mean.device)
                probabilities = self(batch.permute(0, 3, 1, 2), domain)[0].float().softmax(0).cpu().numpy()
        finally:
            self.train(was_training)
        if size != (height, width):  # resize by nearest neighbour, through the position of each pixel
            place = np.arange(height * width, dtype=np.float64).reshape(height, width)
            place = cv2.resize(place, size[::-1], interpolation=cv2.INTER_NEAREST).astype(np.int64)
            probabilities = probabilities.reshape(len(probabilities), -1)[:, place]
        return probabilities.argmax(0).astype(np.uint8), probabilities

    def encoder_parameters(self) -> list[nn.Parameter]:
        return list(self.encoder.parameters())


def with_new_classes(current: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights `stored` of a network whose heads had fewer classes, with the last classes of `current` appended."""
    return {
        name: torch.cat([values, current[name][len(values) :].to(values)])
        if name.startswith("heads.") and len(values) < len(current[name])
        else values
        for name, values in stored.items()
    }


NEVER = -1e4
"""A logit whose probability is 0 in every precision. It is finite in bf16 and fp16."""


@torch.no_grad()
def know_classes(model: UniversalSegmenter, spaces: Mapping[str, LabelSpace]) -> None:
    """Append classes to the heads of a trained network. The network never predicts the new classes."""
    for name, space in spaces.items():
        head = model.head(name)
        assert isinstance(head, nn.Conv2d)
        assert head.bias is not None
        if new := space.num_classes - head.out_channels:
            wider = nn.Conv2d(head.in_channels, space.num_classes, 1).to(head.weight)
            wider.weight.copy_(torch.cat([head.weight, head.weight.new_zeros(new, *head.weight.shape[1:])]))
            wider.bias.copy_(torch.cat([head.bias, head.bias.new_full((new,), NEVER)]))  # type: ignore[union-attr]
            model.heads[_key(name)] = wider
            model.spaces[name] = space


def at_stride(label: Tensor, stride: int, multiple: int) -> Tensor:
    """Labels (B,H,W) → the labels of a feature map's cells (B,⌈H/m⌉·m/s, ⌈W/m⌉·m/s) for stride s and padding multiple
    m.

    A cell has the label of the pixel at its centre. The image is padded with void.
    """
    if stride == 1:
        return label
    height, width = label.shape[-2:]
    cells = label[..., stride // 2 :: stride, stride // 2 :: stride]
    # Padding the cells gives the same as padding the pixels, which would copy the whole label.
    rows, columns = (
        len(range(stride // 2, side + -side % multiple, stride)) - have
        for side, have in zip((height, width), cells.shape[-2:], strict=True)
    )
    return F.pad(cells, (0, columns, 0, rows), value=VOID)


def _key(domain: str) -> str:
    # Unlike a domain's name, a module's name may hold no dot and may not be an attribute of ModuleDict, such as
    # "items". Different domains get different keys.
    return "of_" + domain.replace("%", "%25").replace(".", "%2E")
