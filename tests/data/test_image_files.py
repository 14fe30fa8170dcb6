"""Image and mask files: which are read, as what, and which are refused."""

from __future__ import annotations

import io
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import trees
from PIL import Image

from fewmask.data.headers import MAX_PIXELS
from fewmask.data.reading import read_image, read_mask

rng = np.random.default_rng(0)
PHOTO = cv2.resize(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8), (72, 50), interpolation=cv2.INTER_CUBIC)


def encoded(ending: str, image: np.ndarray = PHOTO) -> bytes:
    buffer = io.BytesIO()
    kind = {"jpg": "JPEG", "tif": "TIFF"}.get(ending, ending.upper())
    Image.fromarray(image).save(buffer, kind, **({"lossless": True} if ending == "webp" else {}))
    return buffer.getvalue()


@pytest.mark.parametrize("ending", ["png", "bmp", "tif", "webp"])
def test_lossless_images_are_read_exactly(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"x.{ending}"
    path.write_bytes(encoded(ending))
    np.testing.assert_array_equal(read_image(path), PHOTO)


def test_jpeg_is_read_in_rgb_order_and_as_its_pixels_lie(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn me by 90 degrees"
    Image.fromarray(PHOTO).save(path, quality=95, exif=exif)
    image = read_image(path)
    assert image.shape == PHOTO.shape
    assert np.abs(image.astype(int) - PHOTO).mean() < 10


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
@pytest.mark.parametrize("ending", ["png", "tif"])
def test_images_of_any_8_bit_kind_become_rgb(tmp_path: Path, mode: str, ending: str) -> None:
    if mode == "CMYK" and ending == "png":
        mode = "LA"
    path = tmp_path / f"x.{ending}"
    Image.fromarray(PHOTO).convert(mode).save(path)
    image = read_image(path)
    assert image.shape == PHOTO.shape
    assert image.dtype == np.uint8


@pytest.mark.parametrize("kept", [0.02, 0.3, 0.9, 0.999, -1])
@pytest.mark.parametrize("ending", ["jpg", "png", "bmp", "tif", "webp"])
def test_truncated_images_are_errors_and_never_half_grey(tmp_path: Path, ending: str, kept: float) -> None:
    data = encoded(ending)
    path = tmp_path / f"x.{ending}"
    path.write_bytes(data[: int(len(data) * kept)] if kept > 0 else data[:-1])
    with pytest.raises(ValueError, match=rf"^{re.escape(str(path))}: .*; "):
        read_image(path)


def test_a_thumbnails_end_marker_does_not_hide_a_truncated_jpeg(tmp_path: Path) -> None:
    whole = encoded("jpg")
    thumbnail = encoded("jpg", PHOTO[:8, :8])
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2) + thumbnail
    path = tmp_path / "x.jpg"
    path.write_bytes(whole[:2] + segment + whole[2:])
    assert read_image(path).shape == PHOTO.shape
    path.write_bytes(whole[:2] + segment + whole[2:-40])
    with pytest.raises(ValueError, match="truncated"):
        read_image(path)


def test_bytes_after_the_end_of_a_jpeg_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(encoded("jpg") + bytes(100))
    assert read_image(path).shape == PHOTO.shape


@pytest.mark.parametrize("data", [b"", b"not an image", b"GIF89a" + bytes(30)], ids=["empty", "text", "gif"])
def test_what_is_no_image_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"x\.jpg: (empty file|not an image)"):
        read_image(path)


def test_a_file_that_is_not_there() -> None:
    for read in (read_image, read_mask):
        with pytest.raises(ValueError, match=r"gone\.png: cannot be read"):
            read(Path("gone.png"))


def test_16_bit_tiff_is_refused_and_not_clipped(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    Image.fromarray(np.full((4, 4), 4000, dtype=np.uint16)).save(path)
    with pytest.raises(ValueError, match="8 bits a channel"):
        read_image(path)


@pytest.mark.parametrize("read", [read_image, read_mask])
def test_decompression_bombs_are_refused_from_the_header(tmp_path: Path, read: object) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(trees.png(60_000, 60_000))
    assert callable(read)
    with pytest.raises(ValueError, match=f"bomb.png: it claims 60000×60000 pixels, more than {MAX_PIXELS}"):
        read(path)
    path.write_bytes(trees.png(0, 5))
    with pytest.raises(ValueError, match="0×5 pixels"):
        read(path)


def test_bombs_of_other_formats(tmp_path: Path) -> None:
    path = tmp_path / "bomb.bmp"
    data = bytearray(encoded("bmp"))
    data[18:22] = data[22:26] = (60_000).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"bomb\.bmp: it claims .* pixels"):
        read_image(path)
    data = bytearray(encoded("jpg"))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = (60_000).to_bytes(2) * 2
    path.write_bytes(data)
    with pytest.raises(ValueError, match="60000×60000"):
        read_image(path)


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_palette_masks_give_their_indices(tmp_path: Path, depth: int) -> None:
    path = tmp_path / "m.png"
    ids = (np.arange(12) % 2**depth).astype(np.uint8).reshape(3, 4)
    image = Image.fromarray(ids)
    image.putpalette([255 - i % 256 for i in range(3 * 2**depth)])
    image.save(path, bits=depth)
    assert path.read_bytes()[24:26] == bytes([depth, 3])
    np.testing.assert_array_equal(read_mask(path), ids)


def test_grey_masks_give_their_values(tmp_path: Path) -> None:
    ids = np.arange(256, dtype=np.uint8).reshape(16, 16)
    path = tmp_path / "m.png"
    Image.fromarray(ids).save(path)
    np.testing.assert_array_equal(read_mask(path), ids)


@pytest.mark.parametrize(
    ("image", "complaint"),
    [
        (PHOTO, r"holds colours \(RGB\); save one channel of class ids"),
        (np.dstack([PHOTO, PHOTO[..., :1]]), r"holds colours \(RGB and alpha\)"),
        (np.full((4, 4), 300, np.uint16), "16 bits a pixel, and 300 at column 0, row 0 is no id"),
        (np.zeros((4, 4), bool), "1 bit a pixel; save it with 8"),
    ],
    ids=["rgb", "rgba", "16-bit", "1-bit"],
)
def test_masks_that_hold_no_ids_are_refused(tmp_path: Path, image: np.ndarray, complaint: str) -> None:
    path = tmp_path / "m.png"
    Image.fromarray(image).save(path)
    with pytest.raises(ValueError, match=rf"m\.png: .*{complaint}"):
        read_mask(path)


def test_jpeg_masks_are_refused_whatever_their_name(tmp_path: Path) -> None:
    path = tmp_path / "m.png"
    path.write_bytes(encoded("jpg"))
    with pytest.raises(ValueError, match="not a PNG"):
        read_mask(path)


def test_damaged_and_truncated_masks(tmp_path: Path) -> None:
    path = tmp_path / "m.png"
    data = encoded("png", PHOTO[..., 0].copy())
    for damaged in (data[:100], data[:-1], data[:60] + bytes([data[60] ^ 1]) + data[61:]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"m\.png: (truncated|damaged)"):
            read_mask(path)
    path.write_bytes(trees.png(9, 9, body=bytes(20)))  # whole chunks, but two rows of nine
    with pytest.raises(ValueError, match=r"m\.png: truncated, rows are missing"):
        read_mask(path)


def test_interlaced_masks_are_read(tmp_path: Path) -> None:
    path = tmp_path / "m.png"
    path.write_bytes(trees.interlaced())
    np.testing.assert_array_equal(read_mask(path), [[1, 2], [3, 4]])
