"""Masks of every kind that the layout `folder` reads: each gives the pixels that were drawn, or says what is wrong.

Shapes: H×W pixels.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from fewmask.config import FolderDomain
from fewmask.data.doctor import check_domains
from fewmask.data.layouts import index, load_domain
from fewmask.formats import rle
from fewmask.labels import VOID, distinct_colour

H, W = 7, 9
NAMES = ("background", "cat", "dog")
IDS = arrays.arrays(np.uint8, (H, W), elements=st.sampled_from([0, 1, 2, VOID]))
FEW = settings(max_examples=25, deadline=None)
CLASSES = "ignore: [[9, 9, 9], crowd]\nclasses:\n" + "".join(
    f"  {i}: {{name: {n}, colour: {list(distinct_colour(i))}}}\n" for i, n in enumerate(NAMES)
)
COLOURS = np.zeros((256, 3), np.uint8)
COLOURS[:3] = [distinct_colour(i) for i in range(3)]
COLOURS[VOID] = 9


def domain(root: Path, classes: str = CLASSES, stem: str = "a") -> Path:
    (root / "images").mkdir(parents=True, exist_ok=True)
    (root / "labels").mkdir(exist_ok=True)
    (root / "splits").mkdir(exist_ok=True)
    pixels = np.random.default_rng(len(stem)).integers(0, 256, (H, W, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(root / "images" / f"{stem}.png")
    (root / "splits/train.txt").write_text(f"{stem}\n", encoding="utf-8")
    (root / "classes.yaml").write_text(classes, encoding="utf-8")
    return root


def mask_of(root: Path, stem: str = "a", **options: Any) -> np.ndarray:
    return load_domain("d", FolderDomain(root=root, **options)).mask(stem)


def errors(root: Path, **options: Any) -> str:
    return "\n".join(map(str, check_domains({"d": FolderDomain(root=root, **options)}).errors))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all examples: each overwrites its mask."""
    return domain(tmp_path_factory.mktemp("kinds"))


def fresh(root: Path, **files: bytes) -> None:
    for path in (root / "labels").rglob("*.*"):
        path.unlink()
    for name, data in files.items():
        path = root / "labels" / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def saved(pixels: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


# ── Pixels ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@FEW
@given(ids=IDS, kind=st.sampled_from(["png", "tif", "bmp"]), alpha=st.booleans())
def test_colours_of_classes_are_read_as_the_classes(root: Path, ids: np.ndarray, kind: str, alpha: bool) -> None:
    pixels = COLOURS[ids]
    if alpha and kind != "bmp":
        pixels = np.dstack([pixels, np.full((H, W), 255, np.uint8)])
    fresh(root, **{f"a_dot_{kind}": saved(pixels, {"png": "PNG", "tif": "TIFF", "bmp": "BMP"}[kind])})
    np.testing.assert_array_equal(mask_of(root), ids)


@FEW
@given(ids=IDS, wide=st.booleans(), kind=st.sampled_from(["png", "tif"]))
def test_ids_of_8_and_16_bits_in_png_and_tiff(root: Path, ids: np.ndarray, wide: bool, kind: str) -> None:
    pixels = ids.astype(np.uint16) if wide else ids
    fresh(root, **{f"a_dot_{kind}": saved(pixels, {"png": "PNG", "tif": "TIFF"}[kind])})
    np.testing.assert_array_equal(mask_of(root), ids)


@FEW
@given(ids=IDS)
def test_bytes_of_a_bmp_are_ids(root: Path, ids: np.ndarray) -> None:
    fresh(root, a_dot_bmp=saved(ids, "BMP"))
    np.testing.assert_array_equal(mask_of(root), ids)


@FEW
@given(y=st.integers(0, H - 1), x=st.integers(0, W - 1), colour=st.tuples(*[st.integers(10, 90)] * 3))
def test_an_unknown_colour_is_shown_with_its_place(root: Path, y: int, x: int, colour: tuple[int, int, int]) -> None:
    pixels = COLOURS[np.zeros((H, W), np.uint8)]
    pixels[y, x] = colour
    fresh(root, a_dot_png=saved(pixels))
    message = errors(root)
    assert "labels/a.png: colours of no class:" in message
    assert f"{list(colour)} (1 pixels, the first at column {x}, row {y}); give them to classes" in message


@FEW
@given(y=st.integers(0, H - 1), x=st.integers(0, W - 1), wide=st.integers(256, 65535))
def test_an_id_of_more_than_8_bits_is_shown_with_its_place(root: Path, y: int, x: int, wide: int) -> None:
    pixels = np.zeros((H, W), np.uint16)
    pixels[y, x] = wide
    fresh(root, a_dot_png=saved(pixels))
    assert f"16 bits a pixel, and {wide} at column {x}, row {y} is no id" in errors(root)


def test_colours_need_one_for_every_class_and_no_two_alike(tmp_path: Path) -> None:
    root = domain(tmp_path, "classes: [{name: road, colour: [1, 2, 3]}, sky]")
    fresh(root, a_dot_png=saved(COLOURS[np.zeros((H, W), np.uint8)]))
    assert "it holds colours (RGB); give every class its `colour` in classes.yaml" in errors(root)
    domain(tmp_path, "classes: [{name: road, colour: [1, 2, 3]}, {name: sky, colour: [1, 2, 3]}]")
    assert "the colour [1, 2, 3] of sky is also that of another class" in errors(root)


def test_what_is_transparent_is_no_colour(root: Path) -> None:
    pixels = np.dstack([COLOURS[np.zeros((H, W), np.uint8)], np.full((H, W), 255, np.uint8)])
    pixels[2, 3, 3] = 0
    fresh(root, a_dot_png=saved(pixels))
    assert "transparent at column 3, row 2" in errors(root)


def test_a_tiff_whose_zero_is_white_is_refused(root: Path) -> None:
    from PIL import TiffImagePlugin

    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[262] = 0
    fresh(root, a_dot_tif=saved(np.ones((H, W), np.uint8), "TIFF", tiffinfo=tags))
    assert "its 0 is white" in errors(root)


# ── A mask for each class ────────────────────────────────────────────────────────────────────────────────────────────


@FEW
@given(cat=arrays.arrays(bool, (H, W)), dog=arrays.arrays(bool, (H, W)), white=st.sampled_from([1, 255]))
def test_binary_masks_of_two_classes(root: Path, cat: np.ndarray, dog: np.ndarray, white: int) -> None:
    fresh(root, cat__a_dot_png=saved(cat * np.uint8(white)), dog__a_dot_png=saved(dog))  # of 8 bits and of one
    expected = np.where(dog, 2, np.where(cat, 1, 0))
    np.testing.assert_array_equal(mask_of(root, masks="binary"), expected)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"cat__a_dot_png": saved(np.arange(H * W, dtype=np.uint8).reshape(H, W))}, "more than black and one colour"),
        ({"cow__a_dot_png": saved(np.zeros((H, W), np.uint8))}, "in no folder of a class"),
        (
            {"cat__a_dot_png": saved(np.zeros((H, W), np.uint8)), "dog__a_dot_png": saved(np.zeros((3, 4), np.uint8))},
            "dog/a.png: 4×3 pixels",
        ),
    ],
)
def test_binary_masks_that_are_none(root: Path, files: dict[str, bytes], message: str) -> None:
    fresh(root, **files)
    assert message in errors(root, masks="binary")


@pytest.mark.parametrize("alpha", [0, 254])
def test_a_transparent_pixel_is_of_no_class(root: Path, alpha: int) -> None:
    white = np.full((H, W, 4), 255, np.uint8)
    fresh(root, cat__a_dot_png=saved(white))
    assert (mask_of(root, masks="binary") == 1).all()
    white[2, 3, 3] = alpha
    fresh(root, cat__a_dot_png=saved(white))
    assert "transparent at column 3, row 2" in errors(root, masks="binary")


def test_a_transparent_colour_is_of_no_class(root: Path) -> None:
    fresh(root, a_dot_png=saved(np.full((H, W, 3), 200, np.uint8), transparency=(200, 200, 200)))
    assert "one of its colours is transparent" in errors(root)


def test_ids_are_not_packed_as_a_jpeg(root: Path) -> None:
    fresh(root, a_dot_tif=saved(np.zeros((H, W), np.uint8), "TIFF", compression="jpeg"))
    assert "compressed as JPEG, which changes pixels" in errors(root)


@pytest.mark.parametrize(("height", "width"), [(10**9, 10**9), (-1, 4)])
def test_sizes_that_no_image_has(root: Path, height: int, width: int) -> None:
    value = {"brushlabels": ["cat"], "rle": [0]}
    result = {"type": "brushlabels", "value": value, "original_height": height, "original_width": width}
    tasks = [{"id": 1, "data": {"image": "a.png"}, "annotations": [{"result": [result]}]}]
    fresh(root, all_dot_json=json.dumps(tasks).encode())
    assert f"claims {width}×{height} pixels" in errors(root, masks="label-studio")


# ── Drawn ────────────────────────────────────────────────────────────────────────────────────────────────────────────

Box = tuple[int, int, int, int]
BOXES = st.lists(
    st.tuples(
        st.sampled_from([1, 2]), st.integers(0, W - 1), st.integers(0, H - 1), st.integers(1, W), st.integers(1, H)
    ),
    max_size=4,
)


def corners(x: int, y: int, w: int, h: int) -> list[list[float]]:
    return [[x, y], [x + w, y], [x + w, y + h], [x, y + h]]


def painted(boxes: list[tuple[int, int, int, int, int]]) -> np.ndarray:
    mask = np.zeros((H, W), np.uint8)
    for value, x, y, w, h in boxes:
        mask[y : y + h, x : x + w] = value
    return mask


def labelme(shapes: list[dict[str, Any]], **more: Any) -> bytes:
    return json.dumps({"imageHeight": H, "imageWidth": W, "imagePath": "a.png", "shapes": shapes, **more}).encode()


def coco(annotations: list[dict[str, Any]], name: str = "a.png") -> bytes:
    data = {
        "images": [{"id": 7, "file_name": name, "height": H, "width": W}],
        "categories": [{"id": i + 10, "name": n} for i, n in enumerate((*NAMES, "crowd"))],
        "annotations": [{"id": i, "image_id": 7, **a} for i, a in enumerate(annotations)],
    }
    return json.dumps(data).encode()


def cvat(shapes: str) -> bytes:
    return f'<annotations><image id="0" name="a.png" width="{W}" height="{H}">{shapes}</image></annotations>'.encode()


def as_labelme(boxes: list[tuple[int, int, int, int, int]]) -> bytes:
    return labelme([{"label": NAMES[v], "shape_type": "polygon", "points": corners(*box)} for v, *box in boxes])


def as_coco(boxes: list[tuple[int, int, int, int, int]]) -> bytes:
    flat = [(v, [n for point in corners(*box) for n in point]) for v, *box in boxes]
    return coco([{"category_id": v + 10, "segmentation": [numbers]} for v, numbers in flat])


def as_coco_runs(boxes: list[tuple[int, int, int, int, int]]) -> bytes:
    made = []
    for number, (value, *box) in enumerate(boxes):
        runs = rle.counts((painted([(1, *box)]) == 1).ravel(order="F"))  # type: ignore[list-item]
        code: object = rle.pack(runs) if number % 2 else runs.tolist()
        made.append({"category_id": value + 10, "segmentation": {"size": [H, W], "counts": code}})
    return coco(made)


def as_yolo(boxes: list[tuple[int, int, int, int, int]]) -> bytes:
    lines = []
    for value, x, y, w, h in boxes:
        inside = corners(x, y, min(w, W - x), min(h, H - y))
        lines.append(f"{value} " + " ".join(f"{px / W:.7f} {py / H:.7f}" for px, py in inside))
    return "\n".join(lines).encode()


def as_cvat(boxes: list[tuple[int, int, int, int, int]]) -> bytes:
    def points(box: list[int]) -> str:
        return ";".join(f"{x},{y}" for x, y in corners(*box))

    return cvat("".join(f'<polygon label="{NAMES[v]}" points="{points(box)}" z_order="0"/>' for v, *box in boxes))


def as_label_studio(boxes: list[tuple[int, int, int, int, int]]) -> bytes:
    results = []
    for number, (value, *box) in enumerate(boxes):
        size: dict[str, Any] = {"original_width": W, "original_height": H}
        if number % 2:
            inside = (painted([(1, *box)]) == 1).ravel()  # type: ignore[list-item]
            code = {"format": "rle", "rle": rle.encode_brush(inside).tolist(), "brushlabels": [NAMES[value]]}
            results.append(size | {"type": "brushlabels", "value": code})
        else:
            points = [[100 * x / W, 100 * y / H] for x, y in corners(*box)]
            results.append(
                size | {"type": "polygonlabels", "value": {"points": points, "polygonlabels": [NAMES[value]]}}
            )
    task = {"id": 3, "data": {"image": "/data/upload/1/0a1b2c3d-a.png"}, "annotations": [{"result": results}]}
    return json.dumps([task]).encode()


WRITERS: Mapping[str, tuple[str, str, Callable[..., bytes]]] = {
    "labelme": ("labelme", "a_dot_json", as_labelme),
    "coco": ("coco", "all_dot_json", as_coco),
    "coco runs": ("coco", "all_dot_json", as_coco_runs),
    "yolo": ("yolo", "a_dot_txt", as_yolo),
    "cvat": ("cvat", "all_dot_xml", as_cvat),
    "label-studio": ("label-studio", "all_dot_json", as_label_studio),
}


@pytest.mark.parametrize("name", WRITERS)
@FEW
@given(boxes=BOXES)
def test_of_shapes_that_overlap_the_later_wins(root: Path, name: str, boxes: list[Any]) -> None:
    kind, file, write = WRITERS[name]
    fresh(root, **{file: write(boxes)})
    np.testing.assert_array_equal(mask_of(root, masks=kind), painted(boxes))


def test_an_outline_inside_another_is_a_hole(root: Path) -> None:
    rings = [[0, 0, 8, 0, 8, 6, 0, 6], [2, 2, 5, 2, 5, 4, 2, 4]]
    expected = np.zeros((H, W), np.uint8)
    expected[:6, :8] = 1
    expected[2:4, 2:5] = 0
    fresh(root, all_dot_json=coco([{"category_id": 11, "segmentation": rings}]))
    np.testing.assert_array_equal(mask_of(root, masks="coco"), expected)


def test_what_nobody_drew_is_void_without_a_class_background(tmp_path: Path) -> None:
    root = domain(tmp_path, "classes: {1: cat, 2: dog}")
    fresh(root, a_dot_json=as_labelme([(2, 0, 0, 3, 2)]))
    expected = np.full((H, W), VOID)
    expected[:2, :3] = 1
    np.testing.assert_array_equal(mask_of(root, masks="labelme"), expected)


def test_every_shape_of_labelme_that_is_an_area(root: Path) -> None:
    inside = np.zeros((2, 3), bool)
    inside[0] = True
    code = base64.b64encode(saved(inside)).decode()
    shapes = [
        {"label": "cat", "shape_type": "rectangle", "points": [[0, 0], [3, 2]]},
        {"label": "dog", "shape_type": "mask", "points": [[4, 1], [6, 2]], "mask": code},
        {"label": "__ignore__", "shape_type": "circle", "points": [[7.5, 5.5], [7.5, 5.0]]},
    ]
    fresh(root, a_dot_json=labelme(shapes))
    expected = np.zeros((H, W), np.uint8)
    expected[:2, :3], expected[1, 4:7], expected[5, 7] = 1, 2, VOID
    np.testing.assert_array_equal(mask_of(root, masks="labelme"), expected)


BAD: list[tuple[str, str, bytes, str]] = [
    ("labelme", "a_dot_json", labelme([{"label": "cow", "points": corners(0, 0, 1, 1)}]), "'cow' is no class of"),
    ("labelme", "a_dot_json", labelme([{"label": "cat", "shape_type": "line", "points": [[0, 0], [3, 3]]}]), "a line"),
    ("labelme", "a_dot_json", labelme([{"label": "cat", "points": [[0, 0], [3]]}]), "no list of x, y"),
    ("labelme", "a_dot_json", labelme([{"label": "cat", "points": [[0, 0], [3, 3]]}]), "three or more"),
    ("labelme", "a_dot_json", labelme([], imageHeight=5), "the mask is 9×5 pixels, its image"),
    ("labelme", "a_dot_json", b"{", "not JSON"),
    ("yolo", "a_dot_txt", b"7 0 0 1 0 1 1", "'7' is no id of a class"),
    ("yolo", "a_dot_txt", b"1 0.5 0.5 0.2 0.2", "a box, not a polygon"),
    ("yolo", "a_dot_txt", b"1 0 0 1 0 1 1.5", "from 0 to 1"),
    ("yolo", "a_dot_txt", b"1 0 0 1 0 1", "no polygon of three"),
    ("coco", "all_dot_json", coco([{"category_id": 3, "segmentation": [[0, 0, 1, 0, 1, 1]]}]), "of the category 3"),
    ("coco", "all_dot_json", coco([{"category_id": 11, "segmentation": []}]), "without a segmentation"),
    ("coco", "all_dot_json", coco([{"category_id": 11, "segmentation": [[0, 0, 1, 0]]}]), "no list of x, y"),
    (
        "coco",
        "all_dot_json",
        coco([{"category_id": 11, "segmentation": {"size": [H, W], "counts": [3, 4]}}]),
        "runs of 7 pixels together where there are 63",
    ),
    ("coco", "all_dot_json", b'{"images": []}', "no COCO instances"),
    ("cvat", "all_dot_xml", cvat('<box label="cat" xtl="0" ytl="0" xbr="2" ybr="2"/>'), "a box, which is no area"),
    ("cvat", "all_dot_xml", cvat('<polygon label="cow" points="0,0;1,0;1,1"/>'), "'cow' is no class"),
    ("cvat", "all_dot_xml", cvat('<polygon label="cat" points="0;1,0;1,1"/>'), "no list of x, y"),
    ("cvat", "all_dot_xml", b"<annotations>", "not XML"),
    # Numbers that no picture has.
    (
        "coco",
        "all_dot_json",
        coco([{"category_id": 11, "segmentation": {"size": [H, W], "counts": [10**30]}}]),
        "no list of lengths",
    ),
    (
        "coco",
        "all_dot_json",
        coco([{"category_id": 11, "segmentation": [[0, 0, 10**400, 0, 1, 1]]}]),
        "no list of x, y",
    ),
    ("labelme", "a_dot_json", labelme([{"label": "cat", "points": [[0, 0], [10**400, 0], [1, 1]]}]), "no list of x, y"),
    (
        "labelme",
        "a_dot_json",
        labelme([{"label": "cat", "shape_type": "mask", "points": [[0, 0], [1, 1]], "mask": "ü"}]),
        "no PNG in base64",
    ),
    (
        "cvat",
        "all_dot_xml",
        cvat(f'<mask label="cat" top="0" left="0" width="2" height="2" rle="{10**30}"/>'),
        "no list of lengths",
    ),
]


@pytest.mark.parametrize(("kind", "file", "data", "message"), BAD, ids=[f"{b[0]}-{b[3][:20]}" for b in BAD])
def test_what_cannot_be_drawn_is_an_error_of_check(root: Path, kind: str, file: str, data: bytes, message: str) -> None:
    fresh(root, **{file: data})
    report = errors(root, masks=kind)
    assert message in report
    assert "labels/a" in report


def test_names_in_ignore_are_void(root: Path) -> None:
    fresh(root, all_dot_json=coco([{"category_id": 13, "segmentation": [[0, 0, W, 0, W, H, 0, H]]}]))
    assert (mask_of(root, masks="coco") == VOID).all()


@FEW
@given(data=st.binary(max_size=60), kind=st.sampled_from([("labelme", "a_dot_json"), ("yolo", "a_dot_txt")]))
def test_any_bytes_are_a_mask_or_a_named_error(root: Path, data: bytes, kind: tuple[str, str]) -> None:
    fresh(root, **{kind[1]: data})
    assert all(str(root) in line for line in errors(root, masks=kind[0]).splitlines() if "labels/a" in line)


def test_a_coco_file_names_images_in_other_folders(tmp_path: Path) -> None:
    root = domain(tmp_path)
    (root / "images/town").mkdir()
    (root / "images/a.png").rename(root / "images/town/a.png")
    (root / "splits/train.txt").write_text("a.png\n", encoding="utf-8")
    fresh(root, all_dot_json=as_coco([(1, 0, 0, 2, 2)]))
    assert (mask_of(root, "town/a", masks="coco")[:2, :2] == 1).all()
    fresh(root, all_dot_json=coco([], "gone.png"))
    listing = index(FolderDomain(root=root, masks="coco"))
    assert any("1 images of the annotations are missing" in str(p) for p in listing.problems)
