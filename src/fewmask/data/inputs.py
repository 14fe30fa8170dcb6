"""Reads image files by a domain's settings: as 8-bit RGB by default, or with any channels of any depth.

Shapes: H×W pixels · C channels.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from fewmask.config.inputs import PLAIN, Format, InputSettings
from fewmask.data import dicom, nifti
from fewmask.data.headers import damaged, examine, white_is_zero
from fewmask.data.kinds import Cell, Kind, judge, judge_properties
from fewmask.data.reading import Picture, decode_png, image_kind, read_bytes, read_picture
from fewmask.data.volumes import Reader
from fewmask.formats.bands import stretched

COUNTS = {"grey": 1, "grey and alpha": 2, "RGB": 3, "RGB and alpha": 4}
"""How many channels the pixels of a PNG have."""
_READERS: Mapping[Format, Reader] = {"dicom": dicom, "nifti": nifti}


def reader_of(form: Format) -> Reader:
    """The reader of a format other than pictures. It imports its library, an extra, when it reads the first file."""
    return _READERS[form]


def read_input(path: Path, settings: InputSettings = PLAIN) -> Picture:
    """An image file as (H,W,C) uint8, in the orientation of its pixels. Raises ValueError that names the file."""
    if settings.plain:
        return read_picture(path)
    pixels, kind = read_values(path, settings)
    if settings.depth != 8:
        assert settings.stretch is not None, "`settle_stretch` comes before the first image"
        pixels = stretched(pixels, settings.stretch)
    return Picture(pixels, kind)


def input_kind(path: Path, settings: InputSettings = PLAIN) -> Kind:
    """The kind of an image file, such as its size, without decoding its pixels. Errors as in `read_input`."""
    if settings.format != "pictures":
        return reader_of(settings.format).read_kind(path, settings)
    return image_kind(path) if settings.plain else _examined(path, settings)[1]


def remarks(kind: Kind, settings: InputSettings = PLAIN) -> Iterator[Cell]:
    """The remarks on an image of this kind that is read, each with a fix."""
    cells = judge(kind) if settings.plain else judge_properties(kind)
    return (cell for cell in cells if cell.fix)


def read_values(path: Path, settings: InputSettings) -> tuple[np.ndarray, Kind]:
    """The pixels (H,W,C) of an image as stored in its file, and the file's kind.

    Of DICOM and NIfTI they are the rescaled values or, with `window: file`, fractions of the file's window.
    """
    if settings.format != "pictures":
        pixels, kind, window = reader_of(settings.format).read_values(path, settings)
        if settings.window == "file":
            if window is None:
                raise ValueError(f"{path}: it states no window; write `window` as two numbers, or remove it")
            pixels = (pixels - np.float32(window[0])) / np.float32(window[1] - window[0])
        _check_depth(pixels, path, settings)
        return pixels, kind
    data, kind = _examined(path, settings)
    if kind.container == "PNG":
        pixels = _png(data, kind, path)
    elif kind.container == "TIFF":
        pixels = _tiff(data, path, len(settings.channels))
    else:
        pixels = read_picture(path).pixels[..., : len(settings.channels)]
    if pixels.shape != (kind.height, kind.width, len(settings.channels)):
        raise damaged(path, f"its header claims {kind.width}×{kind.height} pixels of {len(settings.channels)} channels")
    _check_depth(pixels, path, settings)
    return pixels, kind


def _examined(path: Path, settings: InputSettings) -> tuple[bytes, Kind]:
    """The bytes of an image that has the channels of the settings, and its kind."""
    data = read_bytes(path)
    kind, wanted = examine(data, path), len(settings.channels)
    if kind.container == "TIFF" and kind.bands == 1 and kind.pages == wanted:
        kind = replace(kind, bands=wanted, pages=1)  # a page for each channel
    for cell in judge_properties(kind):
        if cell.verdict == "refused":
            raise ValueError(f"{path}: {cell.how}; {cell.fix}")
    if kind.container not in ("PNG", "TIFF") and settings.depth != 8:
        raise ValueError(f"{path}: a {kind.container}, which has 8 bits a value here; remove `depth`, or give a TIFF")
    if kind.container not in ("PNG", "TIFF") and "alpha" in kind.channels:
        raise ValueError(f"{path}: the alpha of a {kind.container} is not read as a channel; save it as PNG or TIFF")
    if kind.channels in ("palette", "CMYK", "Lab") or kind.depth in ("1", "2", "4", "mixed") or kind.clear:
        what = "a transparent colour" if kind.clear else f"pixels of kind {kind.channels} with {kind.depth} bits"
        raise ValueError(f"{path}: {what}, which are not numeric channels; save them as a TIFF of numbers")
    if kind.container == "TIFF" and white_is_zero(data):
        raise ValueError(f"{path}: its 0 is white (WhiteIsZero); save it with black as 0")
    count = kind.bands if kind.container == "TIFF" else COUNTS.get(kind.channels, 0)
    if count != wanted:
        raise ValueError(
            f"{path}: it has {count} channels, and the domain's `channels` are {wanted} ({', '.join(settings.channels)}"
            "); name those that the images have, or save the image with these"
        )
    return data, kind


def _png(data: bytes, kind: Kind, path: Path) -> np.ndarray:
    pixels = decode_png(data, cv2.IMREAD_UNCHANGED, path)
    if pixels.ndim == 2:
        return pixels[..., None]
    if kind.channels == "grey and alpha":  # OpenCV makes four channels of it
        return np.ascontiguousarray(pixels[..., [0, 3]])
    return cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGBA if pixels.shape[2] == 4 else cv2.COLOR_BGR2RGB)


def _tiff(data: bytes, path: Path, count: int) -> np.ndarray:
    """Decode with tifffile, which reads any number of bands: interleaved, planar, or one on each page."""
    try:
        import tifffile
    except ImportError:
        raise ValueError(f'{path}: its channels are read by tifffile; pip install "fewmask[tiff]"') from None
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            pages = [page.aspage() for page in file.pages if not page.aspage().subfiletype & 5]
            for page in pages:  # tifffile fills what is missing with 0
                parts = list(zip(page.dataoffsets, page.databytecounts, strict=True))
                if not parts or any(size == 0 or start + size > len(data) for start, size in parts):
                    raise ValueError("a part of its pixels is missing")
            arrays = [page.asarray() for page in pages]
            # The decoder of JPEG gives RGB; otherwise tifffile leaves brightness and colour as they are.
            ycc = int(pages[0].photometric) == 6 and int(pages[0].compression) != 7
            planar = int(pages[0].planarconfig) == 2 and arrays[0].ndim == 3
    except Exception as error:  # of damaged files tifffile and its decoders raise a dozen types
        if "imagecodecs" in str(error):
            raise ValueError(f'{path}: its compression needs imagecodecs; pip install "fewmask[tiff]"') from None
        raise damaged(path, error) from None
    if ycc:
        raise ValueError(
            f"{path}: pixels of brightness and colour (YCbCr), which are not numeric channels; save it as RGB"
        )
    if len({(page.shape, page.dtype) for page in arrays}) > 1:
        raise ValueError(f"{path}: its pages differ in size or in kind of number; save pages that are alike")
    pixels = arrays[0] if len(arrays) == 1 else np.stack(arrays, axis=-1)
    if planar:
        pixels = np.moveaxis(pixels, 0, -1)
    return np.ascontiguousarray(pixels.reshape(*pixels.shape[:2], count) if pixels.ndim == 2 else pixels)


def _check_depth(pixels: np.ndarray, path: Path, settings: InputSettings) -> None:
    sort, bits = pixels.dtype.kind, 8 * pixels.dtype.itemsize
    depth = "float" if sort == "f" else bits
    if depth != settings.depth or sort not in "fiu" or (bits == 8 and sort == "i"):
        supported = depth in (8, 16, 32, "float") and pixels.dtype != np.int8
        fix = f"write `depth: {depth}`" if supported else "save it as integers of 16 bits"
        raise ValueError(f"{path}: {pixels.dtype} pixels, and the domain's `depth` is {settings.depth}; {fix}")
    if sort == "f" and not (finite := np.isfinite(pixels)).all():
        y, x, channel = np.argwhere(~finite)[0]
        raise ValueError(
            f"{path}: {pixels[y, x, channel]} in channel {settings.channels[channel]} at column {x}, row {y}, and "
            f"{np.count_nonzero(~finite):,} such values in all; write a number there, and void in its mask"
        )
