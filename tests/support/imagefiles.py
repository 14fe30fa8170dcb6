"""Image files of every kind, written byte by byte, with what they are to be read as.

Shapes: H×W pixels.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

H, W = 13, 17
_rng = np.random.default_rng(0)
RGB = _rng.integers(0, 256, (H, W, 3), dtype=np.uint8)
ALPHA = _rng.integers(0, 256, (H, W), dtype=np.uint8)
SMOOTH = np.clip(np.add.outer(np.arange(H) * 9, np.arange(W) * 8)[..., None] + [0, 10, 20], 0, 255).astype(np.uint8)
PALETTE = _rng.integers(0, 256, (256, 3), dtype=np.uint8)


def values(bits: int, channels: int = 1) -> np.ndarray:
    """(H,W,channels) of all that so many bits hold."""
    return np.random.default_rng(bits).integers(0, 2**bits, (H, W, channels)).astype(np.uint32)


def packed(samples: np.ndarray, bits: int, order: str) -> bytes:
    """Rows of samples (H,W,channels), each padded to whole bytes."""
    if bits >= 8:
        return samples.astype(f"{order}u{bits // 8}").tobytes()
    flat = samples.reshape(len(samples), -1)
    split = flat[..., None] >> np.arange(bits)[::-1] & 1
    return np.packbits(split.reshape(len(samples), -1).astype(np.uint8), axis=1).tobytes()


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(kind: int, bits: int, samples: np.ndarray, before: bytes = b"") -> bytes:
    """A PNG of this colour type; `before` are chunks in front of its pixels."""
    body = packed(samples, bits, ">")
    row = len(body) // H
    rows = b"".join(b"\0" + body[i * row : (i + 1) * row] for i in range(H))
    head = struct.pack(">IIBBBBB", W, H, bits, kind, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + before + pixels + chunk(b"IEND", b"")


def tiff(*pages: tuple[Mapping[int, int | Sequence[int]], bytes]) -> bytes:
    """A TIFF, little-endian, of pages of tags (all written as LONG) and the bytes of one strip."""
    data, link = bytearray(b"II*\0\0\0\0\0"), 4
    for tags, strip in pages:
        full = {256: W, 257: H, 259: 1, 278: H, 279: len(strip), **tags, 273: len(data)}
        data += strip + b"\0" * (len(strip) % 2)
        entries = b""
        for tag, value in sorted(full.items()):
            numbers = tuple(value) if isinstance(value, Sequence) else (value,)
            body = struct.pack(f"<{len(numbers)}I", *numbers)
            if len(body) > 4:
                body, at = struct.pack("<I", len(data)), body
                data += at
            entries += struct.pack("<HHI", tag, 4, len(numbers)) + body
        struct.pack_into("<I", data, link, len(data))
        data += struct.pack("<H", len(full)) + entries
        link = len(data)
        data += bytes(4)
    return bytes(data)


def bmp(bits: int, samples: np.ndarray, colours: int = 0, masks: tuple[int, ...] = ()) -> bytes:
    """A BMP, rows from below; `masks` make it one with bit fields."""
    rows = []
    for row in samples[::-1]:
        line = packed(row[None], min(8, bits), "<") if bits != 16 else row.astype("<u2").tobytes()
        rows.append(line + bytes(-len(line) % 4))
    table = np.concatenate([PALETTE[:colours, ::-1], np.zeros((colours, 1), np.uint8)], 1).tobytes()
    size = 108 if masks else 40
    head = struct.pack("<IiiHHIIiiII", size, W, H, 1, bits, 3 if masks else 0, 0, 0, 0, colours, 0)
    head += struct.pack("<4I", *masks) + bytes(52) if masks else b""
    body = b"".join(rows)
    start = 14 + size + len(table)
    return b"BM" + struct.pack("<IHHI", start + len(body), 0, 0, start) + head + table + body


def saved(image: np.ndarray, kind: str, mode: str | None = None, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image, mode).save(buffer, kind, **options)
    return buffer.getvalue()


_PNG = {"grey": (0, 1), "grey and alpha": (4, 2), "RGB": (2, 3), "RGB and alpha": (6, 4), "palette": (3, 1)}
# Photometric interpretation, samples, extra samples.
_TIFF: Mapping[str, tuple[int, int, dict[int, int]]] = {
    "grey": (1, 1, {}),
    "grey and alpha": (1, 2, {338: 2}),
    "RGB": (2, 3, {}),
    "RGB and alpha": (2, 4, {338: 2}),
    "palette": (3, 1, {}),
    "CMYK": (5, 4, {}),
    "Lab": (8, 3, {}),
    "bands": (2, 4, {338: 0}),
}


def make(container: str, channels: str, depth: str) -> tuple[bytes, np.ndarray]:
    """A file of this kind, and the image (H,W,3) uint8 that it stands for where its pixels can be had exactly."""
    return {"JPEG": _jpeg, "PNG": _make_png, "TIFF": _make_tiff, "WebP": _webp, "BMP": _bmp}[container](channels, depth)


def _expected(channels: str, bits: int, samples: np.ndarray) -> np.ndarray:
    if channels == "palette":
        return PALETTE[samples[..., 0]]
    if channels == "CMYK":
        ink = 255 - samples.astype(float)
        return np.rint(ink[..., :3] * ink[..., 3:] / 255).astype(np.uint8)
    colours = samples[..., :1].repeat(3, 2) if channels.startswith("grey") else samples[..., :3]
    return (colours * (255 / (2**bits - 1))).round().astype(np.uint8)


def _make_png(channels: str, depth: str) -> tuple[bytes, np.ndarray]:
    kind, count = _PNG[channels]
    bits = int(depth)
    samples = values(bits, count)
    colours = chunk(b"PLTE", PALETTE[: 2**bits].tobytes()) if channels == "palette" else b""
    return png(kind, bits, samples, colours), _expected(channels, bits, samples)


def _make_tiff(channels: str, depth: str) -> tuple[bytes, np.ndarray]:
    space, count, extra = _TIFF[channels]
    bits = {"float": 32, "signed": 16}.get(depth) or int(depth)
    samples = values(bits, count)
    tags: dict[int, int | Sequence[int]] = {258: (bits,) * count, 262: space, 277: count, **extra}
    if depth in ("float", "signed"):
        tags[339] = (3 if depth == "float" else 2,) * count
    if channels == "palette":
        tags[320] = [int(v) * 257 for v in PALETTE[: 2**bits].T.reshape(-1)]
    strip = packed(samples, 16 if bits == 12 else bits, "<")
    return tiff((tags, strip)), _expected(channels, bits, samples)


def _jpeg(channels: str, depth: str) -> tuple[bytes, np.ndarray]:
    mode = {"grey": "L", "CMYK": "CMYK"}.get(channels, "RGB")
    data = bytearray(io_jpeg(mode))
    frame = data.index(b"\xff\xc0")
    data[frame + 4] = int(depth)
    if channels == "bands":  # of the three components the last one goes, in the frame and in its scan
        data[frame + 9] = 2
        del data[frame + 16 : frame + 19]
        data[frame + 2 : frame + 4] = (14).to_bytes(2)
        scan = data.index(b"\xff\xda")
        data[scan + 4] = 2
        del data[scan + 9 : scan + 11]
        data[scan + 2 : scan + 4] = (10).to_bytes(2)
    image = Image.fromarray(SMOOTH).convert(mode)
    return bytes(data), np.array(image.convert("RGB"))


def io_jpeg(mode: str = "RGB", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(SMOOTH).convert(mode).save(buffer, "JPEG", quality=100, subsampling=0, **options)
    return buffer.getvalue()


def _webp(channels: str, depth: str) -> tuple[bytes, np.ndarray]:
    image = np.dstack([RGB, ALPHA]) if channels == "RGB and alpha" else RGB
    return saved(image, "WEBP", lossless=True, exact=True), RGB


def _bmp(channels: str, depth: str) -> tuple[bytes, np.ndarray]:
    if channels == "palette":
        samples = values(int(depth))
        return bmp(int(depth), samples, 2 ** int(depth)), PALETTE[samples[..., 0]]
    if depth == "5":
        five = values(5, 3)
        return bmp(16, five @ [1024, 32, 1]), (five * 255 / 31).astype(np.uint8)
    if channels == "RGB":
        return bmp(24, RGB[..., ::-1]), RGB
    whole = np.dstack([RGB[..., ::-1], ALPHA])
    return bmp(32, whole, masks=(0xFF0000, 0xFF00, 0xFF, 0xFF000000)), RGB


def adam7(image: np.ndarray) -> bytes:
    """An RGB image as an interlaced PNG."""
    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    rows = b"".join(b"\0" + row.tobytes() for y, x, dy, dx in passes for row in image[y::dy, x::dx] if row.size)
    head = struct.pack(">IIBBBBB", image.shape[1], image.shape[0], 8, 2, 0, 0, 1)
    pixels = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + pixels + chunk(b"IEND", b"")
