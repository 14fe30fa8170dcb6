"""The contents of masks that are image files: ids, a palette, colours, or black and white. Every mask is opened.

Shapes: H×W pixels.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fewmask.class_list import Colour
from fewmask.data.kinds import Kind
from fewmask.data.reading import image_kind, read_colours, read_image, read_mask
from fewmask.formats.shapes import recode

MOST_COLOURS = 64
"""The largest number of colours in all masks together. With more, edges are mixed, or the colours are instances."""
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class PixelFacts:
    """The contents of all masks of a domain. Counts are pixels."""

    kind: str
    """"ids" or "colours"."""
    ids: Counter[int]
    colours: Counter[Colour]
    palette: dict[int, Colour]
    """The colours of indices, where all masks have one palette."""
    problem: str = ""
    """The reason, as a sentence, why the masks cannot be used."""


def inspect_masks(paths: Sequence[Path], progress: Progress | None = None) -> PixelFacts:
    """The contents of masks. If a mask cannot be read, the first such mask is the `problem`."""
    ids, colours = Counter[int](), Counter[Colour]()
    palettes: set[tuple[tuple[int, Colour], ...]] = set()
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for done, (kind, counts, palette, problem) in enumerate(pool.map(_inspect_mask, paths), 1):
            if progress:
                progress(done, len(paths))
            if problem:
                return PixelFacts("ids", ids, colours, {}, problem)
            if kind == "ids":
                ids.update(counts)
            else:
                colours.update({(c & 255, c >> 8 & 255, c >> 16): n for c, n in counts.items()})
            palettes.add(palette)
            if len(colours) > MOST_COLOURS:
                more = f"the masks hold more than {MOST_COLOURS} colours, which are no classes: edges may be mixed"
                return PixelFacts("colours", ids, colours, {}, more)
    if ids and colours:
        return PixelFacts("ids", ids, colours, {}, "some masks hold ids and some colours; convert them to one kind")
    common = dict(palettes.pop()) if len(palettes) == 1 else {}
    return PixelFacts("colours" if colours else "ids", ids, colours, common)


_MaskContents = tuple[str, dict[int, int], tuple[tuple[int, Colour], ...], str]


def _inspect_mask(path: Path) -> _MaskContents:
    try:
        kind = image_kind(path)
        if kind.container not in ("PNG", "TIFF", "BMP"):
            return "ids", {}, (), f"{path}: the mask is a {kind.container}, which changes ids; save masks as PNG"
        if kind.channels in ("RGB", "RGB and alpha"):
            pixels = read_colours(path)
            return "colours", _counted(pixels), (), ""
        mask = read_mask(path)
        return "ids", _counted(mask), _palette(path, kind, mask), ""
    except ValueError as error:
        return "ids", {}, (), str(error)


def _counted(pixels: np.ndarray) -> dict[int, int]:
    """The number of pixels by code, see `recode`."""
    if pixels.ndim == 2:
        counts = np.bincount(pixels.reshape(-1), minlength=256)
        return {int(i): int(counts[i]) for i in np.flatnonzero(counts)}
    _, codes = recode(pixels, {})
    if len(codes) > 4 * MOST_COLOURS:
        return dict.fromkeys(codes, 1)
    flat = pixels.reshape(-1, 3).astype(np.int32) @ np.array([1, 256, 65536])
    values, counts = np.unique(flat, return_counts=True)
    return {int(v): int(n) for v, n in zip(values, counts, strict=True)}


def _palette(path: Path, kind: Kind, mask: np.ndarray) -> tuple[tuple[int, Colour], ...]:
    if kind.channels != "palette":
        return ()
    colours = read_image(path)
    return tuple((int(i), _first(colours, mask == i)) for i in np.unique(mask))


def _first(colours: np.ndarray, mask: np.ndarray) -> Colour:
    red, green, blue = colours[mask][0].tolist()
    return red, green, blue


def is_photo(path: Path) -> bool:
    """Whether an image has too many colours for a mask."""
    try:
        kind = image_kind(path)
        if kind.container in ("JPEG", "WebP"):
            return True
        codes = recode(read_image(path), {})[1]
        return len(codes) > min(256, kind.width * kind.height / 4)
    except ValueError:
        return False
