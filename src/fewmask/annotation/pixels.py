"""Reads painted masks by the colours of their palettes.

Shapes: H×W pixels of an image.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fewmask.data.pictures import mask_palette
from fewmask.labels import NOT_LABELLED, VOID, LabelSpace, Mask


def by_palette(raw: Mask, png: bytes, space: LabelSpace) -> Mask | None:
    """The contract values (H,W) of a mask by the colours of its PNG. None where the pixels are ids.

    They are ids where the PNG has no palette, has 256 greys in order, or has the palette that we write. With another
    palette a pixel means what its colour means in ours: programs that keep only the used colours renumber them. Raises
    ValueError for a colour without a meaning or with several, and for transparent pixels.
    """
    if png[25] != PALETTE:
        return None
    colours = np.frombuffer(_chunk(png, b"PLTE"), np.uint8).reshape(-1, 3)
    alpha, written_palette, used = _chunk(png, b"tRNS"), mask_palette(space), np.unique(raw).tolist()
    greys = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    is_written = len(colours) > NOT_LABELLED and np.array_equal(colours, written_palette[: len(colours)])
    if used[-1] >= len(colours):
        raise ValueError(f"index {used[-1]} is not in its palette of {len(colours)} colours; {_KEEP}")
    if is_written or np.array_equal(colours, greys):
        table = None
    else:
        table = np.zeros(256, np.uint8)
        table[used] = _meanings([colours[index].tobytes() for index in used], space)
    values = used if table is None else table[used].tolist()
    if transparent := [
        i for i, v in zip(used, values, strict=True) if i < len(alpha) and alpha[i] < 255 and v != NOT_LABELLED
    ]:
        raise ValueError(f"transparent pixels, of entries {transparent[:20]} of its palette; paint them, or {_KEEP}")
    return None if table is None else table[raw]


def _meanings(colours: Sequence[bytes], space: LabelSpace) -> list[int]:
    """The contract values of colours in the masks that we write."""
    written_palette = mask_palette(space)
    ids = [*space.raw_ids, *space.void_ids, NOT_LABELLED, VOID]
    meanings: dict[bytes, set[int]] = {}
    for raw_id, value in zip(ids, space.encode(np.array([ids], np.uint8))[0].tolist(), strict=True):
        meanings.setdefault(written_palette[raw_id].tobytes(), set()).add(value)
    for colour in colours:
        if len(values := meanings.get(colour, set())) != 1:
            names = ", ".join(_value_name(value, space) for value in sorted(values)) or "nothing that is to be painted"
            raise ValueError(
                f"its palette is not the one that was written: the colour #{colour.hex()} stands for {names}; {_KEEP}"
            )
    return [value for colour in colours for value in meanings[colour]]


_KEEP = "keep the palette of the file that was written, or save one grey channel of ids"
PALETTE = 3
"""The colour type of a PNG whose pixels are indices of a palette."""


def _value_name(value: int, space: LabelSpace) -> str:
    return {NOT_LABELLED: "not labelled", VOID: "void"}.get(value) or space.names[value]


def _chunk(png: bytes, kind: bytes) -> bytes:
    """The content of a chunk of a valid PNG; empty where the PNG has no such chunk."""
    at = 8
    while at + 8 <= len(png):
        length = int.from_bytes(png[at : at + 4])
        if png[at + 4 : at + 8] == kind:
            return png[at + 8 : at + 8 + length]
        at += 12 + length
    return b""
