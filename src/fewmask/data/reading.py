"""Decodes the pixels of image files and mask files.

`data.kinds` lists the kinds of files and the verdict on each. Pixels are read as stored in the file.

Shapes: H×W pixels of an image.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import simplejpeg
from PIL import Image, PngImagePlugin
from PIL.Image import Transpose
from PIL.TiffImagePlugin import TiffImageFile

from fewmask.class_list import Colour
from fewmask.data.headers import (
    AGAIN,
    ORIENTATION,
    damaged,
    examine,
    is_png,
    is_tiff,
    plain_scans,
    png_chunks,
    tiff_strips,
    white_is_zero,
)
from fewmask.data.kinds import MASKS, NO_MASK, Cell, Kind, judge, judge_properties
from fewmask.formats.shapes import recode
from fewmask.labels import Mask

LOSSY = ("old-style JPEG", "JPEG", "JPEG 2000", "WebP")
"""Compressions of a TIFF that may change pixels."""


class Picture(NamedTuple):
    """An image (H,W,3) uint8 RGB, and the kind of its file."""

    pixels: np.ndarray
    kind: Kind


def read_image(path: Path) -> np.ndarray:
    """An image file as (H,W,3) uint8 RGB, in the orientation of its pixels. Raises ValueError that names the file.

    The table in docs/formats.md states what is read, and how. A truncated or damaged file is an error and is never
    filled with grey.
    """
    return read_picture(path).pixels


def read_picture(path: Path) -> Picture:
    """As `read_image`, with the kind of the file."""
    data, kind = _examined(path)
    decoded = {"JPEG": _jpeg, "PNG": _png, "TIFF": _tiff}.get(kind.container, _pillow)(data, kind, path)
    if decoded.shape != (kind.height, kind.width, 3):
        raise damaged(path, f"its header claims {kind.width}×{kind.height} pixels")
    return Picture(decoded, kind)


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """An image (H,W,3) turned as its orientation tag asks; 1 leaves it as stored."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def image_kind(path: Path) -> Kind:
    """The kind of an image file, such as its size, without decoding its pixels. Errors as in `read_image`."""
    return _examined(path)[1]


def read_mask(path: Path, colours: Mapping[Colour, int] | None = None) -> Mask:
    """A mask file as its raw ids (H,W) uint8. The ids of a palette are its indices. Raises ValueError that names the
    file.

    PNG, TIFF and BMP are read, with one channel of 8 or 16 bits, with a palette, or with colours if `colours` gives
    their ids. JPEG is refused because it changes ids.
    """
    return decode_mask(read_bytes(path), path, colours)


def decode_mask(data: bytes, path: Path, colours: Mapping[Colour, int] | None = None) -> Mask:
    """As `read_mask`, from a file's bytes. Errors name `path`."""
    kind = _mask_kind(data, path)
    other = NO_MASK._replace(how=f"pixels of kind {kind.channels} with {kind.depth} bits a channel")
    cell = MASKS.get((kind.channels, kind.depth), other)
    if cell.verdict == "by colours" and colours:
        return _ids_of_colours(data, kind, path, colours)
    if cell.verdict == "by colours":
        cell = cell._replace(verdict="refused")
        if colours is None:  # the caller cannot read colours
            cell = cell._replace(fix="save one channel of class ids")
    _refuse(cell, path)
    if kind.container == "TIFF":
        if white_is_zero(data):
            raise ValueError(f"{path}: its 0 is white (WhiteIsZero), so that ids are read in two ways; save it as PNG")
        return _narrow(_tiff(data, kind, path, None), path)
    if kind.container == "BMP":
        return _narrow(_pillow(data, kind, path, None), path)
    if kind.channels == "palette":
        return _indices(data, kind, path)
    if kind.depth == "16":
        return _narrow(decode_png(data, cv2.IMREAD_UNCHANGED, path), path)
    return decode_png(data, cv2.IMREAD_GRAYSCALE, path)


def read_colours(path: Path) -> np.ndarray:
    """The colours of a mask (H,W,3) uint8 RGB. Raises ValueError if a pixel is transparent, or if `read_mask` refuses
    files of this kind."""
    data = read_bytes(path)
    kind = _mask_kind(data, path)
    if kind.channels in ("RGB", "RGB and alpha") and kind.depth == "8":
        return _opaque(data, kind, path)
    if "alpha" in kind.channels or kind.clear:
        raise ValueError(f"{path}: it has transparent pixels; save it without alpha")
    return read_image(path)


def _narrow(ids: np.ndarray, path: Path) -> Mask:
    """Ids of 8 or 16 bits (H,W) as uint8."""
    if ids.size and ids.max() > 255:
        y, x = np.argwhere(ids > 255)[0]
        raise ValueError(
            f"{path}: 16 bits a pixel, and {ids[y, x]} at column {x}, row {y} is no id: ids are 0 to 255; renumber them"
        )
    return ids.astype(np.uint8)


def _opaque(data: bytes, kind: Kind, path: Path) -> np.ndarray:
    """The colours (H,W,3) of a mask with RGB of 8 bits, with or without alpha."""
    if kind.clear:
        raise ValueError(f"{path}: one of its colours is transparent; save it without")
    if kind.container == "TIFF":
        pixels = _tiff(data, kind, path, None)
    elif kind.container == "BMP":
        pixels = _pillow(data, kind, path, None)
    else:
        pixels = decode_png(data, cv2.IMREAD_UNCHANGED, path)
        pixels = cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGBA if kind.channels == "RGB and alpha" else cv2.COLOR_BGR2RGB)
    if pixels.shape[2] == 4 and (clear := np.argwhere(pixels[..., 3] < 255)).size:
        y, x = clear[0]
        raise ValueError(f"{path}: transparent at column {x}, row {y}; save it without alpha")
    return np.ascontiguousarray(pixels[..., :3])


def _ids_of_colours(data: bytes, kind: Kind, path: Path, colours: Mapping[Colour, int]) -> Mask:
    pixels = _opaque(data, kind, path)
    values = {r + 256 * g + 65536 * b: number for (r, g, b), number in colours.items()}
    mask, codes = recode(pixels, values)
    if unknown := [code for code in codes if code not in values]:
        descriptions = []
        for code in unknown[:5]:
            colour = code & 255, code >> 8 & 255, code >> 16
            where = np.argwhere((pixels == np.array(colour, np.uint8)).all(2))
            descriptions.append(
                f"{list(colour)} ({len(where)} pixels, the first at column {where[0, 1]}, row {where[0, 0]})"
            )
        more = f" and {len(unknown) - 5} more" * (len(unknown) > 5)
        raise ValueError(
            f"{path}: colours of no class: {', '.join(descriptions)}{more}; give them to classes or to `ignore` in "
            "classes.yaml, or fix the mask"
        )
    return mask


def decode_colours(data: bytes, path: Path) -> np.ndarray:
    """The bytes of a PNG with 8 bits a channel, RGB or a palette, as colours (H,W,3) uint8.

    One grey channel is returned as its values (H,W), whose meaning the caller knows. Errors as in `decode_mask`.
    """
    kind = _png_kind(data, path)
    if (kind.channels, kind.depth) == ("RGB", "8"):
        return _png(data, kind, path)
    cell = MASKS.get((kind.channels, kind.depth), NO_MASK)
    if "colours" in cell.how:
        cell = cell._replace(verdict="refused", fix="save three channels of 8 bits")
    elif kind.depth == "16":
        cell = Cell("refused", "16 bits a pixel", "save it with 8 bits a pixel")
    _refuse(cell, path)
    return _png(data, kind, path) if kind.channels == "palette" else decode_png(data, cv2.IMREAD_GRAYSCALE, path)


def png_size(data: bytes, path: Path) -> tuple[int, int]:
    """(H, W) of a PNG that is whole, before any pixel is unpacked. Raises ValueError that names the file."""
    kind = _png_kind(data, path)
    return kind.height, kind.width


def read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); fix the path or its permissions") from None


def _examined(path: Path) -> tuple[bytes, Kind]:
    """The bytes of an image that is not refused, and its kind."""
    data = read_bytes(path)
    kind = examine(data, path)
    for cell in judge(kind):
        _refuse(cell, path)
    return data, kind


def _png_kind(data: bytes, path: Path) -> Kind:
    """The kind of a PNG that is no animation."""
    if data and not is_png(data):
        _refuse(NO_MASK, path)
    kind = examine(data, path)
    for cell in judge_properties(kind):
        _refuse(cell, path)
    return kind


def _mask_kind(data: bytes, path: Path) -> Kind:
    """The kind of a PNG, of a BMP, or of a TIFF of one page."""
    if data and not is_png(data) and not is_tiff(data) and not data.startswith(b"BM"):
        _refuse(NO_MASK, path)
    kind = examine(data, path)
    for cell in judge_properties(kind):
        _refuse(cell, path)
    if kind.compression in LOSSY:
        raise ValueError(f"{path}: compressed as {kind.compression}, which changes pixels; save it as PNG")
    return kind


def _refuse(cell: Cell, path: Path) -> None:
    if cell.verdict == "refused":
        raise ValueError(f"{path}: {cell.how}; {cell.fix}")


def _jpeg(data: bytes, kind: Kind, path: Path) -> np.ndarray:
    """Decode with libjpeg. It warns of damage and continues with grey, so its first warning is an error here."""
    try:
        decoded = simplejpeg.decode_jpeg(plain_scans(data), "CMYK" if kind.channels == "CMYK" else "RGB", strict=True)
    except ValueError as error:
        raise damaged(path, error) from None
    if kind.channels == "RGB" or kind.channels == "grey":
        return decoded
    # Programs store CMYK in JPEG inverted, since Photoshop did.
    ink = decoded.astype(np.uint16)
    return ((ink[..., :3] * ink[..., 3:] + 127) // 255).astype(np.uint8)


def _png(data: bytes, kind: Kind, path: Path) -> np.ndarray:
    return cv2.cvtColor(decode_png(data, cv2.IMREAD_COLOR, path), cv2.COLOR_BGR2RGB)


def decode_png(data: bytes, mode: int, path: Path) -> np.ndarray:
    """Decode a PNG with OpenCV, which refuses a PNG with missing rows."""
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), mode | cv2.IMREAD_IGNORE_ORIENTATION)
    if pixels is None:
        raise ValueError(f"{path}: truncated, rows are missing, or damaged; {AGAIN}")
    return pixels


def _indices(data: bytes, kind: Kind, path: Path) -> np.ndarray:
    """The indices of a palette PNG (H,W), which OpenCV turns into colours."""
    # Pillow fills rows that the data lacks with id 0, without a warning. (An interlaced mask has more bytes than this.)
    rows = kind.height * (1 + (kind.width * int(kind.depth) + 7) // 8)
    packed = b"".join(body for name, body in png_chunks(path, data) if name == b"IDAT")
    try:
        if len(zlib.decompressobj().decompress(packed, rows)) < rows and not kind.step:
            raise ValueError(f"{path}: truncated, rows are missing; {AGAIN}")
    except zlib.error as error:
        raise damaged(path, error) from None
    try:
        # Not Image.open: it has a size limit of its own.
        with PngImagePlugin.PngImageFile(io.BytesIO(data)) as image:
            return np.array(image)
    except Exception as error:  # Pillow raises half a dozen types
        raise damaged(path, error) from None


def _tiff(data: bytes, kind: Kind, path: Path, mode: str | None = "RGB") -> np.ndarray:
    """Decode with Pillow, after a check of what libtiff ignores: warnings of libjpeg and checksums of Deflate."""
    try:
        for strip in tiff_strips(data) if kind.compression in ("JPEG", "Deflate") else ():
            if kind.compression == "Deflate":
                unpacking = zlib.decompressobj()
                unpacking.decompress(strip, 8 * kind.width * kind.height * kind.bands + 1024)
                if not unpacking.eof:
                    raise damaged(path, "a strip has no end")
            else:
                *_, space, _ = simplejpeg.decode_jpeg_header(strip, strict=True)
                space = "CMYK" if space in ("CMYK", "YCCK") else "GRAY"
                simplejpeg.decode_jpeg(strip, space, min_height=1, min_width=1, strict=True)  # at an eighth: faster
    except (ValueError, zlib.error) as error:
        raise damaged(path, error) from None
    return _pillow(data, kind, path, mode)


# Pillow turns a TIFF by its orientation tag as it is loaded; this turns it back.
_BACK = {
    2: Transpose.FLIP_LEFT_RIGHT, 3: Transpose.ROTATE_180, 4: Transpose.FLIP_TOP_BOTTOM, 5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_90, 7: Transpose.TRANSVERSE, 8: Transpose.ROTATE_270,
}  # fmt: skip


def _pillow(data: bytes, kind: Kind, path: Path, mode: str | None = "RGB") -> np.ndarray:
    """The pixels in a mode of Pillow. None keeps them as stored, and a palette as its indices."""
    try:
        with Image.open(io.BytesIO(data), formats=[kind.container.upper()]) as image:
            turn = image.getexif().get(ORIENTATION, 1)
            image.load()
            applied = turn in _BACK and isinstance(image, TiffImageFile) and ORIENTATION not in image.getexif()
            lying = image.transpose(_BACK[turn]) if applied else image
            return np.array(lying.convert(mode) if mode else lying)
    except Exception as error:  # Pillow raises half a dozen types
        raise damaged(path, error) from None
