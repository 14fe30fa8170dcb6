"""Images of any number of channels and of any depth: read exactly, stretched by the pool, refused by name otherwise.

Shapes: H×W pixels · C channels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ondisk import write_bands
from PIL import Image

from fewmask.config import FolderDomain, InputSettings
from fewmask.data.doctor import check_domains
from fewmask.data.inputs import input_kind, read_input, read_values
from fewmask.data.layouts import load_domain
from fewmask.data.reading import read_image
from fewmask.data.stretch import settle_stretch
from fewmask.formats.bands import as_rgb, stretched
from fewmask.methods import parse_config

NAMES = tuple(f"band{i}" for i in range(8))
DTYPES = {8: ("uint8",), 16: ("uint16", "int16"), 32: ("uint32", "int32"), "float": ("float16", "float32", "float64")}


def wants(channels: int, depth: Any = 16, **more: Any) -> InputSettings:
    return InputSettings(channels=NAMES[:channels], depth=depth, **more)


def values(dtype: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Numbers over all that the type holds, or of a reflectance."""
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return rng.normal(0.2, 0.1, shape).astype(dtype)
    info = np.iinfo(dtype)
    return rng.integers(info.min, int(info.max) + 1, shape, np.int64).astype(dtype)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    dtype=st.sampled_from([name for names in DTYPES.values() for name in names]),
    channels=st.integers(1, 8),
    size=st.tuples(st.integers(2, 20), st.integers(2, 20)),
    planar=st.sampled_from(["contig", "separate", "pages"]),
    compression=st.sampled_from([None, "zlib", "lzw", "zstd"]),
    order=st.sampled_from(["<", ">"]),
    big=st.booleans(),
)
def test_a_tiff_of_any_layout_is_read_exactly(
    dtype: str,
    channels: int,
    size: tuple[int, int],
    planar: str,
    compression: str | None,
    order: str,
    big: bool,
    tmp_path: Path,
) -> None:
    pixels, path = values(dtype, (*size, channels)), tmp_path / "x.tif"
    common: Any = {"photometric": "minisblack", "compression": compression}
    with tifffile.TiffWriter(path, byteorder=order, bigtiff=big) as file:
        if planar == "pages":
            for channel in range(channels):
                file.write(pixels[..., channel], **common)
        elif channels == 1:
            file.write(pixels[..., 0], **common)
        elif planar == "separate":
            file.write(np.moveaxis(pixels, -1, 0), planarconfig="separate", **common)
        else:
            file.write(pixels, planarconfig="contig", **common)
    if big and order == ">":  # which Pillow, who reads the header, does not know
        with pytest.raises(ValueError, match="a BigTIFF of big-endian numbers; save it"):
            read_values(path, wants(channels))
        return
    depth = next(depth for depth, names in DTYPES.items() if dtype in names)
    array, kind = read_values(path, wants(channels, depth))
    np.testing.assert_array_equal(array, pixels)
    assert (kind.height, kind.width) == size == (input_kind(path, wants(channels, depth)).height, kind.width)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_png_is_read_exactly(bits: int, channels: int, tmp_path: Path) -> None:
    pixels, path = values(f"uint{bits}", (7, 9, channels)), tmp_path / "x.png"
    if channels == 2:  # which OpenCV does not write
        if bits == 16:
            pytest.skip("neither Pillow nor OpenCV writes grey and alpha of 16 bits")
        Image.fromarray(pixels, "LA").save(path)
    else:
        order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[channels]
        assert cv2.imwrite(str(path), pixels[..., order])
    np.testing.assert_array_equal(read_values(path, wants(channels, bits))[0], pixels)


def test_grey_jpeg_of_one_channel(tmp_path: Path) -> None:
    Image.fromarray(values("uint8", (7, 9))).save(tmp_path / "x.jpg")
    pixels = read_input(tmp_path / "x.jpg", wants(1, 8)).pixels
    np.testing.assert_array_equal(pixels, read_image(tmp_path / "x.jpg")[..., :1])


def test_stretched_is_the_line_through_two_values() -> None:
    pixels = np.array([[[-5, 0], [0, 100], [50, 301], [1000, 500], [2000, 700]]], np.int16)
    image = stretched(pixels, [(0, 1000), (100, 500)])
    assert image.tolist() == [[[0, 0], [0, 0], [13, 128], [255, 255], [255, 255]]]
    assert image.dtype == np.uint8
    tall = values("uint16", (3000, 700, 1))
    whole = np.rint(np.clip((tall.astype(np.float64) - 10) * 255 / 50_000, 0, 255)).astype(np.uint8)
    np.testing.assert_array_equal(stretched(tall, [(10, 50_010)]), whole)


@pytest.mark.parametrize(("channels", "expected"), [(1, [0, 0, 0]), (2, [0, 0, 0]), (3, [0, 1, 2]), (5, [0, 1, 2])])
def test_people_see_three_channels(channels: int, expected: list[int]) -> None:
    image = values("uint8", (4, 5, channels))
    np.testing.assert_array_equal(as_rgb(image), image[..., expected])


def test_the_stretch_is_percentiles_of_train_and_the_same_each_time(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    paths = []
    for i in range(5):
        pixels = np.stack([rng.normal(1000, 50, (40, 40)), rng.uniform(0, 60_000, (40, 40))], -1)
        paths.append(tmp_path / f"{i}.tif")
        tifffile.imwrite(paths[-1], pixels.astype(np.uint16), planarconfig="contig", photometric="minisblack")
    one, again = settle_stretch(wants(2), paths), settle_stretch(wants(2), paths)
    assert one == again
    assert one.stretch is not None
    np.testing.assert_allclose(one.stretch, [(884, 1116), (600, 59_400)], rtol=0.03, atol=500)
    assert settle_stretch(one, []) is one
    with pytest.raises(ValueError, match="no image to take the values from"):
        settle_stretch(wants(2), [])
    tifffile.imwrite(paths[0], np.full((9, 9), 7, np.uint16))
    with pytest.raises(ValueError, match="channel band0 has nearly one value in 1 images"):
        settle_stretch(wants(1), paths[:1])


def refused(path: Path, wanted: InputSettings) -> str:
    with pytest.raises(ValueError, match=r"x\.(tif|png|jpg|webp): ") as error:
        read_values(path, wanted)
    return str(error.value)


def test_what_does_not_fit_the_settings_is_refused_with_the_setting(tmp_path: Path) -> None:
    tif, png = tmp_path / "x.tif", tmp_path / "x.png"
    tifffile.imwrite(tif, values("uint16", (6, 7, 4)), planarconfig="contig", photometric="minisblack")
    assert "`channels` are 3 (band0, band1, band2)" in refused(tif, wants(3))
    assert "`depth` is 8; write `depth: 16`" in refused(tif, wants(4, 8))
    with pytest.raises(ValueError, match="name them in `channels`"):
        read_image(tif)
    tifffile.imwrite(tif, values("float32", (6, 7)))
    assert "write `depth: float`" in refused(tif, wants(1))
    with pytest.raises(ValueError, match="write `depth: float` in the domain's settings"):
        read_image(tif)
    tifffile.imwrite(tif, values("int8", (6, 7)))
    assert "save it as integers of 16 bits" in refused(tif, wants(1, 8))
    tifffile.imwrite(tif, values("uint16", (6, 7)), photometric="miniswhite")
    assert "0 is white" in refused(tif, wants(1))
    tifffile.imwrite(tif, values("uint16", (3, 6, 7)), photometric="minisblack")  # three pages
    assert "3 pages" in refused(tif, wants(1))
    for other in (values("uint16", (5, 7)), values("uint8", (6, 7))):
        with tifffile.TiffWriter(tif) as file:
            file.write(values("uint16", (6, 7)), photometric="minisblack")
            file.write(other, photometric="minisblack")
        assert "its pages differ in size or in kind of number" in refused(tif, wants(2))
    Image.fromarray(values("uint8", (6, 7, 3))).convert("YCbCr").save(tif)
    assert "not numeric channels; save it as RGB" in refused(tif, wants(3, 8))
    Image.fromarray(values("uint8", (6, 7, 4))).save(tmp_path / "x.webp")
    assert "the alpha of a WebP is not read as a channel" in refused(tmp_path / "x.webp", wants(4, 8))
    cv2.imwrite(str(png), values("uint16", (6, 7)))
    with pytest.raises(ValueError, match="write `depth: 16` in the domain's settings"):
        read_image(png)
    Image.fromarray(values("uint8", (6, 7)), "P").save(png)
    assert "not numeric channels" in refused(png, wants(1, 8))
    Image.fromarray(values("uint8", (6, 7, 3))).save(tmp_path / "x.webp")
    assert "8 bits a value here" in refused(tmp_path / "x.webp", wants(3))
    broken = values("float32", (6, 7, 2))
    broken[2, 5, 1] = np.nan
    tifffile.imwrite(tif, broken, planarconfig="contig", photometric="minisblack")
    assert "nan in channel band1 at column 5, row 2, and 1 such" in refused(tif, wants(2, "float"))


@pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
def test_a_tiff_that_is_cut_short_is_an_error(compression: str | None, tmp_path: Path) -> None:
    path, whole = tmp_path / "x.tif", tmp_path / "whole.tif"
    tifffile.imwrite(
        whole, values("uint16", (60, 40, 3)), rowsperstrip=7, compression=compression, photometric="minisblack",
        planarconfig="contig",
    )  # fmt: skip
    data = whole.read_bytes()
    for part in range(1, 20):
        path.write_bytes(data[: len(data) * part // 20])
        refused(path, wants(3))
    with tifffile.TiffFile(whole) as file:
        tag = file.pages[0].tags["StripByteCounts"]
        at, size = tag.valueoffset, 2 if tag.dtype == 3 else 4
    path.write_bytes(data[:at] + bytes(size) + data[at + size :])  # tifffile would fill the strip with 0
    assert "missing" in refused(path, wants(3))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"channels": []}, "channels"),
        ({"channels": ["a", "a"]}, "two channels have one name"),
        ({"depth": 12}, "depth"),
        ({"depth": 16, "stretch": [[0, 1]]}, "1 pairs for 3 channels"),
        ({"depth": 16, "stretch": [[1, 1]] * 3}, "the two differ"),
        ({"stretch": [[0, 1]] * 3}, "values of 8 bits are used as they are"),
    ],
)
def test_wrong_settings_are_named(given: dict[str, Any], says: str, tmp_path: Path) -> None:
    domains = {"a": {"layout": "folder", "root": str(tmp_path), **given}}
    with pytest.raises(ValueError, match=says):
        parse_config({"name": "x", "domains": domains, "method": "joint"})


def test_a_domain_of_four_bands_is_checked_and_loaded(tmp_path: Path) -> None:
    root = write_bands(tmp_path / "fields")
    own = FolderDomain(root=root, channels=("red", "green", "blue", "nir"), depth=16)
    assert not check_domains({"fields": own}).errors
    domain = load_domain("fields", own)
    assert domain.input.stretch is not None
    image = domain.image("train0")
    assert (image.shape, image.dtype) == ((40, 48, 4), np.uint8)
    raw = tifffile.imread(root / "images" / "train0.tif")
    np.testing.assert_array_equal(image, stretched(raw, domain.input.stretch))
    assert domain.at(0.5).image("train0").shape == (20, 24, 4)
    assert domain.dataset("train")[0][0].shape == (4, 40, 48)


def test_check_lists_every_image_that_does_not_fit(tmp_path: Path) -> None:
    root = write_bands(tmp_path / "fields")
    for stem, pixels in (("train1", values("uint8", (40, 48, 4))), ("val0", values("uint16", (40, 48, 3)))):
        path = root / "images" / f"{stem}.tif"
        tifffile.imwrite(path, pixels, planarconfig="contig", photometric="minisblack")
    problems = check_domains({"fields": FolderDomain(root=root, channels=NAMES[:4], depth=16)}).errors
    assert [Path(p.where).stem for p in problems] == ["train1", "val0"]
    plain = check_domains({"fields": FolderDomain(root=root)}).errors
    assert len(plain) == 10
    assert "name them in `channels`" in plain[0].fix


def test_size_takes_more_channels_than_opencv_does(tmp_path: Path) -> None:
    root = write_bands(tmp_path / "fields", channels=7, dtype="float32")
    domain = load_domain("fields", FolderDomain(root=root, channels=NAMES[:7], depth="float", size=0.5))
    assert domain.image("train0").shape == (20, 24, 7)
    one = load_domain(
        "one", FolderDomain(root=write_bands(tmp_path / "one", 1), channels=("grey",), depth=16, size=0.5)
    )
    assert one.image("train0").shape == (20, 24, 1)
