"""COCO: stuff and instances with run-length codes, and panoptic PNGs, both ways.

Shapes: H×W pixels of an image.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from annotating import EXAMPLES, ODD_NAMES, SHAPE, SIZE, change, refused, round_trip
from PIL import Image

from fewmask.annotation.coco import read_answers, write_instances, write_panoptic, write_questions
from fewmask.annotation.importer import Import
from fewmask.annotation.ledger import Ledger
from fewmask.annotation.tools import TOOLS, recognise
from fewmask.data.domain import Domain, read_image
from fewmask.labels import NOT_LABELLED, VOID, Mask

# A stuff export as other tools write it: categories with ids of their own, one of them nobody's; image a-0 has class 1
# over rows 2 to 6 and columns 3 to 8 as uncompressed runs, over it void in its upper left 2×2 as pycocotools' string,
# and over that class 2 as a polygon around one pixel.
CATEGORIES = [(7, ODD_NAMES[1]), (3, "void"), (90, ODD_NAMES[2]), (1, "unused")]
COLUMNS = [3 * 20 + 2] + [5, 15] * 5 + [5, 480 - 8 * 20 - 7]


def export() -> dict[str, Any]:
    common = {"image_id": 12, "iscrowd": 0, "area": 1, "bbox": [3, 2, 6, 5]}
    return {
        "info": {"year": 2026},
        "images": [{"id": 12, "file_name": "a-0.png", "height": 20, "width": 24, "license": 0}],
        "categories": [{"id": number, "name": name, "supercategory": "x"} for number, name in CATEGORIES],
        "annotations": [
            {"id": 1, "category_id": 7, "segmentation": {"size": [20, 24], "counts": COLUMNS}, **common},
            {"id": 2, "category_id": 3, "segmentation": {"size": [20, 24], "counts": "n12b00j;"}, **common},
            {"id": 3, "category_id": 90, "segmentation": [[5, 4, 6, 4, 6, 5, 5, 5]], **common},
        ],
    }


def saved(tmp_path: Path, data: object) -> Path:
    path = tmp_path / "export.json"
    path.write_text(json.dumps(data))
    return path


# ── Out ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_people_get_and_confirm(ledger: Ledger, domains: dict[str, Domain], tmp_path: Path) -> None:
    assert [q.id for q in write_questions(ledger, domains, tmp_path)] == [1, 2, 3]
    written = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    pictures = {f"a/{kind}/{stem}.png" for kind in ("images", "asked", "panoptic") for stem in ("a-0", "a-2")}
    assert written == {".written.jsonl", "a/instances.json", "a/panoptic.json", *pictures}
    for file, who, beside in (("instances.json", "ann", {}), ("panoptic.json", "bob", {"ann": 2})):
        taken = read_answers(ledger, domains, tmp_path / "a" / file, who, "corrections")
        assert taken == Import(2, 0, 1, 0, beside=beside)
    expected = np.full(SIZE, NOT_LABELLED, np.uint8)
    expected[2:7, 3:9] = 1
    expected[10:14, 10:16][SHAPE] = 2
    np.testing.assert_array_equal(ledger.labels("a", "a-0"), expected)


def test_a_panoptic_file_is_as_coco_says(domains: dict[str, Domain], tmp_path: Path) -> None:
    mask = np.full(SIZE, NOT_LABELLED, np.uint8)
    mask[2:4, 5:8] = 2
    mask[19, 0] = VOID
    write_panoptic(tmp_path / "p.json", domains["a"].space, [("a-0", mask)])
    data = json.loads((tmp_path / "p.json").read_text())
    assert [(c["id"], c["name"], c["isthing"]) for c in data["categories"]] == [
        (1, ODD_NAMES[0], 0),
        (2, ODD_NAMES[1], 0),
        (3, ODD_NAMES[2], 0),
        (4, "void", 0),
    ]
    assert data["images"] == [{"id": 1, "file_name": "a-0.png", "width": 24, "height": 20}]
    assert data["annotations"] == [
        {
            "image_id": 1,
            "file_name": "a-0.png",
            "segments_info": [
                {"id": 3, "category_id": 3, "area": 6, "bbox": [5, 2, 3, 2], "iscrowd": 0},
                {"id": 4, "category_id": 4, "area": 1, "bbox": [0, 19, 1, 1], "iscrowd": 0},
            ],
        }
    ]
    picture = read_image(tmp_path / "p/a-0.png").astype(int)
    ids = picture[..., 0] + 256 * picture[..., 1] + 65536 * picture[..., 2]
    np.testing.assert_array_equal(ids, np.where(mask == 2, 3, np.where(mask == VOID, 4, 0)))


# ── In ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_export_as_other_tools_write_it(ledger: Ledger, domains: dict[str, Domain], tmp_path: Path) -> None:
    assert read_answers(ledger, domains, saved(tmp_path, export()), "ann") == Import(1, 0, 1, 0)
    expected = np.full(SIZE, NOT_LABELLED, np.uint8)
    expected[2:7, 3:9] = 1
    expected[2:4, 3:5] = VOID
    expected[4, 5] = 2
    np.testing.assert_array_equal(ledger.labels("a", "a-0"), expected)
    assert {a.annotator for a in ledger.answers()} == {"ann"}


def test_segments_may_have_any_ids(ledger: Ledger, domains: dict[str, Domain], tmp_path: Path) -> None:
    """Two segments of one class are two things; ids go beyond 255."""
    ids = np.zeros(SIZE, np.int64)
    ids[2:4, 3:9], ids[4:7, 3:9] = 70_000, 300
    segments = [{"id": 70_000, "category_id": 7}, {"id": 300, "category_id": 7}, {"id": 5, "category_id": 3}]
    path = panoptic(tmp_path, ids, segments)
    read_answers(ledger, domains, path, "ann")
    assert (ledger.labels("a", "a-0")[2:7, 3:9] == 1).all()


def panoptic(tmp_path: Path, ids: np.ndarray, segments: object, name: str = "a-0.png") -> Path:
    data = export()
    data["annotations"] = [{"image_id": 12, "file_name": name, "segments_info": segments}]
    (tmp_path / "export").mkdir(exist_ok=True)
    channels = np.stack([ids & 255, ids >> 8 & 255, ids >> 16], axis=-1)
    Image.fromarray(channels.astype(np.uint8)).save(tmp_path / "export" / "a-0.png")
    return saved(tmp_path, data)


WRITERS: dict[str, Callable[..., None]] = {
    "compressed": write_instances,
    "uncompressed": partial(write_instances, compressed=False),
    "panoptic": write_panoptic,
}


@pytest.mark.parametrize("examples", EXAMPLES)
@pytest.mark.parametrize("writer", WRITERS)
def test_what_is_painted_comes_back(examples: int, writer: str, tmp_path: Path) -> None:
    def come_back(ledger: Ledger, domains: Mapping[str, Domain], mask: Mask) -> None:
        WRITERS[writer](tmp_path / "e.json", domains["a"].space, [("a-0", mask)])
        read_answers(ledger, domains, tmp_path / "e.json", "ann")

    round_trip(examples, come_back)


SHAPE_OF = "annotations.0.segmentation"
WRONG = {
    "another size": (change("images.0.width", 25), "25×20 pixels, its image is 24×20"),
    "no size": (change("images.0", {"id": 12, "file_name": "a-0.png"}), "height is missing, not a whole number"),
    "an image twice": (change("images", export()["images"] * 2), "images: the id 12 twice"),
    "no category": (change("annotations.0.category_id", True), "category_id is True, not a whole number"),
    "a category twice": (change("categories.0.id", 3), "categories: the id 3 twice"),
    "no categories": (change("categories", None), "categories is null, not a list"),
    "a code of another size": (change(f"{SHAPE_OF}.size", [24, 20]), "a run-length code of size [24, 20]"),
    "runs that overflow": (change(f"{SHAPE_OF}.counts", [0, 481]), "runs of 481 pixels together where there are 480"),
    "runs that fall short": (change(f"{SHAPE_OF}.counts", [479]), "runs of 479 pixels together"),
    "a negative run": (change(f"{SHAPE_OF}.counts", [-1, 481]), "a run of -1 pixels"),
    "a huge run": (change(f"{SHAPE_OF}.counts", [10**30]), "too large"),
    "half a pixel": (change(f"{SHAPE_OF}.counts", [479.5, 0.5]), "no list of whole numbers"),
    "no runs": (change(f"{SHAPE_OF}.counts", None), "counts is null, not a list"),
    "a broken string": (change(f"{SHAPE_OF}.counts", "n"), "the compressed run-length code is cut short"),
    "a string too short": (change(f"{SHAPE_OF}.counts", "1"), "runs of 1 pixels together"),
    "no shape": (change(SHAPE_OF, 7), "segmentation is a whole number, not an object"),
    "an empty shape with an area": (change(SHAPE_OF, []), "its segmentation is empty, and it has an area"),
    "an empty code with an area": (change(f"{SHAPE_OF}.counts", [480]), "its segmentation is empty, and it has"),
    "two points": (change(SHAPE_OF, [[1, 1, 2, 2]]), "a polygon of 2 points"),
    "half a point": (change(SHAPE_OF, [[1, 1, 2, 2, 3]]), "a polygon of 5 numbers, the last x without a y"),
    "no points": (change(SHAPE_OF, ["abc"]), "a polygon that is no list of numbers"),
    "points of text": (change(SHAPE_OF, [["1", "1", "5", "1", "5", "5"]]), "a polygon that is no list of numbers"),
    "points of truth": (change(SHAPE_OF, [[True, False, 5, 1, 5, 5]]), "a polygon that is no list of numbers"),
    "points in points": (change(SHAPE_OF, [[[1, 1], [5, 1], [5, 5]]]), "a polygon that is no list of numbers"),
    "points far away": (change(SHAPE_OF, [[1, 1, 1e300, 1, 5, 5]]), "keep points near the image"),
    "points without end": (change(SHAPE_OF, [[1, 1, 10**400, 1, 5, 5]]), "too large to convert"),
    "an annotation": (change("annotations.0", 3), "one of them is no object"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_is_refused_with_all_that_came_with_it(
    ledger: Ledger, domains: dict[str, Domain], tmp_path: Path, wrong: str
) -> None:
    put, message = WRONG[wrong]
    bad = export()
    bad["images"].append({"id": 13, "file_name": "a-2.png", "height": 20, "width": 24})
    put(bad)
    path = saved(tmp_path, bad)
    refused(ledger, lambda: read_answers(ledger, domains, path, "ann"), str(path), message)


SEGMENT = {"id": 1, "category_id": 7}


@pytest.mark.parametrize(
    ("ids", "segments", "name", "message"),
    [
        (np.full(SIZE, 1), [SEGMENT], "../export/../../x.png", "leads out of"),
        (np.full(SIZE, 1), [SEGMENT], "/etc/passwd", "leads out of"),
        (np.full(SIZE, 1), [SEGMENT], "a\x00.png", "leads out of"),
        (np.full(SIZE, 1), [SEGMENT], "b.png", "cannot be read (No such file"),
        (np.full(SIZE, 9), [SEGMENT], "a-0.png", "ids 9 are no segments of its image"),
        (np.full(SIZE, 70_000), [SEGMENT], "a-0.png", "ids 70000 are no segments of its image"),
        (np.full((24, 20), 1), [SEGMENT], "a-0.png", "20×24 pixels, its image is 24×20"),
        (np.full(SIZE, 1), [SEGMENT, SEGMENT], "a-0.png", "a segment of id 1, which is another's"),
        (np.full(SIZE, 1), [{"id": 0, "category_id": 7}], "a-0.png", "a segment of id 0"),
        (np.full(SIZE, 1), [{"id": 1 << 24, "category_id": 7}], "a-0.png", "a segment of id 16777216"),
        (np.full(SIZE, 1), [None], "a-0.png", "a segment of id 0"),
        (np.full(SIZE, 1), {}, "a-0.png", "segments_info is an object, not a list"),
    ],
)
def test_panoptic_files_that_are_wrong_are_refused(
    ledger: Ledger,
    domains: dict[str, Domain],
    tmp_path: Path,
    ids: np.ndarray,
    segments: object,
    name: str,
    message: str,
) -> None:
    path = panoptic(tmp_path, ids, segments, name)
    refused(ledger, lambda: read_answers(ledger, domains, path, "ann"), message)


def test_links_out_of_the_folder_are_not_followed(ledger: Ledger, domains: dict[str, Domain], tmp_path: Path) -> None:
    path = panoptic(tmp_path, np.full(SIZE, 1), [SEGMENT], "link.png")
    (tmp_path / "export" / "a-0.png").rename(tmp_path / "secret.png")
    (tmp_path / "export" / "link.png").symlink_to(tmp_path / "secret.png")
    refused(ledger, lambda: read_answers(ledger, domains, path, "ann"), "'link.png' leads out of")


def test_two_panoptic_annotations_of_an_image(ledger: Ledger, domains: dict[str, Domain], tmp_path: Path) -> None:
    path = panoptic(tmp_path, np.full(SIZE, 1), [SEGMENT])
    data = json.loads(path.read_text())
    data["annotations"] *= 2
    saved(tmp_path, data)
    refused(
        ledger, lambda: read_answers(ledger, domains, path, "ann"), "image 12 has a panoptic annotation and another one"
    )


# ── All tools ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("tool", "files"),
    [
        ("folder", [""]),
        ("label-studio", ["a/tasks.json"]),
        ("cvat", ["a/annotations.xml", "a/masks.zip"]),
        ("coco", ["a/instances.json", "a/panoptic.json"]),
    ],
)
def test_what_a_tool_wrote_is_recognised_and_read(
    ledger: Ledger, domains: dict[str, Domain], tmp_path: Path, tool: str, files: list[str]
) -> None:
    TOOLS[tool].write_questions(ledger, domains, tmp_path / "q")
    for file in files:
        assert recognise(tmp_path / "q" / file) == tool


def test_what_is_no_tools_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no tool reads a file of this name; give the folder"):
        recognise(tmp_path / "x.csv")
    with pytest.raises(ValueError, match=r"give the folder that was painted in, .*/q$"):
        recognise(tmp_path / "q" / "questions.json")
    with pytest.raises(ValueError, match="cannot be read"):
        recognise(tmp_path / "x.json")
    assert set(TOOLS) == {"folder", "label-studio", "cvat", "coco"}
