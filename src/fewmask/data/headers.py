"""Reads the headers of image files. No pixel is decoded, but a truncated file is detected."""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from PIL import BmpImagePlugin, Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from fewmask.data.kinds import CONTAINERS, Kind

# A decoded image above this is refused: a few kilobytes of PNG can claim terabytes.
MAX_PIXELS = 170_000_000

_JPEG = b"\xff\xd8\xff"
_PNG = b"\x89PNG\r\n\x1a\n"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
ORIENTATION = 0x0112  # of EXIF and TIFF
AGAIN = "copy or export it again"


def examine(data: bytes, path: Path) -> Kind:
    """The kind of an image file. Raises ValueError that names a file that is no image, truncated, or too large."""
    if not data:
        raise ValueError(f"{path}: empty file; {AGAIN}")
    if data.startswith(_JPEG):
        kind = _jpeg(data, path)
    elif data.startswith(_PNG):
        kind = png(data, path)
    elif data.startswith(_TIFF):
        kind = _guarded(_tiff, data, path)
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        kind = _guarded(_webp, data, path)
    elif data.startswith(b"BM"):
        kind = _guarded(_bmp, data, path)
    else:
        raise ValueError(f"{path}: not an image{_other(data)}; give {', '.join(CONTAINERS[:-1])} or {CONTAINERS[-1]}")
    if kind.width * kind.height > MAX_PIXELS:
        size = f"{kind.width}×{kind.height}"
        raise ValueError(f"{path}: it claims {size} pixels, more than {MAX_PIXELS}; cut it into tiles")
    if kind.width * kind.height <= 0:
        raise ValueError(f"{path}: it claims {kind.width}×{kind.height} pixels; {AGAIN}")
    return kind


def _other(data: bytes) -> str:
    """The name of a container that is not read."""
    names = {b"GIF8": "a GIF", b"\0\0\0\x0cjP": "a JPEG 2000", b"8BPS": "a Photoshop file", b"\xff\x0a": "a JPEG XL"}
    if data[4:8] == b"ftyp":
        return f" that is read: it is of kind {data[8:12].decode('ascii', 'replace').upper()}"
    return next((f" that is read: it is {name}" for start, name in names.items() if data.startswith(start)), "")


def _guarded(read_kind: Callable[[bytes, Path], Kind], data: bytes, path: Path) -> Kind:
    """Call a reader. Any exception that a damaged header causes becomes an error that names the file."""
    try:
        return read_kind(data, path)
    except Exception as error:  # of damaged tags Pillow raises half a dozen types
        raise error if str(error).startswith(f"{path}: ") else damaged(path, error) from None


def damaged(path: Path, error: object) -> ValueError:
    return ValueError(f"{path}: truncated or damaged ({error}); {AGAIN}")


# ── PNG ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

_PNG_CHANNELS = {0: "grey", 2: "RGB", 3: "palette", 4: "grey and alpha", 6: "RGB and alpha"}


def is_png(data: bytes) -> bool:
    return data.startswith(_PNG)


def is_tiff(data: bytes) -> bool:
    return data.startswith(_TIFF)


def png(data: bytes, path: Path) -> Kind:
    """The kind of a whole PNG; raises where chunks are missing or their checksums are wrong."""
    frames, orientation, profile, clear = 0, 1, False, False
    for name, body in png_chunks(path, data):
        if name == b"acTL":
            frames = int.from_bytes(body[:4])
        elif name == b"eXIf":
            orientation = _exif(bytes(body))
        elif name == b"iCCP":
            profile = not _is_srgb(_unpacked(bytes(body)))
        clear |= name == b"tRNS"
    channels = _PNG_CHANNELS.get(data[25], f"type {data[25]}")
    return Kind(
        container="PNG", channels=channels, depth=str(data[24]), width=int.from_bytes(data[16:20]),
        height=int.from_bytes(data[20:24]), pages=max(frames, 1), animated=frames > 0, orientation=orientation,
        profile=profile, clear=clear, step="interlaced" if data[28] else "",
    )  # fmt: skip


def png_chunks(path: Path, data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """The chunks of a PNG by name, up to its end."""
    view = memoryview(data)
    at, kind = len(_PNG), b""
    while kind != b"IEND":
        length, kind = int.from_bytes(data[at : at + 4]), data[at + 4 : at + 8]
        body_end = at + 8 + length
        if body_end + 4 > len(data):
            raise ValueError(f"{path}: truncated after {len(data)} bytes; {AGAIN}")
        if zlib.crc32(view[at + 4 : body_end]) != int.from_bytes(data[body_end : body_end + 4]):
            raise ValueError(f"{path}: damaged, its checksum is wrong at byte {at}; {AGAIN}")
        if at == len(_PNG) and (kind != b"IHDR" or length != 13):
            raise ValueError(f"{path}: damaged, it has no PNG header; {AGAIN}")
        yield kind, view[at + 8 : body_end]
        at = body_end + 4


def _unpacked(body: bytes) -> bytes:
    """The name and the beginning of the profile of an iCCP chunk, which identify it."""
    name, _, packed = body.partition(b"\0")
    try:
        return name + zlib.decompressobj().decompress(packed[1:], 100_000)
    except zlib.error:
        return name


# ── JPEG ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

# The literal byte at its beginning is what `re` can jump to; with `\xff+` it tries every byte, which takes longer than
# decoding does.
_SCAN_END = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


def _jpeg(data: bytes, path: Path) -> Kind:
    """The kind of a JPEG. Raises ValueError if its end marker or some of its scans are missing. Decoders fill missing
    rows with grey and show missing scans blurred."""
    depth, components, width, height, progressive = 0, b"", 0, 0, False
    orientation, profile, copies = 1, False, False
    # By component, the bits that its 64 coefficients still lack; 255 for a coefficient that no scan has covered.
    left: dict[int, list[int]] = {}
    for marker, _, body in _segments(data, path):
        if marker == 0xE1 and body.startswith(b"Exif\0\0"):
            orientation = _exif(bytes(body))
        elif marker == 0xE2 and body.startswith(b"ICC_PROFILE\0\x01"):
            profile = not _is_srgb(bytes(body))
        elif marker == 0xE2 and body.startswith(b"MPF\0"):
            copies = True
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and len(body) >= 6:
            depth, height, width = body[0], int.from_bytes(body[1:3]), int.from_bytes(body[3:5])
            components, progressive = bytes(body[6::3]), marker in (0xC2, 0xCA)
            left = {component: [255] * 64 for component in components}
        elif marker == 0xDA and body and len(body) == 2 * body[0] + 4:
            first, last, low = (body[-3], body[-2], body[-1] & 15) if progressive else (0, 63, 0)
            for component in body[1 : 1 + 2 * body[0] : 2]:
                if component in left:
                    left[component][first : last + 1] = [low] * (last + 1 - first)
    missing = sum(any(bits) for bits in left.values())
    if missing or not left:
        raise ValueError(f"{path}: truncated, scans of its pixels are missing; {AGAIN}")
    names = {1: "grey", 3: "RGB", 4: "CMYK"}
    return Kind(
        container="JPEG", channels=names.get(len(components), "bands"), depth=str(depth), width=width, height=height,
        bands=len(components), orientation=orientation, profile=profile, copies=copies,
        step="progressive" if progressive else "",
    )  # fmt: skip


def _segments(data: bytes, path: Path) -> Iterator[tuple[int, int, bytes]]:
    """The segments of a JPEG up to its end marker, each as (marker, start of its body, body). Raises ValueError if the
    end marker is missing."""
    at = 2
    while at + 2 <= len(data):
        if data[at] != 0xFF:
            raise ValueError(f"{path}: damaged, no JPEG segment at byte {at}; {AGAIN}")
        marker = data[at + 1]
        if marker in (0x01, 0xFF) or 0xD0 <= marker <= 0xD7:  # fill bytes and markers without a body
            at += 1 if marker == 0xFF else 2
            continue
        if marker == 0xD9:
            return
        length = int.from_bytes(data[at + 2 : at + 4])
        yield marker, at + 4, data[at + 4 : at + 2 + length]
        at += 2 + max(length, 2)
        if marker == 0xDA:  # the code of the pixels follows, up to the next marker
            end = _SCAN_END.search(data, at)
            at = len(data) if end is None else end.end() - 2
    raise ValueError(f"{path}: truncated after {len(data)} bytes; {AGAIN}")


def plain_scans(data: bytes) -> bytes:
    """The JPEG with the standard range of coefficients in the headers of its sequential scans. Some cameras write other
    values there. They are harmless, but libjpeg warns of them."""
    plain, changed, sequential = b"\0\x3f\0", bytearray(), False
    for marker, at, body in _segments(data, Path()):
        sequential |= marker in (0xC0, 0xC1)
        if marker == 0xDA and sequential and body[-3:] != plain:
            changed = changed or bytearray(data)
            changed[at + len(body) - 3 : at + len(body)] = plain
        elif marker == 0xDA and not changed:
            return data
    return bytes(changed) or data


# ── TIFF, WebP, BMP ──────────────────────────────────────────────────────────────────────────────────────────────────

_SPACES = {
    0: ("grey", 1),
    1: ("grey", 1),
    2: ("RGB", 3),
    3: ("palette", 1),
    5: ("CMYK", 4),
    6: ("RGB", 3),
    8: ("Lab", 3),
}
"""The channels of a TIFF and their number, by its photometric interpretation."""


_PACKED = {6: "old-style JPEG", 7: "JPEG", 8: "Deflate", 32946: "Deflate", 50001: "WebP"}
_PACKED |= dict.fromkeys((33003, 33005, 34712), "JPEG 2000")


def _tiff(data: bytes, path: Path) -> Kind:
    if data.startswith(b"MM\0+"):  # Pillow does not read it
        raise ValueError(f"{path}: a BigTIFF of big-endian numbers; save it as little-endian, or as a plain TIFF")
    pages = list(_pages(data))
    own = [page for page in pages if not page.get(254, 0) & 5]  # neither a smaller copy of another page nor its mask
    if not pages or pages[0] not in own:
        raise ValueError(f"{path}: its first page is {'a preview' if pages else 'missing'}; {AGAIN}")
    page = pages[0]
    bands, bits, extra = int(page.get(277, 1)), _all(page.get(258, 1)), _all(page.get(338, ()))
    channels, needed = _SPACES.get(page.get(262, 0), ("bands", 0))
    if bands == needed + 1 and extra in ((1,), (2,)) and channels in ("grey", "RGB"):
        channels += " and alpha"
    elif bands != needed:
        channels = "bands"
    sample = _all(page.get(339, 1))
    depth = "float" if 3 in sample else "signed" if 2 in sample else str(bits[0]) if len({*bits}) == 1 else "mixed"
    return Kind(
        container="TIFF", channels=channels, depth=depth, width=int(page[256]), height=int(page[257]), bands=bands,
        pages=len(own), orientation=_turn(page.get(ORIENTATION)), premultiplied=extra[:1] == (1,),
        profile=34675 in page and not _is_srgb(bytes(page[34675])), copies=len(own) < len(pages),
        compression=_PACKED.get(page.get(259, 1), ""),
    )  # fmt: skip


def _pages(data: bytes) -> Iterator[ImageFileDirectory_v2]:
    """The directories of a TIFF, one a page."""
    head = data[: 16 if 43 in data[2:4] else 8]
    file, visited, at = io.BytesIO(data), {0}, ImageFileDirectory_v2(head).next
    while at not in visited:
        visited.add(at)
        file.seek(at)
        page = ImageFileDirectory_v2(head)
        page.load(file)
        yield page
        at = page.next


def tiff_strips(data: bytes) -> Iterator[bytes]:
    """The compressed strips or tiles of a TIFF's page. In JPEG compression each is a complete JPEG."""
    page = next(_pages(data))
    offsets, counts = _all(page.get(273, page.get(324, ()))), _all(page.get(279, page.get(325, ())))
    tables = bytes(page.get(347, b""))
    for start, count in zip(offsets, counts, strict=True):
        strip = data[start : start + count]
        yield tables[:-2] + strip[2:] if tables else strip


def white_is_zero(data: bytes) -> bool:
    """Whether 0 is white in a grey TIFF. Pillow inverts such values."""
    return next(_pages(data)).get(262) == 0


def _all(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _webp(data: bytes, path: Path) -> Kind:
    animated, alpha, size = False, False, (0, 0)
    orientation, profile, frames = 1, False, 0
    at, end = 12, 8 + int.from_bytes(data[4:8], "little")
    if end > len(data):
        raise ValueError(f"{path}: truncated after {len(data)} bytes; {AGAIN}")
    while at + 8 <= end:
        name, length = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        body = data[at + 8 : at + 8 + length]
        if at + 8 + length > end:
            raise ValueError(f"{path}: truncated after {len(data)} bytes; {AGAIN}")
        if name == b"VP8X":
            animated, alpha = bool(body[0] & 2), bool(body[0] & 16)
            size = int.from_bytes(body[4:7], "little") + 1, int.from_bytes(body[7:10], "little") + 1
        elif name == b"VP8 " and size == (0, 0):
            size = int.from_bytes(body[6:8], "little") & 0x3FFF, int.from_bytes(body[8:10], "little") & 0x3FFF
        elif name == b"VP8L":
            bits = int.from_bytes(body[1:5], "little")
            alpha |= bool(bits >> 28 & 1)
            size = size if any(size) else ((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
        elif name == b"EXIF":
            orientation = _exif(body)
        elif name == b"ICCP":
            profile = not _is_srgb(body)
        frames += name == b"ANMF"
        at += 8 + length + length % 2
    return Kind(
        container="WebP", channels="RGB and alpha" if alpha else "RGB", depth="8", width=size[0], height=size[1],
        pages=max(frames, 1), animated=animated, orientation=orientation, profile=profile,
    )  # fmt: skip


def _bmp(data: bytes, path: Path) -> Kind:
    bits = int.from_bytes(data[24:26] if data[14] == 12 else data[28:30], "little")
    with BmpImagePlugin.BmpImageFile(io.BytesIO(data)) as image:
        alpha, (width, height) = image.mode == "RGBA", image.size
    channels = "palette" if bits <= 8 else "RGB and alpha" if alpha else "RGB"
    depth = bits if bits <= 8 else 5 if bits == 16 else 8
    return Kind(container="BMP", channels=channels, depth=str(depth), width=width, height=height)


# ── What several of them have ────────────────────────────────────────────────────────────────────────────────────────


def _exif(body: bytes) -> int:
    """The orientation in a block of EXIF; 1 where that is damaged."""
    exif = Image.Exif()
    try:
        exif.load(body)
        return _turn(exif.get(ORIENTATION))
    except Exception:  # of damaged tags Pillow raises half a dozen types
        return 1


def _turn(tag: object) -> int:
    return tag if isinstance(tag, int) and tag in range(1, 9) else 1


def _is_srgb(profile: bytes) -> bool:
    return b"sRGB" in profile or "sRGB".encode("utf-16-be") in profile
