"""Polygons and colours as pixels.

Shapes: P points · H×W pixels of an image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from fewmask.data.pictures import mask_palette
from fewmask.labels import NOT_LABELLED, VOID, LabelSpace, Mask

MAX_CROSSINGS = 2_000_000
"""Of a polygon's edges with rows of pixels: those of one that people draw are a few thousand."""
FARTHEST = 1 << 31
"""Pixels from the image's corner at which a point may lie."""
CROSSING = 16
"""Pixels that are painted in the time of one crossing."""


@dataclass(frozen=True)
class Painted:
    """What came of painting a shape."""

    pixels: int
    work: int
    """What it took, in pixels."""


def fill_polygon(points: np.ndarray, mask: np.ndarray, value: int) -> Painted:
    """Paint a value on the pixels of a mask (H,W) whose centres lie in a polygon (P,2) of x, y; outside is cut off.

    The pixel at column 0 of row 0 is the square from (0, 0) to (1, 1), its centre (0.5, 0.5). Where the outline crosses
    itself the even-odd rule holds. Raises ValueError for fewer than three points, and for more than can be drawn.
    """
    if points.ndim != 2 or points.shape[1] != 2 or len(points) < 3 or not np.isfinite(points).all():
        raise ValueError(f"a polygon of {len(points)} points; it needs three or more, each two finite numbers")
    if np.abs(points).max() > FARTHEST:
        raise ValueError(f"a polygon with a point at {np.abs(points).max():.3g}; keep points near the image")
    height, width = mask.shape
    (x0, y0), (x1, y1) = points.T, np.roll(points, -1, axis=0).T
    upper, lower = np.minimum(y0, y1), np.maximum(y0, y1)
    first, last = (np.clip(np.ceil(y - 0.5), 0, height).astype(np.int64) for y in (upper, lower))
    rows = last - first
    if rows.sum() > MAX_CROSSINGS:
        raise ValueError(f"a polygon of {len(points)} points whose edges cross {rows.sum()} rows; draw a simpler one")
    if not rows.any():
        return Painted(0, len(points))
    top, bottom = int(first[rows > 0].min()), int(last.max())
    edge = np.repeat(np.arange(len(rows)), rows)
    row = np.arange(edge.size) - np.repeat(np.cumsum(rows) - rows, rows) + first[edge]
    slope = (x1 - x0)[edge] / (y1 - y0)[edge]
    column = np.clip(np.ceil(x0[edge] + (row + 0.5 - y0[edge]) * slope - 0.5), 0, width).astype(np.int64)
    left, right = int(column.min()), int(column.max())
    wide = right - left + 1
    flips = np.bincount((row - top) * wide + column - left, minlength=(bottom - top) * wide)
    inside = np.cumsum(flips.reshape(-1, wide), axis=1)[:, :-1] & 1
    mask[top:bottom, left:right][inside.astype(bool)] = value
    return Painted(int(inside.sum()), len(points) + CROSSING * edge.size + inside.size)


def recode(picture: np.ndarray, values: Mapping[int, int]) -> tuple[Mask, list[int]]:
    """A picture's pixels as the values (H,W) uint8 that its codes stand for, and the codes that it has, in order.

    Pixels of a code that stands for none are 0: whoever calls has to look.

    Of one channel (H,W) uint8 the codes are the pixels, of colours (H,W,3) uint8 they are R + 256·G + 65536·B, as in
    COCO's panoptic PNGs. Masks are smooth: what is looked up is each run of equal pixels, and not each pixel.
    """
    colours = picture.ndim == 3
    flat = (cv2.cvtColor(picture, cv2.COLOR_RGB2RGBA).view(np.int32) if colours else picture).reshape(-1)
    starts = np.flatnonzero(np.concatenate([[True], flat[1:] != flat[:-1]]))
    codes, run = np.unique(flat[starts] & (0xFFFFFF if colours else 0xFF), return_inverse=True)
    known = [values.get(code) for code in codes.tolist()]
    found = np.array([0 if value is None else value for value in known], np.uint8)
    return np.repeat(found[run], np.diff(starts, append=flat.size)).reshape(picture.shape[:2]), codes.tolist()


def by_palette(raw: Mask, png: bytes, space: LabelSpace) -> Mask | None:
    """The contract values (H,W) of a mask's indices by the colours of its PNG; None where the indices are the ids.

    They are where the PNG has no palette, or 256 greys in order, or the palette that we write. Programs that keep only
    the colours in use number them anew, so with any other palette a pixel is what its colour stands for in ours. Raises
    ValueError for a colour that stands for nothing or for several things, and for pixels that are transparent.
    """
    if png[25] != PALETTE:
        return None
    colours = np.frombuffer(_chunk(png, b"PLTE"), np.uint8).reshape(-1, 3)
    alpha, ours, used = _chunk(png, b"tRNS"), mask_palette(space), np.unique(raw).tolist()
    greys = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    same = len(colours) > NOT_LABELLED and np.array_equal(colours, ours[: len(colours)])
    if used[-1] >= len(colours):
        raise ValueError(f"index {used[-1]} is not in its palette of {len(colours)} colours; {_KEEP}")
    if same or np.array_equal(colours, greys):
        table = None
    else:
        table = np.zeros(256, np.uint8)
        table[used] = _meanings([colours[index].tobytes() for index in used], space)
    values = used if table is None else table[used].tolist()
    if clear := [
        i for i, v in zip(used, values, strict=True) if i < len(alpha) and alpha[i] < 255 and v != NOT_LABELLED
    ]:
        raise ValueError(f"transparent pixels, of entries {clear[:20]} of its palette; paint them, or {_KEEP}")
    return None if table is None else table[raw]


def _meanings(colours: Sequence[bytes], space: LabelSpace) -> list[int]:
    """The contract values that colours stand for in the masks that we write."""
    ours = mask_palette(space)
    ids = [*space.raw_ids, *space.void_ids, NOT_LABELLED, VOID]
    meanings: dict[bytes, set[int]] = {}
    for raw_id, value in zip(ids, space.encode(np.array([ids], np.uint8))[0].tolist(), strict=True):
        meanings.setdefault(ours[raw_id].tobytes(), set()).add(value)
    for colour in colours:
        if len(values := meanings.get(colour, set())) != 1:
            names = ", ".join(_called(value, space) for value in sorted(values)) or "nothing that is to be painted"
            raise ValueError(
                f"its palette is not the one that was written: the colour #{colour.hex()} stands for {names}; {_KEEP}"
            )
    return [value for colour in colours for value in meanings[colour]]


_KEEP = "keep the palette of the file that was written, or save one grey channel of ids"
PALETTE = 3
"""The kind of a PNG whose pixels are places in a palette."""


def _called(value: int, space: LabelSpace) -> str:
    return {NOT_LABELLED: "not labelled", VOID: "void"}.get(value) or space.names[value]


def _chunk(png: bytes, kind: bytes) -> bytes:
    """The content of a chunk of a PNG that was decoded already; empty where there is none."""
    at = 8
    while at + 8 <= len(png):
        length = int.from_bytes(png[at : at + 4])
        if png[at + 4 : at + 8] == kind:
            return png[at + 8 : at + 8 + length]
        at += 12 + length
    return b""
