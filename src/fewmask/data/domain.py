"""A domain: one dataset with its own label space, its splits, and which of its images are labelled.

Shapes: H×W pixels of an image.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import cv2
import numpy as np

from fewmask.config.inputs import PLAIN, InputSettings
from fewmask.config.scale import Scale, scaled
from fewmask.data.inputs import input_kind, read_input
from fewmask.data.masks import MaskReader, PixelMasks
from fewmask.data.reading import read_image as read_image
from fewmask.data.reading import read_mask as read_mask
from fewmask.data.reading import upright
from fewmask.formats.bands import at_size
from fewmask.labels import NOT_LABELLED, LabelSpace, Mask
from fewmask.randomness import generator

if TYPE_CHECKING:
    from fewmask.data.dataset import ImageMaskDataset

SPLITS = ("train", "val", "test")


class Source(Protocol):
    """Where a domain's pixels come from: files on disk, or a procedure."""

    def image(self, stem: str) -> np.ndarray:
        """The image (H,W,3) uint8 RGB, or (H,W,C) of the domain's channels. Raises ValueError with the file's name when
        it cannot be read."""
        ...

    def mask(self, stem: str) -> Mask:
        """The mask (H,W) uint8 in 0 … C−1, 254, 255. Raises ValueError with the file's name."""
        ...

    def has_mask(self, stem: str) -> bool: ...

    def where(self, stem: str) -> str:
        """The image's name in error messages: its path, relative to the domain's root."""
        ...


class PseudoLabels(Protocol):
    """A trained network's predictions for the pool."""

    def read(self, stem: str) -> tuple[Mask, np.ndarray] | None:
        """The most likely class (H,W) uint8 in 0 … C−1 and its confidence (H,W) uint8, see `data.pseudo`; None for an
        image without a prediction."""
        ...


@dataclass(frozen=True)
class Domain:
    """One dataset. `splits` holds stems; `labelled` are the stems of train whose masks may be used for training, and
    `partial` holds the partly labelled ones with their labelled fraction. The other pixels are 254 in their masks.

    Images of train that are not wholly labelled are the pool: training never asks for masks outside `labelled`.
    """

    name: str
    space: LabelSpace
    source: Source
    splits: Mapping[str, tuple[str, ...]]
    labelled: tuple[str, ...]
    partial: Mapping[str, float] = field(default_factory=dict)
    pseudo: PseudoLabels | None = None
    unseen: tuple[str, ...] = ()
    """The classes without a pixel in any labelled mask, if all masks were read. No head can learn them."""
    size: Scale = None
    """The size to which its images and masks are scaled when they are read."""
    input: InputSettings = PLAIN
    """The channels and the depth of its images."""

    @property
    def whole(self) -> tuple[str, ...]:
        """The stems of train whose masks are whole, in the order of the split."""
        return tuple(s for s in self.labelled if s not in self.partial)

    @property
    def unlabelled(self) -> tuple[str, ...]:
        """The pool: the stems of train that are not wholly labelled, in the order of the split."""
        whole = frozenset(self.whole)
        return tuple(s for s in self.splits["train"] if s not in whole)

    def stems(self, split: str) -> tuple[str, ...]:
        """The stems of a split. Raises ValueError for a split that is absent or empty."""
        if not self.splits.get(split):
            there = ", ".join(name for name, stems in self.splits.items() if stems)
            raise ValueError(f"domain {self.name}: no images in split {split!r}; it has {there}")
        return self.splits[split]

    def image(self, stem: str) -> np.ndarray:
        return self.source.image(stem)

    def mask(self, stem: str) -> Mask:
        return self.source.mask(stem)

    def pair(self, stem: str, labelled: bool = True) -> tuple[np.ndarray, Mask]:
        """An image and its mask, which is all 254 where the image is not labelled.

        Raises ValueError as `image` and `mask` do, and where the two have different sizes.
        """
        image = self.image(stem)
        return image, self.label(stem, (image.shape[0], image.shape[1]), labelled)

    def label(self, stem: str, size: tuple[int, int], labelled: bool = True) -> Mask:
        """The mask of an image of this size (H,W) as in `pair`."""
        mask = self.mask(stem) if labelled else np.full(size, NOT_LABELLED, np.uint8)
        if size != mask.shape:
            raise ValueError(
                f"{self.name}: {self.source.where(stem)} is {size[1]}×{size[0]} but its mask "
                f"{mask.shape[1]}×{mask.shape[0]}; make them equal (`fewmask check` lists all such pairs)"
            )
        return mask

    def dataset(self, split: str, transform: Callable[[np.ndarray, Mask], Any] | None = None) -> ImageMaskDataset:
        """A torch dataset of (image, mask): tensors (3,H,W) and (H,W) uint8, or what `transform(image, mask)` makes of
        the arrays (H,W,3) and (H,W), such as crops of one size.

        `split`: "train" holds the labelled images, "unlabelled" the pool, "val" and "test" all of theirs. In a mask 254
        is a pixel that is not labelled yet, and 255 is void: a mask of the pool is 254 where nobody has answered.
        Raises ValueError for a split without an image.
        """
        from fewmask.data.dataset import ImageMaskDataset

        if split == "unlabelled":
            return ImageMaskDataset(self.unlabelled, self._pool_pair, transform)
        stems = self.stems(split)
        if split == "train":
            labelled = frozenset(self.labelled)
            stems = tuple(stem for stem in stems if stem in labelled)
        return ImageMaskDataset(stems, self.pair, transform)

    def _pool_pair(self, stem: str) -> tuple[np.ndarray, Mask]:
        return self.pair(stem, labelled=stem in self.partial)

    def at(self, size: Scale) -> Domain:
        """The same files, scaled to another size when they are read."""
        assert isinstance(self.source, FileSource), f"{self.name}: scenes are drawn at the size of their settings"
        return replace(self, source=replace(self.source, size=size, kept=None), size=size)

    def with_labelled(self, count: int | None, seed: int) -> Domain:
        """Keep `count` labelled images, drawn without replacement by (seed, name of the domain); None keeps all.

        The draws of one seed are nested: a larger draw contains every smaller one. So the effect of more labels is not
        mixed up with the choice of images.

        Raises ValueError when train has fewer masks than that.
        """
        if count is None:
            return self
        if count > len(self.labelled):
            raise ValueError(
                f"domain {self.name}: {count} labelled images asked for, but train has {len(self.labelled)} masks; "
                "lower `labelled.images`"
            )
        rng = generator(seed, "split", row=sum(self.name.encode()))
        chosen = {self.labelled[i] for i in rng.permutation(len(self.labelled))[:count]}
        return replace(self, labelled=tuple(s for s in self.labelled if s in chosen))


@dataclass(frozen=True)
class FileSource:
    """Images and masks in files. `masks` has no entry for an image without a mask.

    All are scaled to `size`.
    """

    root: Path
    images: Mapping[str, Path]
    masks: Mapping[str, Path]
    space: LabelSpace
    size: Scale = None
    kept: dict[tuple[str, str], np.ndarray] | None = field(default=None, compare=False, repr=False)
    """Images and masks that were read, at their size. They are not read again. None keeps nothing."""
    reader: MaskReader = field(default_factory=PixelMasks)
    upright: bool = False
    """Whether images are turned as their orientation tags ask."""
    input: InputSettings = PLAIN
    read_sizes: dict[str, tuple[int, int]] = field(default_factory=dict, compare=False, repr=False)
    """H, W in its file of the image that was read last, for the mask that is read after it."""

    def image(self, stem: str) -> np.ndarray:
        return self._kept("image", stem, self._read_image)

    def mask(self, stem: str) -> Mask:
        return self._kept("mask", stem, self._read_mask)

    def _kept(self, kind: str, stem: str, read: Callable[[str], np.ndarray]) -> np.ndarray:
        if self.kept is None:
            return read(stem)
        if (kind, stem) not in self.kept:
            pixels = read(stem)
            pixels.flags.writeable = False  # the next reader gets the same array
            self.kept[kind, stem] = pixels
        return self.kept[kind, stem]

    def _read_image(self, stem: str) -> np.ndarray:
        if stem not in self.images:
            raise ValueError(f"{self.root}: there is no image {stem!r}; put it and its split back as they were")
        picture = read_input(self.images[stem], self.input)
        pixels = upright(picture.pixels, picture.kind.orientation) if self.upright else picture.pixels
        self.read_sizes.clear()
        self.read_sizes[stem] = pixels.shape[0], pixels.shape[1]
        return self._sized(self.images[stem], pixels, cv2.INTER_AREA)

    def _size(self, stem: str) -> tuple[int, int]:
        if (size := self.read_sizes.pop(stem, None)) is not None:
            return size
        kind = input_kind(self.images[stem], self.input)
        turned = self.upright and kind.orientation > 4
        return (kind.width, kind.height) if turned else (kind.height, kind.width)

    def _read_mask(self, stem: str) -> Mask:
        if stem not in self.masks:
            raise ValueError(f"{self.images[stem]}: it has no mask; add one or take it out of the labelled images")
        path = self.masks[stem]
        size = cache(lambda: self._size(stem))
        mask = self.space.encode(self.reader(stem, path, size), path)
        if self.size is not None:
            height, width = size()
            if mask.shape != (height, width):  # brought to one size the two would seem to fit
                raise ValueError(
                    f"{path}: the mask is {mask.shape[1]}×{mask.shape[0]} pixels, its image "
                    f"{width}×{height}; export the mask again at the image's size"
                )
        return self._sized(self.masks[stem], mask, cv2.INTER_NEAREST)

    def _sized(self, path: Path, pixels: np.ndarray, interpolation: int) -> np.ndarray:
        try:
            return resized(pixels, self.size, interpolation)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def has_mask(self, stem: str) -> bool:
        return stem in self.masks

    def where(self, stem: str) -> str:
        path = self.images[stem]
        if (text := str(path)).startswith(inside := f"{self.root}{os.sep}"):  # a tenth of the time of pathlib's own way
            return text.removeprefix(inside)
        return str(path.relative_to(self.root) if path.is_relative_to(self.root) else path)


def resized(pixels: np.ndarray, size: Scale, interpolation: int = cv2.INTER_AREA) -> np.ndarray:
    """Scale an image or mask to a size, by default by the mean of pixels. Raises ValueError if the result is too
    small."""
    height, width = scaled((pixels.shape[0], pixels.shape[1]), size)
    return at_size(pixels, height, width, interpolation)
