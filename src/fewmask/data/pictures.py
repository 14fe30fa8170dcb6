"""Pictures for people: masks as palette PNGs, overlays, class legends, and sheets of pictures side by side.

Shapes: H×W pixels of a picture.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fewmask.class_list import Colour
from fewmask.files import write_atomically, write_bytes
from fewmask.formats.bands import as_rgb
from fewmask.labels import NOT_LABELLED, LabelSpace, Mask

PAPER: Colour = (255, 255, 255)
INK: Colour = (40, 44, 52)
FAINT: Colour = (120, 126, 138)
STRIP = 2**21
"""Pixels of an overlay that are blended at a time: blending takes 30 bytes for each."""
# In pixels: margin around a sheet, gap between its pictures, size of its text, edge of a legend's colour.
MARGIN, GAP, TEXT, SWATCH = 16, 8, 15, 13


@dataclass(frozen=True)
class Row:
    """One row of a sheet: pictures (H,W,3) uint8 RGB; `space` is the legend's, `caption` stands at the row's left."""

    pictures: Sequence[np.ndarray]
    space: LabelSpace | None = None
    caption: str = ""


def write_mask(path: Path, mask: Mask, space: LabelSpace) -> None:
    """Write a mask (H,W) of contract values as an 8-bit palette PNG of the dataset's own ids, coloured by the space.

    The file is replaced as a whole or stays as it was. Raises ValueError when the dataset has no id for a value of the
    mask.
    """
    write_bytes(path, mask_png(path, mask, space))


def mask_png(path: Path, mask: Mask, space: LabelSpace) -> bytes:
    """The bytes that `write_mask` writes. Errors name `path`."""
    try:
        raw = space.decode(mask)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    image = Image.fromarray(np.ascontiguousarray(raw))
    image.putpalette(mask_palette(space).tobytes())
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def mask_palette(space: LabelSpace) -> np.ndarray:
    """The palette (256,3) uint8 of the masks that `write_mask` writes, by the dataset's own ids."""
    palette = np.zeros((256, 3), dtype=np.uint8)
    palette[space.not_labelled_id] = space.palette()[NOT_LABELLED]
    for raw_id, index in space.raw_ids.items():
        palette[raw_id] = space.colours[index]
    return palette


def write_image(path: Path, image: np.ndarray) -> None:
    """Write a picture (H,W,3) uint8 RGB as PNG or JPEG, by its name's ending. The file is replaced as a whole. An image
    with other channels is shown as RGB.

    Raises ValueError for another ending.
    """
    formats = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
    if path.suffix.lower() not in formats:
        raise ValueError(f"{path}: pictures are written as .png or .jpg, not {path.suffix or 'without an ending'}")
    _write(path, Image.fromarray(np.ascontiguousarray(as_rgb(image))), formats[path.suffix.lower()])


def overlay(image: np.ndarray, mask: Mask, space: LabelSpace, opacity: float = 0.5, zoom: int = 1) -> np.ndarray:
    """The image (H,W,3) with the colours of its mask (H,W) blended over it, and the classes' borders in full colour.

    Pixels that are void or not labelled stay as in the image. `zoom` enlarges first, so that borders of small images
    stay thin; the result is (zoom·H, zoom·W, 3) uint8. Raises ValueError when image and mask differ in size.
    """
    image = as_rgb(image)
    if image.shape[:2] != mask.shape:
        raise ValueError(f"an image of {image.shape[:2]} pixels and a mask of {mask.shape}; they must be of one size")
    if zoom != 1:
        image = enlarge(image, zoom)
        mask = np.repeat(np.repeat(mask, zoom, 0), zoom, 1)
    blended = np.empty((*mask.shape, 3), np.uint8)
    rows = max(1, STRIP // max(mask.shape[1], 1))
    for top in range(0, len(mask), rows):
        # One row more above and below: a border is between two rows.
        first, end = max(top - 1, 0), min(top + rows, len(mask))
        part = _blended(image[first : end + 1], mask[first : end + 1], space, opacity)
        blended[top:end] = part[top - first : end - first]
    return blended


def _blended(image: np.ndarray, mask: Mask, space: LabelSpace, opacity: float) -> np.ndarray:
    labelled = mask < NOT_LABELLED
    border = np.zeros(mask.shape, dtype=bool)
    across, down = mask[:, 1:] != mask[:, :-1], mask[1:] != mask[:-1]
    border[:, 1:] |= across
    border[:, :-1] |= across
    border[1:] |= down
    border[:-1] |= down
    weight = np.where(border, np.float32(1), np.float32(opacity)) * labelled
    blended = image + (space.colourise(mask).astype(np.float32) - image) * weight[..., None]
    return (blended + 0.5).astype(np.uint8)


def enlarge(image: np.ndarray, zoom: int) -> np.ndarray:
    """The picture (H,W,3), smoothly enlarged to (zoom·H, zoom·W, 3)."""
    height, width = image.shape[:2]
    return cv2.resize(image, (zoom * width, zoom * height), interpolation=cv2.INTER_CUBIC)


def legend(space: LabelSpace, present: Iterable[int] | None = None, width: int = 640) -> np.ndarray:
    """The names and colours of a space's classes, in lines of at most `width` pixels: a picture (h, width, 3) uint8.

    `present` are the classes to name; all by default.
    """
    font = _font(TEXT)
    chosen = range(space.num_classes) if present is None else sorted({i for i in present if i < space.num_classes})
    places, x, y, line = [], 0, 0, TEXT + 9
    for index in chosen:
        long = SWATCH + 6 + round(font.getlength(space.names[index]))
        if x and x + long > width:
            x, y = 0, y + line
        places.append((x, y, index))
        x += long + 18
    canvas = Image.new("RGB", (width, y + line), PAPER)
    pen = ImageDraw.Draw(canvas)
    for x, y, index in places:
        middle = y + line // 2
        pen.rounded_rectangle((x, middle - SWATCH // 2, x + SWATCH, middle + SWATCH // 2), 3, space.colours[index])
        pen.text((x + SWATCH + 6, middle), space.names[index], INK, font, anchor="lm")
    return np.array(canvas)


def sheet(rows: Sequence[Row], titles: Sequence[str] = (), cell: int = 240) -> np.ndarray:
    """Pictures in rows under column titles, each `cell` pixels high, with a legend below the last row of each space.

    Rows may hold pictures of any size: each keeps its proportions, and a column is as wide as its widest picture.
    Returns (H,W,3) uint8 RGB. Raises ValueError when there is nothing to show or a row has not one picture a title.
    """
    if not rows or not rows[0].pictures:
        raise ValueError("a sheet needs at least one picture")
    columns = len(titles) or len(rows[0].pictures)
    for i, row in enumerate(rows):
        if len(row.pictures) != columns:
            raise ValueError(f"row {i} has {len(row.pictures)} pictures for {columns} columns; give one each")
    cells = [[_fit(picture, cell) for picture in row.pictures] for row in rows]
    widths = [max(line[column].shape[1] for line in cells) for column in range(columns)]
    side = TEXT + 12 if any(row.caption for row in rows) else 0
    inner = sum(widths) + GAP * (columns - 1)
    legends: list[np.ndarray | None] = []
    for i, row in enumerate(rows):
        last = i + 1 == len(rows) or rows[i + 1].space != row.space
        legends.append(legend(row.space, width=inner) if row.space is not None and last else None)
    head = TEXT + 14 if titles else 0
    strips = sum(strip.shape[0] + 2 * GAP for strip in legends if strip is not None)
    height = 2 * MARGIN + head + len(rows) * (cell + GAP) - GAP + strips
    canvas = Image.new("RGB", (2 * MARGIN + side + inner, height), PAPER)
    pen = ImageDraw.Draw(canvas)
    lefts = [MARGIN + side + sum(widths[:i]) + GAP * i for i in range(columns)]
    for title, left, wide in zip(titles, lefts, widths, strict=False):
        pen.text((left + wide // 2, MARGIN + TEXT // 2), title, INK, _font(TEXT + 1), anchor="mm")
    y = MARGIN + head
    for row, line, strip in zip(rows, cells, legends, strict=True):
        if row.caption:
            canvas.paste(_upright(row.caption, cell), (MARGIN - 4, y))
        for picture, left, wide in zip(line, lefts, widths, strict=True):
            canvas.paste(Image.fromarray(picture), (left + (wide - picture.shape[1]) // 2, y))
        y += cell + GAP
        if strip is not None:
            canvas.paste(Image.fromarray(strip), (MARGIN + side, y))
            y += strip.shape[0] + 2 * GAP
    return np.array(canvas)


def _fit(picture: np.ndarray, height: int) -> np.ndarray:
    """The picture at `height` pixels, in its proportions."""
    if picture.shape[0] == height:
        return picture
    width = max(round(picture.shape[1] * height / picture.shape[0]), 1)
    way = cv2.INTER_AREA if picture.shape[0] > height else cv2.INTER_CUBIC
    return cv2.resize(picture, (width, height), interpolation=way)


def _upright(text: str, length: int) -> Image.Image:
    """A line of text that reads from below."""
    strip = Image.new("RGB", (length, TEXT + 8), PAPER)
    ImageDraw.Draw(strip).text((length // 2, (TEXT + 8) // 2), text, FAINT, _font(TEXT), anchor="mm")
    return strip.transpose(Image.Transpose.ROTATE_90)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _write(path: Path, image: Image.Image, kind: str) -> None:
    options = {"quality": 92} if kind == "JPEG" else {}
    write_atomically(path, lambda file: image.save(file, kind, **options))
