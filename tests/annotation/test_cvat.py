"""CVAT: "CVAT for images 1.1" and "Segmentation mask 1.1", both ways, and polygons as pixels.

Shapes: H×W pixels of an image · P points.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from annotating import EXAMPLES, ODD_NAMES, SHAPE, SIZE, domain, ledger_with, refused, round_trip, three
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fewmask.annotation.cvat import read_answers, write_masks, write_questions, write_xml
from fewmask.annotation.importer import Import
from fewmask.annotation.ledger import Ledger
from fewmask.annotation.questions import Question
from fewmask.data.domain import Domain, read_image
from fewmask.formats.shapes import MAX_CROSSINGS, fill_polygon
from fewmask.labels import NOT_LABELLED, VOID, Mask

EXPORT = Path(__file__).parents[1] / "fixtures" / "cvat-images.xml"
SKY = "the &quot;sky&quot;"


def packed(path: Path, files: Mapping[str, Any]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def xml(path: Path, *images: str, head: str = "") -> Path:
    path.write_text(f'<?xml version="1.0"?>{head}<annotations><version>1.1</version>{"".join(images)}</annotations>')
    return path


def image(*shapes: str, name: str = "a-0.png", size: tuple[int, int] = SIZE) -> str:
    return f'<image id="0" name="{name}" width="{size[1]}" height="{size[0]}">{"".join(shapes)}</image>'


def mask(rle: str, box: tuple[object, ...] = (3, 2, 6, 5), label: str = SKY, z: int = 0) -> str:
    left, top, width, height = box
    where = f'left="{left}" top="{top}" width="{width}" height="{height}"'
    return f'<mask label="{label}" source="manual" occluded="0" rle="{rle}" {where} z_order="{z}"/>'


def polygon(points: str, label: str = SKY, z: int = 0) -> str:
    return f'<polygon label="{label}" source="manual" occluded="0" points="{points}" z_order="{z}"/>'


# ── Out ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_people_get_and_confirm(ledger: Ledger, domains: dict[str, Domain], tmp_path: Path) -> None:
    assert [q.id for q in write_questions(ledger, domains, tmp_path)] == [1, 2, 3]
    written = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    pictures = {f"a/{kind}/{stem}.png" for kind in ("images", "asked") for stem in ("a-0", "a-2")}
    assert written == {".written.jsonl", "a/labels.json", "a/annotations.xml", "a/masks.zip", *pictures}
    np.testing.assert_array_equal(read_image(tmp_path / "a/images/a-0.png"), domains["a"].image("a-0"))
    editor = json.loads((tmp_path / "a/labels.json").read_text())
    assert [label["name"] for label in editor] == [*ODD_NAMES, "void"]
    assert {label["color"] for label in editor} == {"#f25555", "#1d4cbf", "#b1f255", "#5a5a5a"}
    for file, who in (("annotations.xml", "ann"), ("masks.zip", "bob")):  # the guesses, taken as they are
        taken = read_answers(ledger, domains, tmp_path / "a" / file, who, "corrections")
        assert taken == Import(2, 0, 1, 0, beside={"ann": 2} if who == "bob" else {})
    expected = np.full(SIZE, NOT_LABELLED, np.uint8)
    expected[2:7, 3:9] = 1
    expected[10:14, 10:16][SHAPE] = 2
    np.testing.assert_array_equal(ledger.labels("a", "a-0"), expected)
    assert {a.annotator for a in ledger.answers()} == {"ann", "bob"}


def test_each_region_is_a_mask_of_its_own(domains: dict[str, Domain], tmp_path: Path) -> None:
    """So that giving one of them another label leaves the other as it is."""
    beside = [Question("a", "a-0", "squares", r, (0, 4 * r, 4, 4 * r + 4), guess=1) for r in range(2)]
    with ledger_with(domains["a"], *beside) as ledger:
        write_questions(ledger, domains, tmp_path)
    text = (tmp_path / "a/annotations.xml").read_text()
    assert [text.count(f'rle="0, 16" left="{x}" top="0" width="4" height="4"') for x in (0, 4)] == [1, 1]


def test_black_and_equal_colours_get_their_own(tmp_path: Path) -> None:
    plain = domain(names=("night", "soot", "void")).space
    space = replace(plain, colours=((0, 0, 0), (0, 0, 0), (90, 90, 90)))
    domains = {"a": replace(domain(), space=space)}
    values = np.arange(SIZE[0] * SIZE[1]).reshape(SIZE) % 3
    values = values.astype(np.uint8)
    values[0] = VOID
    with ledger_with(domains["a"], Question("a", "a-0", "all", 0, (0, 0, *SIZE))) as ledger:
        write_masks(tmp_path / "masks.zip", space, [("a-0", values)])
        read_answers(ledger, domains, tmp_path / "masks.zip", "ann")
        np.testing.assert_array_equal(ledger.labels("a", "a-0"), values)


def test_a_class_called_background_needs_the_xml(tmp_path: Path) -> None:
    domains = {"a": domain(names=("background", "cat", "dog"))}
    values = np.zeros(SIZE, np.uint8)
    values[3] = NOT_LABELLED
    with ledger_with(domains["a"], Question("a", "a-0", "all", 0, (0, 0, *SIZE))) as ledger:
        write_questions(ledger, domains, tmp_path)
        assert not (tmp_path / "a/masks.zip").exists()
        with pytest.raises(ValueError, match=r'"Segmentation mask 1\.1" cannot tell from pixels that nobody painted'):
            write_masks(tmp_path / "masks.zip", domains["a"].space, [("a-0", values)])
        png = io.BytesIO()
        Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(png, "PNG")
        files = {"labelmap.txt": "background:0,0,0::\n", "SegmentationClass/a-0.png": png.getvalue()}
        path = packed(tmp_path / "export.zip", files)
        refused(ledger, lambda: read_answers(ledger, domains, path, "ann"), 'export as "CVAT for images 1.1"')
        write_xml(tmp_path / "x.xml", domains["a"].space, [("a-0", values)])
        read_answers(ledger, domains, tmp_path / "x.xml", "ann")
        np.testing.assert_array_equal(ledger.labels("a", "a-0"), values)


@pytest.mark.parametrize("name", ["a:b", "#a", " a"])
def test_names_that_the_list_of_labels_cannot_hold(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"labelmap\.txt cannot hold this name"):
        write_masks(tmp_path / "masks.zip", domain(names=(name, "b", "c")).space, [])
    assert list(tmp_path.iterdir()) == []


# ── In ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_export_as_cvat_writes_it(ledger: Ledger, domains: dict[str, Domain], tmp_path: Path) -> None:
    """z_order decides: at 0 a rectangle of class 2, over it at 1 a polygon of class 0 over all of it, and, later in
    the file, void with a hole; at 2 one pixel of class 1 in the middle of a mask."""
    expected = np.full(SIZE, NOT_LABELLED, np.uint8)
    expected[2:7, 3:9] = 0
    expected[2:5, 3:6] = VOID
    expected[3, 4] = 0
    expected[4, 5] = 1
    assert read_answers(ledger, domains, EXPORT, "ann") == Import(2, 0, 1, 0)
    np.testing.assert_array_equal(ledger.labels("a", "a-0"), expected)
    assert ledger.labels("a", "a-2")[0, 23] == 1
    zipped = packed(tmp_path / "export.zip", {"annotations.xml": EXPORT.read_bytes(), "images/a-0.png": b"left alone"})
    assert read_answers(ledger, domains, zipped, "ann").unchanged == 2


@pytest.mark.parametrize("indexed", [False, True], ids=["colours", "palette"])
def test_masks_as_cvat_writes_them(ledger: Ledger, domains: dict[str, Domain], tmp_path: Path, indexed: bool) -> None:
    listed = (
        '# label:color_rgb:parts:actions\nbackground:0,0,0::\nvoid:1,2,3::\nthe "sky":250,50,50::\nunused:9,9,9::\n'
    )
    colours = np.array([(0, 0, 0), (1, 2, 3), (250, 50, 50)], np.uint8)
    values = np.zeros(SIZE, np.uint8)
    values[2:7, 3:9] = 2
    values[3, 4] = 1
    values[4, 4] = 0  # a hole
    picture = Image.fromarray(values if indexed else colours[values])
    if indexed:
        picture.putpalette(colours.tobytes())
    png = io.BytesIO()
    picture.save(png, "PNG")
    files = {
        "labelmap.txt": listed,
        "ImageSets/Segmentation/default.txt": "a-0\n",
        "SegmentationClass/a-0.png": png.getvalue(),
        "SegmentationObject/a-0.png": png.getvalue(),
    }
    assert read_answers(ledger, domains, packed(tmp_path / "e.zip", files), "ann") == Import(1, 0, 1, 0, in_part=1)
    labels = np.array([NOT_LABELLED, VOID, 1], np.uint8)[values]
    np.testing.assert_array_equal(ledger.labels("a", "a-0"), labels)


def test_masks_of_one_channel_hold_places_in_the_list(
    ledger: Ledger, domains: dict[str, Domain], tmp_path: Path
) -> None:
    values = np.zeros(SIZE, np.uint8)
    values[2:7, 3:9] = 2
    png = io.BytesIO()
    Image.fromarray(values).save(png, "PNG")
    listed = 'background:0,0,0::\nvoid:1,2,3::\nthe "sky":250,50,50::\n'
    files = {"labelmap.txt": listed, "SegmentationClass/a-0.png": png.getvalue()}
    read_answers(ledger, domains, packed(tmp_path / "e.zip", files), "ann")
    assert (ledger.labels("a", "a-0")[2:7, 3:9] == 1).all()
    files["labelmap.txt"] = "void:1,2,3::\nbackground:0,0,0::\n"
    path = packed(tmp_path / "e.zip", files)
    with pytest.raises(ValueError, match=r"one channel, and labelmap\.txt does not begin with background"):
        read_answers(ledger, domains, path, "bob")


@pytest.mark.parametrize("examples", EXAMPLES)
@pytest.mark.parametrize("write", [write_xml, write_masks])
def test_what_is_painted_comes_back(examples: int, write: Callable[..., None], tmp_path: Path) -> None:
    path = tmp_path / ("e.xml" if write is write_xml else "e.zip")

    def come_back(ledger: Ledger, domains: Mapping[str, Domain], mask: Mask) -> None:
        write(path, domains["a"].space, [("a-0", mask)])
        read_answers(ledger, domains, path, "ann")

    round_trip(examples, come_back)


SHAPES = {
    "runs that overflow": (mask("0, 31"), "runs of 31 pixels together where there are 30"),
    "runs that fall short": (mask("0, 29"), "runs of 29 pixels together where there are 30"),
    "a negative run": (mask("0, 40, -10"), "a run of -10 pixels"),
    "runs that wrap around": (mask(f"{2**62}, {2**62}, {2**62}, {2**62}, 30"), "together where there are 30"),
    "too large a run": (mask(f"0, {10**30}"), "too large"),
    "no runs": (mask(""), "invalid literal"),
    "half outside": (mask("0, 30", (20, 2, 6, 5)), "6×5 pixels at column 20, row 2: not in its image"),
    "before the image": (mask("0, 30", (-1, 2, 6, 5)), "at column -1, row 2: not in its image"),
    "no width": (mask("0", (3, 2, 0, 5)), "0×5 pixels"),
    "a fraction": (mask("0, 30", ("3.5", 2, 6, 5)), "left '3.5' is no whole number"),
    "two points": (polygon("1,1;2,2"), "a polygon of 2 points"),
    "half a point": (polygon("1,1;2,2;3"), "not enough values"),
    "a point nowhere": (polygon("1,1;2,nan;3,3"), "each two finite numbers"),
    "no points": ('<polygon label="void" z_order="0"/>', "polygon without points"),
    "too many runs": (mask(", ".join(["0"] * 33)), "33 runs where there are 30 pixels"),
    "a long number": (mask("0, 30", ("0" * 30, 2, 6, 5)), "is no whole number"),
    "an image inside": ('<image name="a-0.png"/>', "another image inside of it"),
    "no label": ("<mask/>", "mask without label"),
}


@pytest.mark.parametrize("wrong", SHAPES)
def test_shapes_that_are_wrong_are_refused(
    ledger: Ledger, domains: dict[str, Domain], tmp_path: Path, wrong: str
) -> None:
    shape, message = SHAPES[wrong]
    path = xml(tmp_path / "e.xml", image(mask("0, 1", (23, 0, 1, 1)), name="a-2.png"), image(mask("0, 30"), shape))
    refused(ledger, lambda: read_answers(ledger, domains, path, "ann"), f"{path}: image 'a-0.png'", message)


def test_every_problem_of_every_image_is_listed(ledger: Ledger, domains: dict[str, Domain], tmp_path: Path) -> None:
    path = xml(
        tmp_path / "e.xml",
        image(mask("0, 30"), name="a-0.png"),
        image(mask("0, 30"), name="a/a-0.jpg"),
        image(name="b-7.png"),
        image(name="a-1.png"),
        image(name="a-2.png", size=(24, 20)),
        '<image id="5"/>',
    )
    refused(
        ledger,
        lambda: read_answers(ledger, domains, path, "ann"),
        "image 'a/a-0.jpg': ann answers about a/a-0 twice; keep one of the two",
        "image 'a-2.png': 20×24 pixels, its image is 24×20",
        'an image: image without name; export it again as "CVAT for images 1.1"',
    )


def test_images_of_several_domains_are_told_apart(tmp_path: Path) -> None:
    domains = {"a": domain(), "b": replace(domain(), name="b")}
    with ledger_with(domains["a"], three()[0]) as ledger:
        ledger.add_images(domains["b"], ["a-0"])
        ledger.ask(2, [replace(three()[0], domain="b")])
        path = xml(tmp_path / "e.xml", image(mask("0, 30")))
        refused(
            ledger,
            lambda: read_answers(ledger, domains, path, "ann"),
            "the name 'a-0.png' may be a/a-0, b/a-0; call it <domain>/<stem>",
        )
        xml(path, image(mask("0, 30"), name="b/a-0.png"))
        read_answers(ledger, domains, path, "ann")
        assert [a.question for a in ledger.answers()] == [2]


LISTED = "background:0,0,0::\nvoid:1,2,3::\n"


@pytest.mark.parametrize(
    ("listed", "picture", "message"),
    [
        (LISTED, np.full((*SIZE, 3), 7, np.uint8), "#070707 stands for no label of labelmap.txt"),
        (LISTED, np.full(SIZE, 2, np.uint8), "2 stands for no label of labelmap.txt"),
        (LISTED, np.zeros((24, 20, 3), np.uint8), "20×24 pixels, its image is 24×20"),
        (LISTED, np.zeros((*SIZE, 4), np.uint8), "it holds colours (RGB and alpha); save three channels"),
        (LISTED, np.zeros(SIZE, np.uint16), "16 bits a pixel"),
        ("void:1,2::", np.zeros((*SIZE, 3), np.uint8), "'void:1,2::'; a line is <label>:<red>,<green>,<blue>::"),
        ("void:1,2,x::", np.zeros((*SIZE, 3), np.uint8), "a line is <label>"),
        ("void:0,0,0::", np.zeros((*SIZE, 3), np.uint8), "'void' is black, which means that nobody painted"),
        (LISTED + "b:1,2,3::", np.zeros((*SIZE, 3), np.uint8), "two labels have equal colours"),
        (LISTED + "void:4,4,4::", np.zeros((*SIZE, 3), np.uint8), "two labels have equal names"),
    ],
)
def test_masks_that_are_wrong_are_refused(
    ledger: Ledger, domains: dict[str, Domain], tmp_path: Path, listed: str, picture: np.ndarray, message: str
) -> None:
    good, png = io.BytesIO(), io.BytesIO()
    Image.fromarray(np.full((*SIZE, 3), (1, 2, 3), np.uint8)).save(good, "PNG")
    Image.fromarray(picture).save(png, "PNG")
    folder = "SegmentationClass"
    files = {"labelmap.txt": listed, f"{folder}/a-2.png": good.getvalue(), f"{folder}/a-0.png": png.getvalue()}
    path = packed(tmp_path / "e.zip", files)
    refused(ledger, lambda: read_answers(ledger, domains, path, "ann"), str(path), message)


def test_archives_of_something_else(ledger: Ledger, domains: dict[str, Domain], tmp_path: Path) -> None:
    png = {"SegmentationClass/a-0.txt": b"", "labelmap.txt": LISTED}
    left = "left out: 1 × a file that is no part of the export (SegmentationClass/a-0.txt)"
    for files, message in (({"a.txt": b""}, "neither annotations.xml nor labelmap.txt"), (png, left)):
        path = packed(tmp_path / "e.zip", files)
        refused(ledger, lambda path=path: read_answers(ledger, domains, path, "ann"), message)  # type: ignore[misc]
    video = xml(tmp_path / "e.xml", '<track id="0" label="void"></track>')
    refused(
        ledger, lambda: read_answers(ledger, domains, video, "ann"), "no images in it", "1 × a <track>; only shapes"
    )
    empty = xml(tmp_path / "e.xml")
    refused(ledger, lambda: read_answers(ledger, domains, empty, "ann"), "no images in it")


# ── Polygons ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def slow_polygon(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Pixel by pixel: the centre is inside where a ray to the right crosses the outline an odd number of times."""
    inside = np.zeros(size, dtype=bool)
    for y, x in np.ndindex(size):
        for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0), strict=True):
            if min(y0, y1) <= y + 0.5 < max(y0, y1):
                inside[y, x] ^= x0 + (y + 0.5 - y0) * ((x1 - x0) / (y1 - y0)) <= x + 0.5
    return inside


@settings(max_examples=150, deadline=None)
@given(points=st.lists(st.tuples(*[st.integers(-20, 100).map(lambda v: v / 8)] * 2), min_size=3, max_size=9))
def test_polygons_are_filled_as_pixel_by_pixel(points: list[tuple[float, float]]) -> None:
    got = np.zeros((9, 11), np.uint8)
    fill_polygon(np.array(points), got, 1)
    np.testing.assert_array_equal(got == 1, slow_polygon(np.array(points), (9, 11)))


def test_a_polygon_of_too_many_edges_is_refused() -> None:
    zigzag = np.stack([np.arange(30_000) / 100, np.arange(30_000) % 2 * 1000.0], axis=1)
    assert MAX_CROSSINGS < 30_000 * 1000
    with pytest.raises(ValueError, match="of 30000 points whose edges cross 30000000 rows; draw a simpler one"):
        fill_polygon(zigzag, np.zeros((1000, 400), np.uint8), 1)
