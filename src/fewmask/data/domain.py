"""A domain: one dataset with its own label space, its splits, and which of its images are labelled.

Shapes: H×W pixels of an image.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from PIL import Image, JpegImagePlugin, PngImagePlugin, UnidentifiedImageError

from fewmask.labels import LabelSpace, Mask
from fewmask.randomness import generator

SPLITS = ("train", "val", "test")
# A decoded image above this is refused: a few kilobytes of PNG can claim terabytes.
MAX_PIXELS = 170_000_000


class Source(Protocol):
    """Where a domain's pixels come from: files on disk, or a procedure."""

    def image(self, stem: str) -> np.ndarray:
        """The image (H,W,3) uint8 RGB. Raises ValueError with the file's name when it cannot be read."""
        ...

    def mask(self, stem: str) -> Mask:
        """The mask (H,W) uint8 in 0 … C−1, 254, 255. Raises ValueError with the file's name."""
        ...

    def has_mask(self, stem: str) -> bool: ...

    def where(self, stem: str) -> str:
        """What to call the image in an error message: its path, relative to the domain's root."""
        ...


class PseudoLabels(Protocol):
    """What a trained network said of the pool."""

    def read(self, stem: str) -> tuple[Mask, np.ndarray] | None:
        """The most likely class (H,W) uint8 in 0 … C−1 and its confidence (H,W) uint8, see `data.pseudo`; None for an
        image that it did not look at."""
        ...


@dataclass(frozen=True)
class Domain:
    """One dataset. `splits` holds stems; `labelled` are the stems of train whose masks may be used for training, and
    `partial` those of them of which only some regions are labelled, with the part of their pixels that is: the others
    are 254 in their masks.

    Images of train that are not wholly labelled are the pool: training never asks for masks outside `labelled`.
    """

    name: str
    space: LabelSpace
    source: Source
    splits: Mapping[str, tuple[str, ...]]
    labelled: tuple[str, ...]
    partial: Mapping[str, float] = field(default_factory=dict)
    pseudo: PseudoLabels | None = None

    @property
    def whole(self) -> tuple[str, ...]:
        """The stems of train whose masks are whole, in the order of the split."""
        return tuple(s for s in self.labelled if s not in self.partial)

    @property
    def unlabelled(self) -> tuple[str, ...]:
        """The pool: the stems of train that are not wholly labelled, in the order of the split."""
        known = frozenset(self.whole)
        return tuple(s for s in self.splits["train"] if s not in known)

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

    def with_labelled(self, count: int | None, seed: int) -> Domain:
        """Keep `count` labelled images, drawn without replacement by (seed, name of the domain); None keeps all.

        With one seed the draws are nested: more images are the fewer and others, so that what more labels are worth is
        not mixed up with which images were drawn.

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

    `size` is H, W of all, or a part of each one's own.
    """

    root: Path
    images: Mapping[str, Path]
    masks: Mapping[str, Path]
    space: LabelSpace
    size: tuple[int, int] | float | None = None

    def image(self, stem: str) -> np.ndarray:
        if stem not in self.images:
            raise ValueError(f"{self.root}: there is no image {stem!r}; put it and its split back as they were")
        return self._sized(read_image(self.images[stem]), cv2.INTER_AREA)

    def mask(self, stem: str) -> Mask:
        if stem not in self.masks:
            raise ValueError(f"{self.images[stem]}: it has no mask; add one or take it out of the labelled images")
        mask = self.space.encode(read_mask(self.masks[stem]), self.masks[stem])
        if self.size is not None and mask.shape != (own := _own_size(self.images[stem])):
            # Brought to one size the two would seem to fit.
            raise ValueError(
                f"{self.masks[stem]}: the mask is {mask.shape[1]}×{mask.shape[0]} pixels, its image {own[1]}×{own[0]}; "
                "export the mask again at the image's size"
            )
        return self._sized(mask, cv2.INTER_NEAREST)

    def _sized(self, pixels: np.ndarray, interpolation: int) -> np.ndarray:
        """At `size`: the mean of an image's pixels, one of a mask's."""
        if self.size is None:
            return pixels
        own = pixels.shape[:2]
        height, width = (max(1, round(side * self.size)) for side in own) if isinstance(self.size, float) else self.size
        return pixels if own == (height, width) else cv2.resize(pixels, (width, height), interpolation=interpolation)

    def has_mask(self, stem: str) -> bool:
        return stem in self.masks

    def where(self, stem: str) -> str:
        path = self.images[stem]
        return str(path.relative_to(self.root) if path.is_relative_to(self.root) else path)


def _own_size(path: Path) -> tuple[int, int]:
    """H, W of an image file, from its head alone."""
    with Image.open(path) as image:
        return image.height, image.width


def orientation(path: Path) -> int:
    """The orientation tag of an image that can be read: 1 as its pixels lie (also without one), 2 to 8 otherwise."""
    try:
        # Of a large JPEG Image.open warns, see `_decode_png`.
        with (JpegImagePlugin.JpegImageFile if path.suffix.lower() in (".jpg", ".jpeg") else Image.open)(path) as image:
            tag = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # of damaged tags Pillow raises half a dozen types
        return 1
    return tag if tag in range(1, 9) else 1


def read_image(path: Path) -> np.ndarray:
    """An image file as (H,W,3) uint8 RGB, in the orientation of its pixels. Raises ValueError that names the file.

    JPEG, PNG, BMP, TIFF and WebP are read. A file that is cut short is an error, never a picture that ends in grey.
    """
    data = _bytes(path)
    if data.startswith((_JPEG, _PNG)):
        _check_size(path, *(_jpeg_size if data.startswith(_JPEG) else _png_size)(path, data))
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        if decoded is None:
            raise ValueError(f"{path}: its pixels cannot be decoded; copy or export it again")
        return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)
    try:
        with Image.open(io.BytesIO(data), formats=("BMP", "TIFF", "WEBP")) as image:
            _check_size(path, *image.size)
            if image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"):
                raise ValueError(f"{path}: pixels of kind {image.mode}; save it with 8 bits a channel")
            return np.array(image.convert("RGB"))
    except UnidentifiedImageError:
        raise ValueError(f"{path}: not an image; give JPEG, PNG, BMP, TIFF or WebP") from None
    except Image.DecompressionBombError:
        raise ValueError(f"{path}: it claims more than {MAX_PIXELS} pixels; cut it into tiles") from None
    except (OSError, SyntaxError, EOFError) as error:
        raise ValueError(f"{path}: truncated or damaged ({error}); copy or export it again") from None


def read_mask(path: Path) -> Mask:
    """A mask file as its raw ids (H,W) uint8; of a palette PNG the indices. Raises ValueError that names the file.

    Only PNG with one 8-bit channel or a palette is read: JPEG changes ids, and colours or wider numbers are not ids.
    """
    return decode_mask(_bytes(path), path)


def decode_mask(data: bytes, path: Path) -> Mask:
    """`read_mask` of a file's bytes; `path` is what errors call it."""
    return _decode_png(data, path, {0: "grey", 3: "palette"})


def decode_colours(data: bytes, path: Path) -> np.ndarray:
    """The bytes of a PNG with 8 bits a channel, RGB or a palette, as colours (H,W,3) uint8.

    Of one grey channel the values (H,W): whoever wrote it has to say what they are. Errors as of `decode_mask`.
    """
    return _decode_png(data, path, {0: "grey", 2: "RGB", 3: "palette"})


def png_size(data: bytes, path: Path) -> tuple[int, int]:
    """(H, W) of a PNG that is whole, before any pixel is unpacked. Raises ValueError that names the file."""
    if not data.startswith(_PNG):
        raise ValueError(f"{path}: not a PNG; save masks as 8-bit PNG, which keeps every id")
    width, height = _png_size(path, data)
    _check_size(path, width, height)
    return height, width


def _decode_png(data: bytes, path: Path, kinds: Mapping[int, str]) -> np.ndarray:
    height, width = png_size(data, path)
    depth, kind, interlaced = data[24], data[25], data[28]
    if kind not in kinds:
        wanted = "three channels" if 2 in kinds else "one channel of class ids (docs/faq.md has a script)"
        raise ValueError(f"{path}: it holds colours ({_PNG_KINDS.get(kind, kind)}); save {wanted}")
    if kind != 3 and depth != 8:
        raise ValueError(
            f"{path}: {depth} bit{'s' * (depth > 1)} a pixel; save it with 8, so that each value is one id"
        )
    if kind != 3:
        pixels = cv2.imdecode(
            np.frombuffer(data, np.uint8),
            (cv2.IMREAD_COLOR if kind == 2 else cv2.IMREAD_GRAYSCALE) | cv2.IMREAD_IGNORE_ORIENTATION,
        )
        if pixels is None:
            raise ValueError(f"{path}: truncated, rows are missing, or damaged; copy or export it again")
        return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB) if kind == 2 else pixels
    # Pillow fills rows that the data lacks with id 0, without a word. (An interlaced mask has more bytes than this.)
    rows = height * (1 + (width * depth + 7) // 8)
    packed = b"".join(body for name, body in _png_chunks(path, data) if name == b"IDAT")
    try:
        if len(zlib.decompressobj().decompress(packed, rows)) < rows and not interlaced:
            raise ValueError(f"{path}: truncated, rows are missing; copy or export it again")
    except zlib.error as error:
        raise ValueError(f"{path}: damaged ({error}); copy or export it again") from None
    try:
        # Not Image.open: it has a size limit of its own, and OpenCV turns palette indices into colours.
        with PngImagePlugin.PngImageFile(io.BytesIO(data)) as image:
            return np.array(image.convert("RGB") if 2 in kinds else image)
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise ValueError(f"{path}: truncated or damaged ({error}); copy or export it again") from None


_ORIENTATION = 0x0112  # of EXIF and TIFF
_JPEG = b"\xff\xd8\xff"
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_KINDS = {2: "RGB", 4: "grey and alpha", 6: "RGB and alpha"}


def _bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); mend the path or its permissions") from None
    if not data:
        raise ValueError(f"{path}: empty file; copy or export it again")
    return data


def _check_size(path: Path, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ValueError(f"{path}: it claims {width}×{height} pixels, more than {MAX_PIXELS}; cut it into tiles")
    if width * height == 0:
        raise ValueError(f"{path}: it claims {width}×{height} pixels; copy or export it again")


def _png_size(path: Path, data: bytes) -> tuple[int, int]:
    """Width and height of a whole PNG; raises where chunks are missing or their checksums are wrong."""
    for _ in _png_chunks(path, data):
        pass
    return int.from_bytes(data[16:20]), int.from_bytes(data[20:24])


def _png_chunks(path: Path, data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The chunks of a PNG by name, up to its end."""
    at, kind = len(_PNG), b""
    while kind != b"IEND":
        length, kind = int.from_bytes(data[at : at + 4]), data[at + 4 : at + 8]
        body_end = at + 8 + length
        if body_end + 4 > len(data):
            raise ValueError(f"{path}: truncated after {len(data)} bytes; copy or export it again")
        if zlib.crc32(data[at + 4 : body_end]) != int.from_bytes(data[body_end : body_end + 4]):
            raise ValueError(f"{path}: damaged, its checksum is wrong at byte {at}; copy or export it again")
        if at == len(_PNG) and (kind != b"IHDR" or length != 13):
            raise ValueError(f"{path}: damaged, it has no PNG header; copy or export it again")
        yield kind, data[at + 8 : body_end]
        at = body_end + 4


def _jpeg_size(path: Path, data: bytes) -> tuple[int, int]:
    """Width and height of a whole JPEG; raises where its end marker is missing: decoders fill the rest with grey."""
    size = (0, 0)
    at = 2
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            raise ValueError(f"{path}: damaged, no JPEG segment at byte {at}; copy or export it again")
        marker = data[at + 1]
        if marker in (0x01, 0xFF) or 0xD0 <= marker <= 0xD7:  # fill bytes and markers without a body
            at += 1 if marker == 0xFF else 2
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a frame header
            size = int.from_bytes(data[at + 7 : at + 9]), int.from_bytes(data[at + 5 : at + 7])
        if marker == 0xDA:  # the pixels begin; an end marker before here would be a thumbnail's
            if data.find(b"\xff\xd9", at) < 0:
                break
            return size
        at += 2 + int.from_bytes(data[at + 2 : at + 4])
    raise ValueError(f"{path}: truncated after {len(data)} bytes; copy or export it again")
