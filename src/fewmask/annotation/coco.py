"""COCO: stuff and instances as JSON with run-length codes, and panoptic PNGs, both ways. See docs/formats.md.

Shapes: H×W pixels of an image.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fewmask.annotation.archive import MAX_MEMBER, field, read_bytes, read_json
from fewmask.annotation.facts import Question
from fewmask.annotation.inbox import Import, Inbox
from fewmask.annotation.ledger import Ledger
from fewmask.annotation.pixels import fill_polygon, recode
from fewmask.annotation.rle import counts, pack, positions, unpack
from fewmask.annotation.tasks import guesses, label_colours, labels, parts, tasks
from fewmask.data.domain import Domain
from fewmask.data.reading import decode_colours, png_size
from fewmask.files import write_bytes, write_json
from fewmask.labels import NOT_LABELLED, LabelSpace, Mask
from fewmask.paths import below

INSTANCES, PANOPTIC = "instances.json", "panoptic.json"
UNPAINTED = 0
"""COCO's id of a pixel that belongs to no segment."""


def write_questions(
    ledger: Ledger,
    domains: Mapping[str, Domain],
    folder: Path,
    number: int | None = None,
    annotator: str | None = None,
) -> list[Question]:
    """Write the open questions of a round, or of all, for tools that read COCO; returns them.

    For each domain the pictures, and the guesses twice: `<domain>/instances.json`, and `<domain>/panoptic.json` with
    the PNGs in `<domain>/panoptic`.
    """
    questions = ledger.questions(number, open_only=True, annotator=annotator)
    for domain, asked in tasks(ledger, domains, questions):
        root = below(folder, domain.name)
        for task in asked:
            task.write_pictures(root)
        write_instances(root / INSTANCES, domain.space, guesses(asked))
        write_panoptic(root / PANOPTIC, domain.space, guesses(asked))
    return questions


def categories(space: LabelSpace) -> list[dict[str, Any]]:
    """The labels as COCO's categories, from id 1."""
    return [
        {"id": number, "name": name, "supercategory": "", "isthing": 0, "color": list(colour)}
        for number, (name, colour) in enumerate(zip(labels(space), label_colours(space), strict=True), start=1)
    ]


def write_instances(path: Path, space: LabelSpace, masks: Iterable[tuple[str, Mask]], compressed: bool = True) -> None:
    """Write masks (H,W) by stem as COCO's JSON: one annotation for each value of an image, run-length coded."""
    images, annotations, ids = list[dict[str, Any]](), list[dict[str, Any]](), _ids(space)
    for stem, mask in masks:
        images.append(_image(len(images) + 1, f"{stem}.png", mask))
        for value, box, _ in parts(mask):
            runs = counts((mask == value).ravel(order="F"))
            code = pack(runs) if compressed else runs.tolist()
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": len(images),
                    **_segment(ids[value], box, int(runs[1::2].sum())),
                    "segmentation": {"size": list(mask.shape), "counts": code},
                }
            )
    write_json(path, {"images": images, "annotations": annotations, "categories": categories(space)})


def write_panoptic(path: Path, space: LabelSpace, masks: Iterable[tuple[str, Mask]]) -> None:
    """Write masks (H,W) by stem as COCO's panoptic JSON, and PNGs beside it in a folder of its name.

    A PNG's colours are the ids of segments, R + 256·G + 65536·B, and 0 where nobody painted.
    """
    images, annotations, ids = list[dict[str, Any]](), list[dict[str, Any]](), _ids(space)
    table = np.zeros((256, 3), dtype=np.uint8)
    for value, number in ids.items():
        table[value] = number & 255, number >> 8, 0
    for stem, mask in masks:
        images.append(_image(len(images) + 1, f"{stem}.png", mask))
        png = io.BytesIO()
        Image.fromarray(table[mask]).save(png, "PNG")
        write_bytes(below(path.with_suffix(""), stem, ending=".png"), png.getvalue())
        segments = [
            {"id": ids[value], **_segment(ids[value], box, int(pixels.sum()))} for value, box, pixels in parts(mask)
        ]
        annotations.append({"image_id": len(images), "file_name": f"{stem}.png", "segments_info": segments})
    write_json(path, {"images": images, "annotations": annotations, "categories": categories(space)})


def _ids(space: LabelSpace) -> dict[int, int]:
    """Category ids by contract value."""
    return {value: number for number, value in enumerate(labels(space).values(), start=1)}


def _image(number: int, name: str, mask: Mask) -> dict[str, Any]:
    return {"id": number, "file_name": name, "width": mask.shape[1], "height": mask.shape[0]}


def _segment(category: int, box: tuple[int, int, int, int], area: int) -> dict[str, Any]:
    y0, x0, y1, x1 = box
    return {"category_id": category, "area": area, "bbox": [x0, y0, x1 - x0, y1 - y0], "iscrowd": 0}


# ── In ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


def read_answers(ledger: Ledger, domains: Mapping[str, Domain], path: Path, annotator: str) -> Import:
    """Take a COCO JSON file, of instances or panoptic, as this annotator's answers, all or none.

    Where annotations overlap the later in the list wins. Panoptic PNGs lie beside the file in a folder of its name.
    Raises one ValueError that lists every problem.
    """
    inbox = Inbox(ledger, domains, "coco")
    with inbox.problems():
        data = read_json(path)
        named = _by_id(data, "categories", path)
        names = {number: field(category, "name", str, f"{path}: category {number}") for number, category in named}
        images = dict(_by_id(data, "images", path))
        for number, annotations in _of_images(data, images, path).items():
            with inbox.problems():
                where = f"{path}: image {number}"
                domain, stem = inbox.find(field(images[number], "file_name", str, where), where)
                found = field(images[number], "height", int, where), field(images[number], "width", int, where)
                mask = np.full(inbox.size(domain, stem, where, found), NOT_LABELLED, dtype=np.uint8)
                for annotation in annotations:
                    if "segments_info" in annotation:
                        _paint_segments(annotation, mask, names, domain.space, path, where)
                    else:
                        _paint(annotation, mask, names, domain.space, where)
                inbox.take(domain, stem, mask, annotator, where)
    return inbox.save(f"{path}: no images in it; give the JSON file of a COCO export")


def _by_id(data: Mapping[str, Any], key: str, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    seen = set[int]()
    for entry in field(data, key, list, str(path)):
        if not isinstance(entry, dict):
            raise ValueError(f"{path}: {key}: one of them is no object; export it again")
        number = field(entry, "id", int, f"{path}: {key}")
        if number in seen:
            raise ValueError(f"{path}: {key}: the id {number} twice; export it again")
        seen.add(number)
        yield number, entry


def _of_images(data: Mapping[str, Any], images: Mapping[int, Any], path: Path) -> dict[int, list[dict[str, Any]]]:
    """The annotations of each image, in their order; an image without any has none."""
    found: dict[int, list[dict[str, Any]]] = {number: [] for number in images}
    for annotation in field(data, "annotations", list, str(path)):
        if not isinstance(annotation, dict):
            raise ValueError(f"{path}: annotations: one of them is no object; export it again")
        number = field(annotation, "image_id", int, f"{path}: annotations")
        if number not in found:
            raise ValueError(f"{path}: an annotation of image {number}, which is none of its images; export it again")
        if found[number] and "segments_info" in annotation:
            raise ValueError(f"{path}: image {number} has two panoptic annotations; export it again")
        found[number].append(annotation)
    return found


def _value(record: Mapping[str, Any], names: Mapping[int, str], space: LabelSpace, where: str) -> int:
    number, values = field(record, "category_id", int, where), labels(space)
    if names.get(number) not in values:
        said = repr(names[number])[:60] if number in names else "which is not among its categories"
        raise ValueError(f"{where}: category {number}, {said}: there are {', '.join(values)}; give it one of these")
    return values[names[number]]


def _paint(annotation: Mapping[str, Any], mask: Mask, names: Mapping[int, str], space: LabelSpace, where: str) -> None:
    where = f"{where}, annotation {str(annotation.get('id', '?'))[:40]}"
    value, shape = _value(annotation, names, space, where), annotation.get("segmentation")
    if not isinstance(shape, list):
        code = field(annotation, "segmentation", dict, where)
        size = field(code, "size", list, where)
        packed = isinstance(code.get("counts"), str)
        runs: Any = field(code, "counts", str if packed else list, where)
    try:
        if isinstance(shape, list):
            for points in shape:
                fill_polygon(np.array(points, dtype=np.float64).reshape(-1, 2), mask, value)
        elif size != list(mask.shape):
            raise ValueError(f"a run-length code of size {str(size)[:60]}, its image has {list(mask.shape)}")
        else:
            x, y = np.divmod(positions(unpack(runs) if packed else _integers(runs), mask.size), mask.shape[0])
            mask[y, x] = value
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"{where}: {error}; export it again") from None


def _integers(values: list[Any]) -> np.ndarray:
    if any(type(value) is not int for value in values):
        raise ValueError("a run-length code that is no list of whole numbers")
    return np.array(values, dtype=np.int64)


def _paint_segments(
    annotation: Mapping[str, Any], mask: Mask, names: Mapping[int, str], space: LabelSpace, path: Path, where: str
) -> None:
    folder, file = path.with_suffix(""), field(annotation, "file_name", str, where)
    png = folder / file
    if "\0" in file or not png.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{where}: file_name {file[:200]!r} leads out of {folder}; put the PNG there")
    data = read_bytes(png, MAX_MEMBER)
    (h, w), (height, width) = png_size(data, png), mask.shape
    if (h, w) != (height, width):
        raise ValueError(f"{png}: {w}×{h} pixels, its image is {width}×{height}; paint it at the image's size")
    picture = decode_colours(data, png)
    if picture.ndim == 2:
        raise ValueError(f"{png}: one channel; the ids of segments are colours, export it again")
    values = {UNPAINTED: NOT_LABELLED}
    for segment in field(annotation, "segments_info", list, where):
        number = field(segment, "id", int, where) if isinstance(segment, dict) else UNPAINTED
        if number in values or not 0 < number < 1 << 24:
            raise ValueError(f"{where}: a segment of id {number}, which is another's or no colour; export it again")
        values[number] = _value(segment, names, space, f"{where}, segment {number}")
    painted, unknown = recode(picture, values)
    if unknown:
        ids = ", ".join(map(str, unknown[:20]))
        raise ValueError(f"{png}: ids {ids} are no segments of its image; export it again")
    np.copyto(mask, painted)
