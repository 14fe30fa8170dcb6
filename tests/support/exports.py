"""Exports of every format as tools write them, and what can be amiss with them.

Shapes: H×W pixels of an image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from amiss import (
    Change,
    append,
    brush,
    crowds,
    cut,
    files,
    in_json,
    in_png,
    in_xml,
    in_zip,
    lay_out,
    moved,
    of_a_car,
    other_case,
    packed_again,
    recoloured,
    result,
)
from annotating import SIZE, domain
from PIL import Image

from fewmask.annotation import coco, cvat, folder, label_studio, label_studio_server
from fewmask.annotation.importer import Import, Mode
from fewmask.annotation.ledger import Ledger
from fewmask.annotation.questions import Question
from fewmask.annotation.tasks import identity, labels
from fewmask.data.domain import Domain
from fewmask.data.pictures import write_mask
from fewmask.labels import NOT_LABELLED, VOID, Mask

OF = {"a": domain()}
SPACE = OF["a"].space
FIRST, THIRD = "a-0", "a-2"
QUESTIONS = [Question("a", stem, "all", 0, (0, 0, *SIZE)) for stem in (FIRST, THIRD)]
Masks = list[tuple[str, Mask]]


def whole(value: int = 1) -> Mask:
    """An image that is painted but for its upper left corner."""
    mask = np.full(SIZE, value, np.uint8)
    mask[:6, :6] = NOT_LABELLED
    return mask


def both() -> Masks:
    mask = whole()
    mask[10:, 10:] = VOID
    return [(FIRST, mask), (THIRD, whole(2))]


# ── The formats ──────────────────────────────────────────────────────────────────────────────────────────────────────


def write_folder(place: Path, masks: Masks) -> Path:
    for stem, mask in masks:
        (place / "q/a/labels").mkdir(parents=True, exist_ok=True)
        write_mask(place / "q/a/labels" / f"{stem}.png", mask, SPACE)
    return place / "q"


def write_with(write: Callable[..., None], name: str) -> Callable[[Path, Masks], Path]:
    def export(place: Path, masks: Masks) -> Path:
        write(place / name, SPACE, masks)
        return place / name

    return export


def write_tasks(place: Path, masks: Masks) -> Path:
    ids = {FIRST: [1], THIRD: [2]}
    tasks = []
    for number, (stem, mask) in enumerate(masks):
        painted = label_studio.brush_results(
            (f"r{v}", name, mask == v) for name, v in labels(SPACE).items() if (mask == v).any()
        )
        data = {"domain": "a", "stem": stem, "questions": ids.get(stem, [])}
        tasks.append({"id": number, "data": data, "annotations": [{"id": 10 + number, "result": painted}]})
    label_studio.write_list(place / "e.json", tasks)
    return place / "e.json"


class Server:
    """Says what a Label Studio says that has one project, whose export is a file."""

    def __init__(self, run: str, path: Path) -> None:
        self.address, self._run, self._path = "http://localhost:1", run, path

    def get(self, path: str, **_: Any) -> Any:
        return {"results": [{"id": 4, "description": f"fewmask run {self._run}, domain a"}], "count": 1}

    def items(self, path: str, **_: Any) -> Iterator[dict[str, Any]]:
        return label_studio.json_items(self._path)


def fetch(ledger: Ledger, of: Mapping[str, Domain], path: Path, who: str, mode: Mode = "open") -> Import:
    server: Any = Server(identity(ledger), path)
    return label_studio_server.fetch_answers(server, ledger, of, who, mode)


@dataclass(frozen=True)
class Format:
    write: Callable[[Path, Masks], Path]
    read: Callable[..., Import]
    left_out: Mapping[str, tuple[Change, str, str]]
    """What is no answer: how it comes into an export, and a part of the reason and of the name that are told."""
    same: Mapping[str, Change]
    """Other ways to say the same: nothing changes, and what is left out is a system's."""
    wrong: Mapping[str, tuple[Change, str]]
    """Answers that cannot be read for certain, and a part of what is said."""


def other_mask(value: str) -> str:
    return f'<mask label="{value}" rle="0, 4" left="0" top="0" width="2" height="2"/>'


IMAGE = '<image id="0" name="a-0.png" width="24" height="20">'
BOX = {"segmentation": None, "bbox": [0, 0, 9, 9], "area": 81}
EMPTY = {"segmentation": [], "area": 0, "bbox": [0, 0, 0, 0]}
TASKS_ASIDE = {
    "a prompt": (result(type="keypointlabels", value={"x": 1}), "of type keypointlabels", "annotation 10, result 1"),
    "a rectangle": (result(type="rectanglelabels", value={"x": 1}), "of type rectanglelabels", "result 1"),
    "a relation": (result(type="relation", value=None), "of type relation", "task 0, annotation 10, result 1"),
    "a choice": (result(type="choices", value={"choices": ["good"]}), "of type choices", "result 1"),
    "an empty region": (brush(rle=[]), "covers no pixel", "task 0, annotation 10, result 1"),
    "another label": (brush(brushlabels=["car"]), "label that the domain does not have", "result 1 (car)"),
    "no label": (brush(brushlabels=[]), "label that the domain does not have", "(no label)"),
    "another image": (in_json(lambda d: d.append({**d[0], "data": {**d[0]["data"], "stem": "a-1"}})), "nothing", "a-1"),
    "another task": (in_json(lambda d: d.append({**d[0], "data": {"image": "x"}})), "did not write", "task 0"),
}
TASKS_WRONG: dict[str, tuple[Change, str]] = {
    "a file that is cut": (cut, "not a list of JSON objects that is whole"),
    "two labels": (brush(brushlabels=list(SPACE.names[:2])), "not one of"),
    "an answer twice": (in_json(lambda d: d.append(d[0])), "twice; keep one"),
    "a broken code": (brush(rle=[0, 0, 7]), "cut short"),
    "another size": (result(original_width=25), "25×20 pixels, its image is 24×20"),
}
GREY = {NOT_LABELLED: (91, 90, 90)}
FORMATS: dict[str, Format] = {
    "folder": Format(
        write_folder,
        folder.read_answers,
        {
            "a system's files": (files("a/labels/.DS_Store", "__MACOSX/a/labels/._a-0.png"), "a system", "__MACOSX"),
            "Windows' files": (files("a/labels/Thumbs.db", "Desktop.ini"), "a system", "Desktop.ini"),
            "notes": (files("a/labels/notes.txt"), "not a PNG", "a/labels/notes.txt"),
            "a JPEG": (lay_out("a/labels/a-0.jpg", Image.new("L", (24, 20))), "not a PNG", "a/labels/a-0.jpg"),
            "another image": (lay_out("a/labels/a-1.png", Image.new("L", (24, 20))), "nothing", "a/labels/a-1.png"),
            "another domain": (lay_out("b/labels/a-0.png", Image.new("L", (2, 2))), "not in <domain>", "b/labels"),
            "masks elsewhere": (lay_out("a/mine/a-0.png", Image.new("L", (2, 2))), "not in <domain>", "a/mine"),
        },
        {
            "the colours in use alone": recoloured({}),
            "one folder more": moved("a", "questions 2/a"),
            "endings in capitals": moved("a/labels/a-0.png", "a/labels/a-0.PNG"),
            "the folder in capitals": moved("a/labels", "a/Labels"),
        },
        {
            "a file that is cut": (cut, "truncated"),
            "an unknown colour": (recoloured(GREY), "#5b5a5a stands for nothing that is to be painted"),
            "entries that are missing": (
                in_png(lambda kind, data: [(kind, data[: 3 * 200] if kind == b"PLTE" else data)]),
                "is not in its palette of 200 colours",
            ),
            "what was made transparent": (
                in_png(lambda kind, data: [*[(b"tRNS", bytes(256))] * (kind == b"IDAT"), (kind, data)]),
                "transparent pixels",
            ),
            "an unknown id": (lay_out("a/labels/a-0.png", Image.new("L", (24, 20), 7)), "7 (480 pixels)"),
            "colours": (lay_out("a/labels/a-0.png", Image.new("RGB", (24, 20))), "it holds colours (RGB)"),
            "another size": (lay_out("a/labels/a-0.png", Image.new("L", (20, 24), 9)), "20×24 pixels"),
            "an image twice": (lay_out("copy/a/labels/a-0.png", Image.new("L", (24, 20), 9)), "twice; keep one"),
        },
    ),
    "cvat-xml": Format(
        write_with(cvat.write_xml, "e.xml"),
        cvat.read_answers,
        {
            "a box": (in_xml(IMAGE, f'{IMAGE}<box label="void" xtl="0"/>'), "<box>; only masks", "void of a-0.png"),
            "a tag": (in_xml(IMAGE, f'{IMAGE}<tag label="void"/>'), "<tag>", "void of a-0.png"),
            "a skeleton": (in_xml(IMAGE, f"{IMAGE}<skeleton><points/></skeleton>"), "<skeleton>", "a-0.png"),
            "a track": (in_xml("<meta>", '<track label="void"><mask frame="0"/></track><meta>'), "<track>", "void"),
            "another label": (
                in_xml(IMAGE, IMAGE + other_mask("car")),
                "label that the domain does not have",
                "mask 'car'",
            ),
            "no pixel": (in_xml(IMAGE, IMAGE + other_mask("void").replace("0, 4", "4")), "covers no pixel", "'void'"),
            "another image": (in_xml("<meta>", f"{IMAGE.replace('a-0', 'a-1')}</image><meta>"), "nothing", "a-1.png"),
        },
        {
            "the name of a folder": in_xml('name="a-0.png"', 'name="questions/a/asked/a-0.png"'),
            "a path of Windows": in_xml('name="a-0.png"', 'name="C:\\my data\\a-0.JPG"'),
        },
        {
            "a file that is cut": (cut, "not XML"),
            "an image in an image": (in_xml(IMAGE, IMAGE + IMAGE.replace(">", "/>")), "another image inside of it"),
            "an image twice": (in_xml(IMAGE, f"{IMAGE}</image>{IMAGE}"), "twice; keep one"),
            "a broken code": (in_xml(IMAGE, IMAGE + other_mask("void").replace("0, 4", "0, 5")), "runs of 5 pixels"),
            "another size": (in_xml('width="24"', 'width="25"'), "25×20 pixels, its image is 24×20"),
        },
    ),
    "cvat-masks": Format(
        write_with(cvat.write_masks, "e.zip"),
        cvat.read_answers,
        {
            "notes": (in_zip(lambda f: f.update({"read me.txt": b"x"})), "no part of the export", "read me.txt"),
            "no picture": (in_zip(lambda f: f.update({"SegmentationClass/a-0.txt": b"x"})), "no part", "a-0.txt"),
            "another image": (
                in_zip(lambda f: f.update({"SegmentationClass/a-1.png": f["SegmentationClass/a-0.png"]})),
                "nothing",
                "a-1.png",
            ),
            "a system's files": (in_zip(lambda f: f.update({".DS_Store": b"x"})), "a system", ".DS_Store"),
        },
        {
            "packed again on a Mac": in_zip(packed_again),
            "paths in another case": in_zip(other_case),
        },
        {
            "a file that is cut": (cut, "not a zip archive"),
            "a mask twice": (
                in_zip(lambda f: f.update({"segmentationclass/a-0.PNG": f["SegmentationClass/a-0.png"]})),
                "twice; keep one",
            ),
            "two exports": (in_zip(lambda f: f.update({"x/labelmap.txt": b""})), "several files of one name"),
            "an unknown colour": (
                in_zip(lambda f: f.update({"labelmap.txt": b"background:0,0,0::\n"})),
                "stands for no label of labelmap.txt",
            ),
        },
    ),
    "coco": Format(
        write_with(coco.write_instances, "e.json"),
        coco.read_answers,
        {
            "a box": (append("annotations", **BOX), "without a segmentation", "annotation 900"),
            "an empty segmentation": (append("annotations", **EMPTY), "covers no pixel", "annotation 900"),
            "outside": (append("annotations", segmentation=[[90, 90, 95, 90, 95, 95]]), "covers no pixel", "900"),
            "no image": (append("annotations", image_id=77), "image that is not in the file", "900 (image 77)"),
            "no category": (append("annotations", category_id=78), "category that is no label", "(category 78"),
            "another image": (append("images", file_name="a-1.png"), "nothing", "a-1.png"),
            "another label": (
                in_json(of_a_car),
                "category that is no label",
                "annotation 900 (category 50, 'car')",
            ),
        },
        {
            "crowds": in_json(crowds),
            "a whole path": in_json(lambda d: d["images"][0].update(file_name="/data/x y/a-0.tif")),
        },
        {
            "a file that is cut": (cut, "not JSON"),
            "a box that lost its mask": (
                append("annotations", segmentation=[], area=9),
                "empty, and it has an area of 9",
            ),
            "points of text": (append("annotations", segmentation=[["1"] * 6]), "no list of numbers"),
            "an image twice": (append("images"), "twice; keep one"),
            "another size": (in_json(lambda d: d["images"][0].update(width=25)), "25×20 pixels"),
        },
    ),
    "coco-panoptic": Format(
        write_with(coco.write_panoptic, "e.json"),
        coco.read_answers,
        {
            "no pixel": (
                in_json(lambda d: d["annotations"][0]["segments_info"].append({"id": 99, "category_id": 1})),
                "a segment that covers no pixel",
                "segment 99 of a-0.png",
            ),
            "no image": (append("annotations", image_id=77), "image that is not in the file", "image 77"),
            "another image": (append("images", file_name="a-1.png"), "nothing", "a-1.png"),
        },
        {"a name with a folder": in_json(lambda d: d["images"][0].update(file_name="images/a-0.jpg"))},
        {
            "a picture that is cut": (lambda path: cut(path.with_suffix("")), "truncated"),
            "an unknown id": (in_json(lambda d: d["annotations"][0].update(segments_info=[])), "are no segments"),
            "an annotation twice": (append("annotations"), "and another one; keep one"),
        },
    ),
    "label-studio": Format(write_tasks, label_studio.read_answers, TASKS_ASIDE, {}, TASKS_WRONG),
    "label-studio-server": Format(write_tasks, fetch, TASKS_ASIDE, {}, TASKS_WRONG),
}
