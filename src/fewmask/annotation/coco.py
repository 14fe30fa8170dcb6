"""Reads and writes COCO: stuff and instances as JSON with run-length codes, and panoptic PNGs. See docs/formats.md.

Shapes: H×W pixels of an image.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fewmask.annotation.archive import MAX_MEMBER
from fewmask.annotation.importer import AnswerImporter, Import, Mode
from fewmask.annotation.ledger import Ledger
from fewmask.annotation.questions import Question
from fewmask.annotation.tasks import guarded, guesses, label_colours, labels, parts, tasks
from fewmask.data.domain import Domain
from fewmask.data.reading import decode_colours, png_size
from fewmask.files import write_bytes, write_json
from fewmask.formats.rle import counts, pack, positions, unpack
from fewmask.formats.shapes import fill_polygon, recode
from fewmask.formats.texts import field, read_bytes, read_json
from fewmask.labels import NOT_LABELLED, LabelSpace, Mask
from fewmask.paths import below

INSTANCES, PANOPTIC = "instances.json", "panoptic.json"
UNPAINTED = 0
"""COCO's id of a pixel that belongs to no segment."""


@guarded
def write_questions(
    ledger: Ledger,
    domains: Mapping[str, Domain],
    folder: Path,
    number: int | None = None,
    annotator: str | None = None,
) -> list[Question]:
    """Write the open questions of a round, or of all rounds, for tools that read COCO. Returns the questions.

    Each domain gets the pictures and two files of the guesses: `<domain>/instances.json`, and `<domain>/panoptic.json`
    with PNGs in `<domain>/panoptic`.
    """
    questions = ledger.questions(number, open_only=True, annotator=annotator)
    for domain, domain_tasks in tasks(ledger, domains, questions):
        root = below(folder, domain.name)
        for task in domain_tasks:
            task.write_pictures(root)
        write_instances(root / INSTANCES, domain.space, guesses(domain_tasks))
        write_panoptic(root / PANOPTIC, domain.space, guesses(domain_tasks))
    return questions


def categories(space: LabelSpace) -> list[dict[str, Any]]:
    """The labels as COCO's categories, from id 1."""
    return [
        {"id": number, "name": name, "supercategory": "", "isthing": 0, "color": list(colour)}
        for number, (name, colour) in enumerate(zip(labels(space), label_colours(space), strict=True), start=1)
    ]


def write_instances(
    path: Path,
    space: LabelSpace,
    masks: Iterable[tuple[str, Mask]],
    compressed: bool = True,
    names: Mapping[str, str] | None = None,
) -> None:
    """Write masks (H,W) by stem as COCO's JSON: one annotation for each value of an image, run-length coded.

    `names` are the images' files by stem; `<stem>.png` by default.
    """
    images, annotations, ids = list[dict[str, Any]](), list[dict[str, Any]](), _ids(space)
    for stem, mask in masks:
        images.append(_image(len(images) + 1, (names or {}).get(stem, f"{stem}.png"), mask))
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
    """Write masks (H,W) by stem as COCO's panoptic JSON, with PNGs in a folder beside it that has its name.

    The colours of a PNG are the ids of segments, R + 256·G + 65536·B. The id 0 means that nobody painted.
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


def read_answers(
    ledger: Ledger, domains: Mapping[str, Domain], path: Path, annotator: str, mode: Mode = "open"
) -> Import:
    """Import all annotations of a COCO file as this annotator's answers, or none if any is invalid.

    It reads run-length codes, compressed or not, polygons, and panoptic PNGs. Where annotations overlap, the later in
    the list wins. Content that is no answer is left out. Raises one ValueError that lists every problem.
    """
    importer = AnswerImporter(ledger, domains, "coco", mode)
    with importer.problems():
        data = read_json(path)
        names = {number: field(c, "name", str, f"{path}: a category") for number, c in _by_id(data, "categories", path)}
        images = dict(_by_id(data, "images", path))
        for number, annotations in _of_images(importer, data, images, path).items():
            with importer.problems():
                _take_image(importer, images[number], annotations, names, annotator, path)
    return importer.save(f"{path}: no images in it that were asked about; give the JSON file of a COCO export")


def _take_image(
    importer: AnswerImporter,
    image: Mapping[str, Any],
    annotations: Sequence[dict[str, Any]],
    names: Mapping[int, str],
    annotator: str,
    path: Path,
) -> None:
    where = f"{path}: image {str(image['id'])[:40]}"
    if (image_of_domain := importer.find_image(field(image, "file_name", str, where), where)) is None:
        return
    domain, stem = image_of_domain
    importer.size(domain, stem, where, (field(image, "height", int, where), field(image, "width", int, where)))
    mask = importer.canvas(domain, stem, where)
    for annotation in annotations:
        if "segments_info" in annotation:
            _paint_segments(importer, annotation, mask, names, domain.space, path, where)
        else:
            _paint(importer, annotation, mask, names, domain.space, where)
    importer.add_answer(domain, stem, mask, annotator, where)


def _by_id(data: Mapping[str, Any], key: str, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    ids = set[int]()
    for entry in field(data, key, list, str(path)):
        if not isinstance(entry, dict):
            raise ValueError(f"{path}: {key}: one of them is no object; export it again")
        number = field(entry, "id", int, f"{path}: {key}")
        if number in ids:
            raise ValueError(f"{path}: {key}: the id {number} twice; export it again")
        ids.add(number)
        yield number, entry


def _of_images(
    importer: AnswerImporter, data: Mapping[str, Any], images: Mapping[int, Any], path: Path
) -> dict[int, list[dict[str, Any]]]:
    """The annotations of each image in their order. The list of an image without annotations is empty."""
    by_image: dict[int, list[dict[str, Any]]] = {number: [] for number in images}
    for annotation in field(data, "annotations", list, str(path)):
        if not isinstance(annotation, dict):
            raise ValueError(f"{path}: annotations: one of them is no object; export it again")
        number = field(annotation, "image_id", int, f"{path}: annotations")
        if number not in by_image:
            importer.leave_out(
                "of an image that is not in the file", f"{_describe(annotation)} (image {str(number)[:40]})"
            )
            continue
        if by_image[number] and ("segments_info" in annotation or "segments_info" in by_image[number][0]):
            raise ValueError(f"{path}: image {number} has a panoptic annotation and another one; keep one of the two")
        by_image[number].append(annotation)
    return by_image


def _describe(annotation: Mapping[str, Any]) -> str:
    return f"annotation {str(annotation.get('id', '?'))[:40]}"


def _value(
    importer: AnswerImporter,
    record: Mapping[str, Any],
    names: Mapping[int, str],
    space: LabelSpace,
    where: str,
    description: str,
) -> int | None:
    """The mask value of a category. A category whose name is no label is left out and gives None."""
    number, values = field(record, "category_id", int, where), labels(space)
    if (value := values.get(names.get(number, ""))) is None or number not in names:
        category = repr(names[number])[:60] if number in names else "which is not among its categories"
        importer.leave_out(
            "of a category that is no label here", f"{description} (category {str(number)[:40]}, {category})"
        )
        return None
    return value


def _paint(
    importer: AnswerImporter,
    annotation: Mapping[str, Any],
    mask: Mask,
    names: Mapping[int, str],
    space: LabelSpace,
    where: str,
) -> None:
    description, where = _describe(annotation), f"{where}, {_describe(annotation)}"
    value, shape = _value(importer, annotation, names, space, where, description), annotation.get("segmentation")
    if value is None:
        return
    if shape is None:
        importer.leave_out("a box or a caption, without a segmentation", description)
        return
    if not isinstance(shape, list):
        code = field(annotation, "segmentation", dict, where)
        size = field(code, "size", list, where)
        packed = isinstance(code.get("counts"), str)
        runs: Any = field(code, "counts", str if packed else list, where)
    try:
        painted = 0
        if isinstance(shape, list):
            for points in filter(None, shape):
                polygon = fill_polygon(_points(points), mask, value)
                importer.spend(polygon.work, where)
                painted += polygon.pixels
        elif size != list(mask.shape):
            raise ValueError(f"a run-length code of size {str(size)[:60]}, its image has {list(mask.shape)}")
        else:
            importer.spend(len(runs), where)
            ones = positions(unpack(runs) if packed else _integers(runs), mask.size)
            x, y = np.divmod(ones, mask.shape[0])
            mask[y, x] = value
            painted = ones.size
            importer.spend(painted, where)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{where}: {error}; export it again") from None
    empty = not painted and not (isinstance(shape, list) and any(shape))
    if empty and (claim := _claimed_area(annotation)):
        raise ValueError(f"{where}: its segmentation is empty, and it has {claim}; draw it as a mask, or delete it")
    if not painted:
        importer.leave_out("a segmentation that covers no pixel", description)


def _claimed_area(annotation: Mapping[str, Any]) -> str:
    """The area or box by which an annotation without pixels claims to have some; empty where it claims none."""
    area, box = annotation.get("area"), annotation.get("bbox")
    if isinstance(area, int | float) and area > 0:
        return f"an area of {str(area)[:20]}"
    sides = box[2:] if isinstance(box, list) and len(box) == 4 else []
    wide = bool(sides) and all(isinstance(side, int | float) and side > 0 for side in sides)
    return f"a box, {str(box)[:60]}" if wide else ""


def _points(values: object) -> np.ndarray:
    """The points (P,2) of a polygon, from a list of x, y, x, y …"""
    if not isinstance(values, list) or any(type(value) not in (int, float) for value in values):
        raise ValueError("a polygon that is no list of numbers")
    if len(values) % 2:
        raise ValueError(f"a polygon of {len(values)} numbers, the last x without a y")
    return np.array(values, dtype=np.float64).reshape(-1, 2)


def _integers(values: list[Any]) -> np.ndarray:
    if any(type(value) is not int for value in values):
        raise ValueError("a run-length code that is no list of whole numbers")
    return np.array(values, dtype=np.int64)


def _paint_segments(
    importer: AnswerImporter,
    annotation: Mapping[str, Any],
    mask: Mask,
    names: Mapping[int, str],
    space: LabelSpace,
    path: Path,
    where: str,
) -> None:
    folder, file = path.with_suffix(""), field(annotation, "file_name", str, where)
    png = folder / file
    if not file.isprintable() or not png.resolve().is_relative_to(folder.resolve()):
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
            raise ValueError(
                f"{where}: a segment of id {str(number)[:40]}, which is another's or no colour; export it again"
            )
        value = _value(importer, segment, names, space, f"{where}, segment {number}", f"segment {number} of {png.name}")
        values[number] = NOT_LABELLED if value is None else value
    painted, codes = recode(picture, values)
    if unknown_ids := [code for code in codes if code not in values]:
        ids = ", ".join(map(str, unknown_ids[:20]))
        raise ValueError(f"{png}: ids {ids} are no segments of its image; export it again")
    for number in sorted(values.keys() - {UNPAINTED, *codes}):
        importer.leave_out("a segment that covers no pixel", f"segment {number} of {png.name}")
    np.copyto(mask, painted)
