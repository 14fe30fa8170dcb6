"""Reads the masks of a domain: from ids, from colours, or from annotated shapes.

Shapes: H×W pixels of an image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from fewmask.class_list import ClassList, Colour
from fewmask.data.headers import MAX_PIXELS
from fewmask.data.reading import read_colours, read_mask
from fewmask.formats.rle import positions
from fewmask.formats.shapes import fill_rings, recode
from fewmask.labels import LabelSpace, Mask

Size = tuple[int, int]
BACKGROUND = "background"
"""The class of pixels that nobody annotated, if the domain has it. Otherwise these pixels are void."""


class MaskReader(Protocol):
    """Reads the mask of an image as the domain's raw ids (H,W) uint8. Raises ValueError that names the file.

    `path` is the mask's file. `size` returns H, W of the image, after the turn by its orientation tag if that is
    applied.
    """

    def __call__(self, stem: str, path: Path, size: Callable[[], Size]) -> Mask: ...


def size_of(image: np.ndarray | None) -> Size:
    """H, W of an image (H,W,3). Raises ValueError for one that could not be read."""
    if image is None:
        raise ValueError("its image cannot be read; fix that first")
    return image.shape[0], image.shape[1]


@dataclass(frozen=True)
class ClassIds:
    """The raw ids of class names."""

    ids: Mapping[str, int]
    void: int
    ignored: frozenset[str] = frozenset()
    """Names that are void."""

    @classmethod
    def of(cls, listed: ClassList, space: LabelSpace) -> ClassIds:
        return cls(dict(zip(listed.names, listed.ids, strict=True)), space.void_id, listed.void_names)

    @property
    def unpainted(self) -> int:
        return self.ids.get(BACKGROUND, self.void)

    def of_name(self, name: str, where: object) -> int:
        """Raises ValueError for a name that is no class."""
        if name in self.ids:
            return self.ids[name]
        if name in self.ignored:
            return self.void
        there = ", ".join(self.ids)
        raise ValueError(
            f"{where}: {name!r} is no class of {there}; add it to the classes or to `ignore` in classes.yaml"
        )


@dataclass(frozen=True)
class PixelMasks:
    """Image files of ids or of colours."""

    colours: Mapping[Colour, int] = field(default_factory=dict)
    """The raw id of each colour, where every class states one."""

    def __call__(self, stem: str, path: Path, size: Callable[[], Size]) -> Mask:
        return read_mask(path, self.colours)


def colours_of(listed: ClassList, space: LabelSpace) -> dict[Colour, int]:
    """The raw id of each colour; empty if a class states no colour. Raises ValueError for a colour of two classes."""
    id_of_colour: dict[Colour, int] = {}
    for raw, name, colour in zip(listed.ids, listed.names, listed.colours, strict=True):
        if colour is None:
            return {}
        if colour in id_of_colour or colour in listed.void_colours:
            raise ValueError(
                f"the colour {list(colour)} of {name} is also that of another class; give each class its own"
            )
        id_of_colour[colour] = raw
    return id_of_colour | dict.fromkeys(listed.void_colours, space.void_id)


@dataclass(frozen=True)
class BinaryMasks:
    """One black and white image for each class of an image. Pixels that are not black have the class.

    Where two overlap, the class that comes later in `classes.yaml` wins. Pixels that are black in all of them are
    background.
    """

    files: Mapping[str, Sequence[tuple[int, Path]]]
    """By stem the raw ids and their files, in the order of the classes."""
    unpainted: int

    def __call__(self, stem: str, path: Path, size: Callable[[], Size]) -> Mask:
        mask: Mask | None = None
        for raw, file in self.files[stem]:
            inside = _black_and_white(file)
            if mask is None:
                mask = np.full(inside.shape, self.unpainted, np.uint8)
            if inside.shape != mask.shape:
                first = self.files[stem][0][1]
                raise ValueError(
                    f"{file}: {inside.shape[1]}×{inside.shape[0]} pixels, {first} is {mask.shape[1]}×{mask.shape[0]}; "
                    "export them again at the image's size"
                )
            mask[inside] = raw
        assert mask is not None
        return mask


def _black_and_white(path: Path) -> np.ndarray:
    """(H,W) bool: the pixels that are not black, in an image of black and one other colour."""
    pixels = read_colours(path)
    _, codes = recode(pixels, {})
    others = [code for code in codes if code]
    if len(others) > 1:
        colours = ", ".join(str([c & 255, c >> 8 & 255, c >> 16]) for c in others[:4])
        raise ValueError(f"{path}: more than black and one colour: {colours}; save one mask a class, of 0 and 255")
    return recode(pixels, dict.fromkeys(others, 1))[0].astype(bool)


# ── What annotators drew ─────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Rings:
    """An area between outlines (P,2) of x, y, by the even-odd rule: an outline inside another one is a hole."""

    value: int
    rings: Sequence[np.ndarray]

    def paint(self, mask: Mask) -> None:
        fill_rings(self.rings, mask, self.value)


@dataclass(frozen=True)
class Runs:
    """Runs of pixels that alternate between outside and inside, down the columns of an image or along the rows of a
    box."""

    value: int
    runs: np.ndarray
    box: tuple[int, int, int, int] | None = None
    """Top, left, height and width; None for the columns of the whole image."""

    def paint(self, mask: Mask) -> None:
        if self.box is None:
            x, y = np.divmod(positions(self.runs, mask.size), mask.shape[0])
        else:
            top, left, height, width = self.box
            if min(top, left, height, width) < 0 or top + height > mask.shape[0] or left + width > mask.shape[1]:
                raise ValueError(f"a mask at column {left}, row {top} of {width}×{height} pixels, outside of the image")
            y, x = np.divmod(positions(self.runs, height * width), max(width, 1))
            y, x = y + top, x + left
        mask[y, x] = self.value


Shape = Rings | Runs


def check_size(size: Size, where: object) -> None:
    """Raises ValueError that names `where` if no image can have the size H, W."""
    height, width = size
    if min(size) < 1 or height * width > MAX_PIXELS:
        raise ValueError(f"{where}: claims {width}×{height} pixels; export it again")


def drawn(shapes: Sequence[Shape], size: Size, unpainted: int, where: object) -> Mask:
    """Paint shapes into a mask (H,W). Where they overlap, the later one wins. Raises ValueError that names `where`."""
    check_size(size, where)
    mask = np.full(size, unpainted, np.uint8)
    for number, shape in enumerate(shapes, 1):
        try:
            shape.paint(mask)
        except (ValueError, OverflowError) as error:
            raise ValueError(f"{where}: shape {number}: {error}; draw it again") from None
    return mask
