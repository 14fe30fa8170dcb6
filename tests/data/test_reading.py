"""Every cell of the reader's tables: what is accepted is read exactly, what is converted as it says, the rest refused.

Shapes: H×W pixels.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from pathlib import Path

import imagefiles
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from imagefiles import ALPHA, RGB, SMOOTH, H, W, chunk, io_jpeg, make, png, saved, tiff
from PIL import Image

from fewmask.data.kinds import CONTAINERS, MASKS, PIXELS, PROPERTIES, Cell, judge, markdown
from fewmask.data.reading import decode_colours, image_kind, read_image, read_mask, read_picture

ROOT = Path(__file__).parents[2]


def put(folder: Path, data: bytes, name: str = "x.png") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def check_cell(path: Path, cell: Cell, expected: np.ndarray, tolerance: float = 0) -> None:
    """The cell's verdict is what the reader does with the file, in its words."""
    if cell.verdict == "refused":
        says = re.escape(f"{path}: {cell.how}; {cell.fix}").replace(r"\{bands\}", r"\d").replace(r"\{pages\}", r"\d")
        with pytest.raises(ValueError, match=f"^{says}$"):
            read_image(path)
        return
    picture = read_picture(path)
    assert picture.pixels.shape == (H, W, 3)
    assert picture.pixels.dtype == np.uint8
    assert np.abs(picture.pixels.astype(int) - expected).max() <= tolerance
    fixes = [c.fix for c in judge(picture.kind) if c.fix]
    assert (cell.fix in fixes) if cell.fix else not fixes


CELLS = [(channels, depth, box) for (channels, depth), cells in PIXELS.items() for box in cells]


@pytest.mark.parametrize(("channels", "depth", "box"), CELLS, ids=map("-".join, CELLS))
def test_every_cell_of_pixels(channels: str, depth: str, box: str, tmp_path: Path) -> None:
    data, expected = make(box, channels, depth)
    cell = PIXELS[channels, depth][box]
    # JPEG loses a little; of five bits two roundings are in use, and of CMYK.
    tolerance = {"JPEG": 6}.get(box, 1 if depth == "5" or channels == "CMYK" else 0)
    check_cell(put(tmp_path, data), cell, expected, tolerance)


@pytest.mark.parametrize(("channels", "depth"), MASKS, ids=map("-".join, MASKS))
def test_every_cell_of_masks(channels: str, depth: str, tmp_path: Path) -> None:
    path, cell = put(tmp_path, make("PNG", channels, depth)[0]), MASKS[channels, depth]
    if cell.verdict in ("refused", "by colours"):
        with pytest.raises(ValueError, match=re.escape(f"{path}: {cell.how}; {cell.fix}")):
            read_mask(path, {})
    elif depth == "16":
        with pytest.raises(ValueError, match=r"16 bits a pixel, and \d+ at column \d+, row \d+ is no id"):
            read_mask(path)
    else:
        np.testing.assert_array_equal(read_mask(path), imagefiles.values(int(depth))[..., 0])


@pytest.mark.parametrize("box", [box for box in CONTAINERS if box not in ("PNG", "TIFF", "BMP")])
def test_masks_in_other_containers_are_refused(box: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"x\.png: not a PNG; save masks as 8-bit PNG"):
        read_mask(put(tmp_path, make(box, "RGB", "8")[0]))


# ── What a file may have beside its pixels ───────────────────────────────────────────────────────────────────────────

FOREIGN = b"a profile of Display P3"


def exif(turn: int) -> bytes:
    block = Image.Exif()
    block[0x0112] = turn
    return block.tobytes()


def rgb_tiff(**tags: int) -> tuple[dict[int, object], bytes]:
    return {258: (8, 8, 8), 262: 2, 277: 3, **{int(k[1:]): v for k, v in tags.items()}}, RGB.tobytes()


def old_jpeg() -> tuple[dict[int, object], bytes]:
    return {258: (8, 8, 8), 262: 6, 277: 3, 259: 6}, b"anything"


def icc_png() -> bytes:
    return png(2, 8, RGB, chunk(b"iCCP", b"P3\0\0" + zlib.compress(FOREIGN)))


def frames(kind: str) -> bytes:
    buffer = io.BytesIO()
    others = [Image.fromarray(255 - RGB)]
    Image.fromarray(RGB).save(buffer, kind, save_all=True, append_images=others, lossless=True)
    return buffer.getvalue()


def with_mpf() -> bytes:
    data = io_jpeg()
    segment = b"MPF\0II*\0" + bytes(40)
    return data[:2] + b"\xff\xe2" + struct.pack(">H", len(segment) + 2) + segment + data[2:] + data


MADE = {
    ("orientation tag", "JPEG"): lambda: io_jpeg(exif=exif(6)),
    ("orientation tag", "PNG"): lambda: png(2, 8, RGB, chunk(b"eXIf", exif(6)[6:])),
    ("orientation tag", "TIFF"): lambda: tiff(rgb_tiff(_274=6)),
    ("orientation tag", "WebP"): lambda: saved(RGB, "WEBP", lossless=True, exif=exif(6)),
    ("ICC profile other than sRGB", "JPEG"): lambda: io_jpeg(icc_profile=FOREIGN),
    ("ICC profile other than sRGB", "PNG"): icc_png,
    ("ICC profile other than sRGB", "TIFF"): lambda: saved(RGB, "TIFF", icc_profile=FOREIGN),
    ("ICC profile other than sRGB", "WebP"): lambda: saved(RGB, "WEBP", lossless=True, icc_profile=FOREIGN),
    ("several pages", "TIFF"): lambda: tiff(rgb_tiff(), rgb_tiff()),
    ("animation", "PNG"): lambda: frames("PNG"),
    ("animation", "WebP"): lambda: frames("WEBP"),
    ("further pictures", "JPEG"): with_mpf,
    ("further pictures", "TIFF"): lambda: tiff(rgb_tiff(), rgb_tiff(_254=1)),
    ("a transparent colour (tRNS)", "PNG"): lambda: png(2, 8, RGB, chunk(b"tRNS", bytes(6))),
    ("colours multiplied by alpha", "TIFF"): lambda: tiff(
        ({258: (8,) * 4, 262: 2, 277: 4, 338: 1}, np.dstack([RGB, ALPHA]).tobytes())
    ),
    ("progressive, interlaced", "JPEG"): lambda: io_jpeg(progressive=True),
    ("progressive, interlaced", "PNG"): lambda: imagefiles.adam7(RGB),
    ("old-style JPEG in TIFF", "TIFF"): lambda: tiff(old_jpeg()),
}
BESIDE = [(p.name.partition(":")[0], box) for p in PROPERTIES for box in p.cells]


@pytest.mark.parametrize(("name", "box"), BESIDE, ids=map("-".join, BESIDE))
def test_every_cell_of_what_is_beside_the_pixels(name: str, box: str, tmp_path: Path) -> None:
    path = put(tmp_path, MADE[name, box]())
    (own,) = (p for p in PROPERTIES if p.name.startswith(name))
    cell = own.cells[box]
    if cell.verdict != "refused":
        assert own.holds(image_kind(path))
    expected, tolerance = (SMOOTH, 6) if box == "JPEG" else (RGB, 0)
    check_cell(path, cell, expected, tolerance)


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("box", ["JPEG", "TIFF", "PNG", "WebP"])
def test_no_orientation_turns_a_pixel(box: str, turn: int, tmp_path: Path) -> None:
    made = {
        "JPEG": lambda: io_jpeg(exif=exif(turn)),
        "TIFF": lambda: saved(RGB, "TIFF", compression="tiff_lzw", exif=exif(turn)),
        "PNG": lambda: saved(RGB, "PNG", exif=exif(turn)),
        "WebP": lambda: saved(RGB, "WEBP", lossless=True, exif=exif(turn)),
    }
    picture = read_picture(put(tmp_path, made[box]()))
    assert picture.kind.orientation == turn
    assert np.abs(picture.pixels.astype(int) - (SMOOTH if box == "JPEG" else RGB)).max() <= (6 if box == "JPEG" else 0)


def test_the_docs_show_the_tables() -> None:
    """`python -c "from fewmask.data.kinds import markdown; print(markdown())"` makes them."""
    assert markdown() in (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("data", "name"),
    [(b"GIF89a" + bytes(30), "GIF"), (bytes(4) + b"ftypheic" + bytes(30), "HEIC"), (b"8BPS" + bytes(30), "Photoshop")],
)
def test_other_containers_are_named(data: bytes, name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"not an image that is read: it is .*{name}.*; give JPEG, PNG, TIFF, WebP"):
        read_image(put(tmp_path, data))


# ── Damage ───────────────────────────────────────────────────────────────────────────────────────────────────────────

LARGE = np.clip(
    np.kron(np.random.default_rng(1).integers(0, 256, (12, 16, 3)), np.ones((16, 16, 1)))
    + np.random.default_rng(2).integers(-9, 9, (192, 256, 3)),
    0,
    255,
).astype(np.uint8)
JPEGS = {
    "plain": {},
    "progressive": {"progressive": True},
    "optimised": {"optimize": True},
    "restarts": {"restart_marker_rows": 1},
    "grey": {"mode": "L"},
    "CMYK": {"mode": "CMYK"},
}


def jpeg(mode: str = "RGB", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(LARGE).convert(mode).save(buffer, "JPEG", quality=85, **options)
    return buffer.getvalue()


ENCODED = {name: jpeg(**options) for name, options in JPEGS.items()}  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ENCODED)
@settings(max_examples=40, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_jpeg_that_lost_pixels_is_never_read(name: str, data: st.DataObject, tmp_path: Path) -> None:
    """Cut with an end marker put behind it, zeroed in its middle, or with a piece taken out of it.

    The code has no checksum: after fewer bytes than here it now and then falls into step again unnoticed.
    """
    whole = ENCODED[name]
    start, last = whole.index(b"\xff\xda") + 20, len(whole) - 2
    least = len(whole) // 4 if name == "progressive" else 512
    at = data.draw(st.integers(start, last - least))
    length = data.draw(st.integers(least, last - at))
    way = data.draw(st.sampled_from(["cut", "zeroed", "taken out"]))
    if way == "cut":
        damaged = whole[:at] + whole[last:]
    elif way == "zeroed":
        damaged = whole[:at] + bytes(length) + whole[at + length :]
    else:
        damaged = whole[:at] + whole[at + length :]
    path = put(tmp_path, damaged)
    with pytest.raises(ValueError, match=rf"^{re.escape(str(path))}: (truncated|damaged).*; copy or export it again$"):
        read_image(path)


def test_a_jpeg_cut_in_the_header_of_a_scan_is_refused(tmp_path: Path) -> None:
    whole = ENCODED["progressive"]
    for scan in re.finditer(b"\xff\xda", whole):
        for length in range(2, 14):
            path = put(tmp_path, whole[: scan.start() + length] + b"\xff\xd9")
            with pytest.raises(ValueError, match=r"(truncated|damaged).*; copy or export it again$"):
                read_image(path)


@pytest.mark.parametrize("name", ENCODED)
def test_whole_jpegs_are_read(name: str, tmp_path: Path) -> None:
    assert read_image(put(tmp_path, ENCODED[name])).shape == LARGE.shape


def test_a_progressive_jpeg_without_its_last_scans_is_refused(tmp_path: Path) -> None:
    """Libjpeg shows it blurred and warns of nothing."""
    whole = ENCODED["progressive"]
    scans = [m.start() for m in re.finditer(rb"\xff\xda", whole)]
    assert len(scans) > 4
    for scan in scans[1:]:
        tables = whole.rfind(b"\xff\xc4", 0, scan)  # a scan's tables stand before it
        with pytest.raises(ValueError, match="scans of its pixels are missing"):
            read_image(put(tmp_path, whole[: tables if tables > scans[0] else scan] + b"\xff\xd9"))


def test_what_cameras_write_into_a_plain_scan_is_no_damage(tmp_path: Path) -> None:
    whole = bytearray(ENCODED["plain"])
    scan = whole.index(b"\xff\xda")
    whole[scan + 11 : scan + 14] = b"\x00\x00\x00"
    np.testing.assert_array_equal(
        read_image(put(tmp_path, bytes(whole))), read_image(put(tmp_path, ENCODED["plain"], "y.jpg"))
    )


OTHERS = {
    "png": saved(LARGE, "PNG"),
    "palette png": saved(LARGE[..., 0], "PNG", "P"),
    "raw tiff": saved(LARGE, "TIFF"),
    "lzw tiff": saved(LARGE, "TIFF", compression="tiff_lzw"),
    "deflate tiff": saved(LARGE, "TIFF", compression="tiff_adobe_deflate"),
    "jpeg tiff": saved(LARGE, "TIFF", compression="jpeg"),
    "webp": saved(LARGE, "WEBP"),
    "lossless webp": saved(LARGE, "WEBP", lossless=True),
    "bmp": saved(LARGE, "BMP"),
}


@pytest.mark.parametrize("name", OTHERS)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_file_that_is_cut_short_is_never_read(name: str, data: st.DataObject, tmp_path: Path) -> None:
    whole = OTHERS[name]
    path = put(tmp_path, whole[: data.draw(st.integers(1, len(whole) - 1))])
    with pytest.raises(ValueError, match=rf"^{re.escape(str(path))}: .*; "):
        read_image(path)


@pytest.mark.parametrize("name", ["png", "palette png", "deflate tiff", "jpeg tiff"])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_zeroed_pixels_are_found_where_the_format_can_tell(name: str, data: st.DataObject, tmp_path: Path) -> None:
    whole = OTHERS[name]
    at = data.draw(st.integers(len(whole) // 4, len(whole) * 3 // 4))
    path = put(tmp_path, whole[:at] + bytes(200) + whole[at + 200 :])
    with pytest.raises(ValueError, match=rf"^{re.escape(str(path))}: .*; "):
        read_image(path)


@pytest.mark.parametrize("kind", [0, 2, 3, 6])
def test_rows_that_a_png_lacks_are_never_filled_in(kind: int, tmp_path: Path) -> None:
    count = {0: 1, 2: 3, 3: 1, 6: 4}[kind]
    whole = png(
        kind, 8, imagefiles.values(8, count), chunk(b"PLTE", imagefiles.PALETTE.tobytes()) if kind == 3 else b""
    )
    rows = zlib.compress(bytes((1 + W * count) * (H - 2)))
    at = whole.index(b"IDAT") - 4
    short = put(tmp_path, whole[:at] + chunk(b"IDAT", rows) + chunk(b"IEND", b""))
    readers = [read_image, read_mask] if kind in (0, 3) else [read_image]
    for read in readers:
        with pytest.raises(ValueError, match="rows are missing"):
            read(short)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from([*OTHERS, *ENCODED]), data=st.data())
def test_flipped_bytes_raise_nothing_but_a_named_error(name: str, data: st.DataObject, tmp_path: Path) -> None:
    whole = bytearray({**OTHERS, **ENCODED}[name])
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, min(len(whole), 900) - 1))] = data.draw(st.integers(0, 255))
    path = put(tmp_path, bytes(whole))
    for read in (read_image, read_mask, lambda p: decode_colours(p.read_bytes(), p)):
        message = None
        try:
            read(path)
        except ValueError as error:
            message = str(error)
        assert message is None or (message.startswith(f"{path}: ") and "; " in message)
