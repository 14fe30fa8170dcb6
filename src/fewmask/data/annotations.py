"""Draws masks from annotations. LabelMe and YOLO have a file for each image; COCO, CVAT and Label Studio have one for
many.

Shapes: P points · H×W pixels of an image.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import cv2
import numpy as np

from fewmask.data.headers import MAX_PIXELS
from fewmask.data.masks import ClassIds, Rings, Runs, Shape, Size, check_size, drawn
from fewmask.formats.rle import counts, decode_brush, unpack
from fewmask.formats.texts import MAX_TEXT, Element, field, json_items, read_bytes, read_json, xml_elements
from fewmask.labels import Mask

LARGEST = 1e9
"""The limit of the absolute value of a coordinate."""
AREAS = "polygons, rectangles, circles and masks are areas"


@dataclass(frozen=True)
class LabelMe:
    """LabelMe's JSON, one for each image. Where shapes overlap the later in the file wins."""

    ids: ClassIds

    def __call__(self, stem: str, path: Path, size: Callable[[], Size]) -> Mask:
        data = read_json(path)
        if None in (data.get("imageHeight"), data.get("imageWidth")):
            shape = size()
        else:
            shape = field(data, "imageHeight", int, str(path)), field(data, "imageWidth", int, str(path))
        shapes = [self._shape(one, f"{path}: shape {n}") for n, one in enumerate(_objects(data, "shapes", path), 1)]
        return drawn(shapes, shape, self.ids.unpainted, path)

    def _shape(self, record: Mapping[str, Any], where: str) -> Shape:
        name, kind = field(record, "label", str, where), record.get("shape_type") or "polygon"
        is_class = name in self.ids.ids
        if name == "__ignore__" and not is_class:
            value = self.ids.void
        elif name == "_background_" and not is_class:
            value = self.ids.unpainted
        else:
            value = self.ids.of_name(name, where)
        points = _points(field(record, "points", list, where), where)
        if kind == "polygon":
            return Rings(value, [points])
        if kind in ("rectangle", "circle", "mask") and len(points) == 2:
            (x0, y0), (x1, y1) = points
            if kind == "rectangle":
                return Rings(value, [np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])])
            if kind == "circle":
                angles = np.arange(360) * math.pi / 180
                radius = math.hypot(x1 - x0, y1 - y0)
                return Rings(value, [np.stack([x0 + radius * np.cos(angles), y0 + radius * np.sin(angles)], 1)])
            inside = _png(field(record, "mask", str, where), where)
            return Runs(value, counts(inside.ravel()), (round(y0), round(x0), *inside.shape))
        raise ValueError(f"{where}: a {str(kind)[:40]} of {len(points)} points; {AREAS}, delete it or draw one of them")


def _objects(data: Mapping[str, Any], key: str, path: Path) -> list[dict[str, Any]]:
    records = field(data, key, list, str(path))
    if not all(isinstance(one, dict) for one in records):
        raise ValueError(f"{path}: {key}: one of them is no object; export it again")
    return records


def _points(values: Sequence[Any], where: str) -> np.ndarray:
    """Points (P,2) from a list of pairs."""
    flat = [pair for pair in values if isinstance(pair, list) and len(pair) == 2 and all(map(_is_number, pair))]
    if len(flat) != len(values) or not values:
        raise ValueError(f"{where}: its points are no list of x, y; draw it again")
    return np.array(flat, dtype=np.float64)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST


def _png(text: str, where: str) -> np.ndarray:
    """A PNG in base64 as (H,W) bool."""
    try:
        pixels = cv2.imdecode(np.frombuffer(base64.b64decode(text, validate=True), np.uint8), cv2.IMREAD_GRAYSCALE)
    except (ValueError, cv2.error):  # also of base64
        pixels = None
    if pixels is None:
        raise ValueError(f"{where}: its mask is no PNG in base64; draw it again")
    return pixels > 0


@dataclass(frozen=True)
class Yolo:
    """YOLO's text, one for each image: in each line the id of a class and a polygon in parts of width and height.

    Where polygons overlap the later line wins.
    """

    ids: ClassIds

    def __call__(self, stem: str, path: Path, size: Callable[[], Size]) -> Mask:
        height, width = size()
        try:
            lines = read_bytes(path, MAX_TEXT).decode("utf-8-sig").splitlines()
        except UnicodeDecodeError:
            raise ValueError(f"{path}: not UTF-8; export it again") from None
        shapes = [self._shape(line, f"{path}:{n}", (width, height)) for n, line in enumerate(lines, 1) if line.strip()]
        return drawn(shapes, (height, width), self.ids.unpainted, path)

    def _shape(self, line: str, where: str, sides: tuple[int, int]) -> Shape:
        first, *rest = line.split()
        if not first.isascii() or not first.isdigit() or int(first) not in self.ids.ids.values():
            there = ", ".join(f"{raw} {name}" for name, raw in self.ids.ids.items())
            raise ValueError(f"{where}: {first[:40]!r} is no id of a class: {there}; add it to classes.yaml")
        if len(rest) == 4:
            raise ValueError(f"{where}: a box, not a polygon; export segmentations")
        try:
            numbers = np.array([float(word) for word in rest])
        except ValueError:
            raise ValueError(f"{where}: not a class and numbers; export it again") from None
        if len(numbers) < 6 or len(numbers) % 2:
            raise ValueError(f"{where}: {len(numbers)} numbers are no polygon of three or more points; export it again")
        if not (np.isfinite(numbers).all() and numbers.min() >= -0.001 and numbers.max() <= 1.001):
            raise ValueError(f"{where}: coordinates are parts of width and height, from 0 to 1; export it again")
        return Rings(int(first), [numbers.reshape(-1, 2) * sides])


@dataclass(frozen=True)
class Annotated:
    """The annotations of one image, from a file about many."""

    name: str
    size: Size | None
    """None if the file does not state it. The size of the image is used then."""
    shapes: Sequence[Shape]
    where: str


@dataclass(frozen=True)
class AnnotatedMasks:
    """Masks of files that are about many images."""

    images: Mapping[str, Annotated]
    unpainted: int

    def __call__(self, stem: str, path: Path, size: Callable[[], Size]) -> Mask:
        image = self.images[stem]
        return drawn(image.shapes, image.size or size(), self.unpainted, image.where)


def read_coco(path: Path, ids: ClassIds, problems: Callable[[ValueError], None]) -> list[Annotated]:
    """The images of COCO's instances with their polygons and run-length codes. Faults of single annotations are passed
    to `problems`. Raises ValueError for a file that is not such a JSON.

    The outlines of one annotation are one area, by the even-odd rule. Where annotations overlap the later in the file
    wins. An image of the file without an annotation shows none of its classes.
    """
    data = read_json(path)
    if "images" not in data or "annotations" not in data:
        raise ValueError(f"{path}: no COCO instances (`images`, `annotations`, `categories`); give that file")
    names = {_id(c, "a category", path): field(c, "name", str, str(path)) for c in _objects(data, "categories", path)}
    shapes: dict[int, list[Shape]] = {}
    images: dict[int, dict[str, Any]] = {}
    for image in _objects(data, "images", path):
        number = _id(image, "an image", path)
        if number in images:
            raise ValueError(f"{path}: two images of the id {number}; export it again")
        images[number], shapes[number] = image, []
    for annotation in _objects(data, "annotations", path):
        where = f"{path}: annotation {str(annotation.get('id', '?'))[:40]}"
        try:
            number = field(annotation, "image_id", int, where)
            if number not in images:
                raise ValueError(f"{where}: of the image {number}, which is not in the file; export it again")
            category = field(annotation, "category_id", int, where)
            if category not in names:
                raise ValueError(f"{where}: of the category {category}, which is not in the file; export it again")
            height = field(images[number], "height", int, where)
            sides = [height, field(images[number], "width", int, where)]
            value = ids.of_name(names[category], where)
            shapes[number].append(_segmentation(annotation.get("segmentation"), value, sides, where))
        except ValueError as error:
            problems(error)
    return [
        Annotated(
            field(image, "file_name", str, f"{path}: image {number}"),
            (
                field(image, "height", int, f"{path}: image {number}"),
                field(image, "width", int, f"{path}: image {number}"),
            ),
            shapes[number],
            f"{path}: image {number}",
        )
        for number, image in images.items()
    ]


def _id(record: Mapping[str, Any], what: str, path: Path) -> int:
    return field(record, "id", int, f"{path}: {what}")


def _segmentation(shape: object, value: int, sides: list[int], where: str) -> Shape:
    if isinstance(shape, dict):
        code = shape.get("counts")
        if shape.get("size") != sides:
            raise ValueError(
                f"{where}: a code of size {str(shape.get('size'))[:40]}, its image has {sides}; export again"
            )
        try:
            if isinstance(code, str):
                return Runs(value, unpack(code))
        except ValueError as error:
            raise ValueError(f"{where}: {error}; export it again") from None
        if not isinstance(code, list) or not all(type(run) is int and 0 <= run <= MAX_PIXELS for run in code):
            raise ValueError(f"{where}: a run-length code that is no list of lengths; export it again")
        return Runs(value, np.array(code, dtype=np.int64))
    if not isinstance(shape, list) or not shape:
        raise ValueError(f"{where}: a box or a caption without a segmentation; draw it, or delete it")
    rings = []
    for numbers in shape:
        if not isinstance(numbers, list) or len(numbers) < 6 or len(numbers) % 2 or not all(map(_is_number, numbers)):
            raise ValueError(f"{where}: a polygon that is no list of x, y of three or more points; draw it again")
        rings.append(np.array(numbers, dtype=np.float64).reshape(-1, 2))
    return Rings(value, rings)


def read_cvat(path: Path, ids: ClassIds, problems: Callable[[ValueError], None]) -> list[Annotated]:
    """The images of "CVAT for images 1.1" with their polygons and masks, as `read_coco`.

    Where shapes overlap, the higher z_order wins. If both are equal, the later shape wins.
    """
    images = []
    for (tag, image), inside in xml_elements(read_bytes(path, MAX_TEXT), path):
        if tag != "image":
            continue
        where = f"{path}: image {image.get('name', image.get('id', '?'))[:200]}"
        shapes: list[tuple[int, Shape]] = []
        for element in inside:
            try:
                shapes += _cvat_shape(element, ids, where)
            except ValueError as error:
                problems(error)
        size = _whole(image, "height", where), _whole(image, "width", where)
        ordered = [shape for _, shape in sorted(shapes, key=lambda pair: pair[0])]
        images.append(Annotated(image.get("name", ""), size, ordered, where))
    return images


def _cvat_shape(element: Element, ids: ClassIds, where: str) -> Iterable[tuple[int, Shape]]:
    kind, attributes = element
    if kind == "tag":
        return
    value, order = ids.of_name(attributes.get("label", ""), where), _whole(attributes, "z_order", where, "0")
    if kind == "polygon":
        try:
            points = [[float(n) for n in pair.split(",")] for pair in attributes.get("points", "").split(";")]
        except ValueError:
            points = []
        yield order, Rings(value, [_points(points, where)])
    elif kind == "mask":
        box = [_whole(attributes, key, where) for key in ("top", "left", "height", "width")]
        try:
            runs = np.array([int(run) for run in attributes.get("rle", "").split(",")], dtype=np.int64)
        except (ValueError, OverflowError):
            raise ValueError(f"{where}: a run-length code that is no list of lengths; export it again") from None
        yield order, Runs(value, runs, (box[0], box[1], box[2], box[3]))
    else:
        raise ValueError(f"{where}: a {kind[:40]}, which is no area; draw it as a polygon or a mask, or delete it")


def _whole(attributes: Mapping[str, str], key: str, where: str, default: str = "") -> int:
    try:
        return int(attributes.get(key, default))
    except ValueError:
        raise ValueError(
            f"{where}: {key} is {attributes.get(key, 'missing')[:40]!r}, no whole number; export again"
        ) from None


def read_label_studio(path: Path, ids: ClassIds, problems: Callable[[ValueError], None]) -> list[Annotated]:
    """The images of Label Studio's JSON export with their brush strokes and polygons, as `read_coco`.

    Where results overlap the later one wins. Tasks without an annotation and cancelled annotations are ignored.
    """
    images = []
    for place, task in enumerate(json_items(path), 1):
        where = f"{path}: task {str(task.get('id', place))[:40]}"
        try:
            given = field(task, "annotations", list, where)
            made = [a for a in given if isinstance(a, dict) and not a.get("was_cancelled")]
            if len(made) > 1:
                raise ValueError(f"{where}: {len(made)} annotations; keep one of them")
            for annotation in made:
                results = [r for r in field(annotation, "result", list, where) if isinstance(r, dict)]
                drawings = [_drawing(r, ids, f"{where}, result {n}") for n, r in enumerate(results, 1)]
                sizes = {size for size, _ in drawings}
                if len(sizes) > 1:
                    raise ValueError(f"{where}: results of different sizes; export it again")
                name = _picture(field(task, "data", dict, where), where)
                images.append(Annotated(name, next(iter(sizes), None), [shape for _, shape in drawings], where))
        except ValueError as error:
            problems(error)
    return images


def _picture(data: Mapping[str, Any], where: str) -> str:
    """The name of a task's image, from its address."""
    for value in data.values():
        name = unquote(str(value).partition("?d=")[2] or urlsplit(str(value)).path)
        if isinstance(value, str) and name.lower().endswith(
            (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
        ):
            return name.lstrip("/")
    raise ValueError(f"{where}: its data names no image; export the project of images")


def _drawing(result: Mapping[str, Any], ids: ClassIds, where: str) -> tuple[Size, Shape]:
    kind, value = str(result.get("type"))[:40], field(result, "value", dict, where)
    names = value.get(kind)
    if kind not in ("brushlabels", "polygonlabels") or not isinstance(names, list) or len(names) != 1:
        raise ValueError(f"{where}: of type {kind}, which is no area of one label; draw it again, or delete it")
    number = ids.of_name(str(names[0]), where)
    height, width = field(result, "original_height", int, where), field(result, "original_width", int, where)
    check_size((height, width), where)
    if kind == "polygonlabels":
        points = _points(field(value, "points", list, where), where)
        return (height, width), Rings(number, [points * (width, height) / 100])
    code = field(value, "rle", list, where)
    if not all(type(byte) is int and 0 <= byte <= 255 for byte in code):
        raise ValueError(f"{where}: a run-length code that is no list of bytes; export it again")
    inside = np.zeros(height * width, bool)
    try:
        inside[decode_brush(bytes(code), height * width)] = True
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{where}: {error}; export it again") from None
    return (height, width), Runs(number, counts(inside), (0, 0, height, width))
