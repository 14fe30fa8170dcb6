"""Reads and writes CVAT's "CVAT for images 1.1" (XML) and "Segmentation mask 1.1" (zip). See docs/formats.md.

Shapes: H×W pixels of an image · h×w pixels of a box.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO
from xml.sax.saxutils import escape, quoteattr

import numpy as np
from PIL import Image

from fewmask.annotation.archive import Archive
from fewmask.annotation.importer import SYSTEM, AnswerImporter, Import, Mode
from fewmask.annotation.ledger import Ledger
from fewmask.annotation.questions import Question
from fewmask.annotation.tasks import Part, guarded, guesses, label_colours, labels, parts, tasks
from fewmask.data.domain import Domain
from fewmask.data.reading import decode_colours, png_size
from fewmask.files import write_atomically, write_json
from fewmask.formats.rle import counts, positions
from fewmask.formats.shapes import fill_polygon, recode
from fewmask.formats.texts import MAX_TEXT, Element, read_bytes, xml_elements
from fewmask.labels import NOT_LABELLED, LabelSpace, Mask
from fewmask.paths import below

ANNOTATIONS, LABELMAP = "annotations.xml", "labelmap.txt"
CLASSES, LIST = "SegmentationClass", "ImageSets/Segmentation/default.txt"
BACKGROUND = "background"
"""The label in "Segmentation mask 1.1" of pixels that nobody painted."""
OTHER_LABEL = "of a label that the domain does not have"


@guarded
def write_questions(
    ledger: Ledger,
    domains: Mapping[str, Domain],
    folder: Path,
    number: int | None = None,
    annotator: str | None = None,
) -> list[Question]:
    """Write the open questions of a round, or of all rounds, for CVAT. Returns the questions.

    Each domain gets `<domain>/labels.json` for the raw label editor, the pictures to upload, and the guesses to upload
    as annotations: `<domain>/annotations.xml` and, unless a class is called "background", `<domain>/masks.zip`.
    """
    questions = ledger.questions(number, open_only=True, annotator=annotator)
    for domain, domain_tasks in tasks(ledger, domains, questions):
        root = below(folder, domain.name)
        for task in domain_tasks:
            task.write_pictures(root)
        write_json(root / "labels.json", label_editor(domain.space))
        regions = ((task.stem, task.size, (part for _, part in task.guess_parts())) for task in domain_tasks)
        _write_xml(root / ANNOTATIONS, domain.space, regions)
        if BACKGROUND not in domain.space.names:
            write_masks(root / "masks.zip", domain.space, guesses(domain_tasks))
    return questions


def label_editor(space: LabelSpace) -> list[dict[str, Any]]:
    """The labels for CVAT's raw label editor. Their colours differ from each other and from the background's."""
    return [
        {"name": name, "color": f"#{bytes(colour).hex()}", "type": "any", "attributes": []}
        for name, colour in zip(labels(space), label_colours(space), strict=True)
    ]


def write_xml(path: Path, space: LabelSpace, masks: Iterable[tuple[str, Mask]]) -> None:
    """Write masks (H,W) by stem as "CVAT for images 1.1": one mask for each value of an image."""
    _write_xml(path, space, ((stem, mask.shape, parts(mask)) for stem, mask in masks))


def _write_xml(path: Path, space: LabelSpace, images: Iterable[tuple[str, tuple[int, ...], Iterable[Part]]]) -> None:
    names = {value: quoteattr(_plain(name)) for name, value in labels(space).items()}

    def write(file: BinaryIO) -> None:
        file.write(b'<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>\n')
        file.write(b"<meta><task><labels>")
        for entry in label_editor(space):
            name, colour = escape(entry["name"]), entry["color"]
            file.write(f"\n<label><name>{name}</name><color>{colour}</color><attributes/></label>".encode())
        file.write(b"\n</labels></task></meta>\n")
        for number, (stem, (height, width), shapes) in enumerate(images):
            head = f'<image id="{number}" name={quoteattr(f"{stem}.png")} width="{width}" height="{height}">\n'
            file.write(head.encode())
            file.writelines(_shape(names[value], box, pixels).encode() for value, box, pixels in shapes)
            file.write(b"</image>\n")
        file.write(b"</annotations>\n")

    write_atomically(path, write)


def _shape(label: str, box: tuple[int, int, int, int], pixels: np.ndarray) -> str:
    y0, x0, y1, x1 = box
    rle = ", ".join(map(str, counts(pixels.ravel()).tolist()))
    where = f'left="{x0}" top="{y0}" width="{x1 - x0}" height="{y1 - y0}"'
    return f'<mask label={label} source="auto" occluded="0" rle="{rle}" {where} z_order="0"></mask>\n'


def _plain(name: str) -> str:
    if any(ord(c) < 32 for c in name):
        raise ValueError(f"class {name!r}: XML cannot hold this name; give the class another")
    return name


def write_masks(path: Path, space: LabelSpace, masks: Iterable[tuple[str, Mask]]) -> None:
    """Write masks (H,W) by stem as "Segmentation mask 1.1": a zip archive of PNGs in the labels' colours.

    Raises ValueError for a class "background", which the format cannot tell from pixels that nobody painted.
    """
    if BACKGROUND in space.names:
        raise ValueError(f"{path}: {_BACKGROUND_CLASS}")
    colours = np.zeros((256, 3), dtype=np.uint8)
    for value, colour in zip(labels(space).values(), label_colours(space), strict=True):
        colours[value] = colour
    lines = [f"{BACKGROUND}:0,0,0::"]
    for name, colour in zip(labels(space), label_colours(space), strict=True):
        if ":" in name or "#" in name or _plain(name) != name.strip():
            raise ValueError(f"{path}: class {name!r}: {LABELMAP} cannot hold this name; give the class another")
        lines.append(f"{name}:{colour[0]},{colour[1]},{colour[2]}::")

    def write(file: BinaryIO) -> None:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
            stems = []
            for stem, mask in masks:
                png = io.BytesIO()
                Image.fromarray(colours[mask]).save(png, "PNG")
                packed.writestr(f"{CLASSES}/{stem}.png", png.getvalue())
                stems.append(stem)
            packed.writestr(LIST, "".join(f"{stem}\n" for stem in stems))
            packed.writestr(LABELMAP, "\n".join(["# label:color_rgb:parts:actions", *lines, ""]))

    write_atomically(path, write)


_BACKGROUND_CLASS = (
    'a class is called "background", which "Segmentation mask 1.1" cannot tell from pixels that nobody painted; export '
    'as "CVAT for images 1.1"'
)


# ── In ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


def read_answers(
    ledger: Ledger, domains: Mapping[str, Domain], path: Path, annotator: str, mode: Mode = "open"
) -> Import:
    """Import all masks and polygons of a CVAT export as this annotator's answers, or none if any is invalid.

    Where shapes overlap, the higher z_order wins; at equal z_order the later shape wins. Content that is no answer is
    left out. Raises one ValueError that lists every problem.
    """
    importer = AnswerImporter(ledger, domains, "cvat", mode)
    with importer.problems():
        if path.suffix.lower() == ".xml":
            _read_xml(importer, read_bytes(path, MAX_TEXT), path, annotator)
        else:
            with Archive(path) as archive:
                _read_archive(importer, archive, annotator)
    return importer.save(f'{path}: no images in it; export as "CVAT for images 1.1" or "Segmentation mask 1.1"')


def _read_archive(importer: AnswerImporter, archive: Archive, annotator: str) -> None:
    """Read either export, at the root of the archive or in a folder: an archive that was packed again has a folder."""
    for name in archive.strays:
        importer.leave_out(SYSTEM, name)
    xml, label_map = archive.file_named(ANNOTATIONS), archive.file_named(LABELMAP)
    main = xml if xml is not None else label_map
    if main is None:
        raise ValueError(
            f'{archive.path}: neither {ANNOTATIONS} nor {LABELMAP} in it; export as "CVAT for images 1.1" or as '
            '"Segmentation mask 1.1", or unpack a folder that was painted in'
        )
    root = main.rpartition("/")[0]
    masks, other_folders = (
        list[tuple[str, str]](),
        ("images/",) if xml is not None else ("segmentationobject/", "imagesets/"),
    )
    for name in archive.names:
        inner = name.removeprefix(f"{root}/") if root else name
        if xml is None and _under(inner, CLASSES) and inner.lower().endswith(".png") and name.startswith(root):
            masks.append((name, inner.partition("/")[2]))
        elif name != main and not (name.startswith(root) and inner.casefold().startswith(other_folders)):
            importer.leave_out("a file that is no part of the export", name)
    if xml is not None:
        _read_xml(importer, archive.read(xml, MAX_TEXT), archive.where(xml), annotator)
    else:
        _read_masks(importer, archive, main, masks, annotator)


def _under(name: str, folder: str) -> bool:
    return name.casefold().startswith(f"{folder.casefold()}/")


def _read_xml(importer: AnswerImporter, data: bytes, where: Path, annotator: str) -> None:
    for element, shapes in xml_elements(data, where):
        with importer.problems():
            if element[0] == "image":
                _take_image(importer, element, shapes, annotator, where)
            elif element[0] not in ("version", "meta"):
                label = element[1].get("label", "without a label")
                importer.leave_out(f"a <{element[0][:40]}>; only shapes of single images are read", label)


def _take_image(importer: AnswerImporter, element: Element, shapes: list[Element], annotator: str, where: Path) -> None:
    name = _attribute(element, "name", f"{where}: an image")
    where_image = f"{where}: image {name[:200]!r}"
    if any(tag == "image" for tag, _ in shapes):
        raise ValueError(f'{where_image}: another image inside of it; export it again as "CVAT for images 1.1"')
    if (image_of_domain := importer.find_image(name, where_image)) is None:
        return
    domain, stem = image_of_domain
    importer.size(
        domain, stem, where_image, (_number(element, "height", where_image), _number(element, "width", where_image))
    )
    mask = importer.canvas(domain, stem, where_image)
    shapes = [shape for shape in shapes if shape[0] != "attribute"]
    shapes.sort(key=lambda shape: _number(shape, "z_order", where_image, 0))
    for shape in shapes:
        _paint(importer, shape, mask, domain.space, where_image, name)
    importer.add_answer(domain, stem, mask, annotator, where_image)


def _paint(importer: AnswerImporter, shape: Element, mask: Mask, space: LabelSpace, where: str, image: str) -> None:
    tag, values = shape[0], labels(space)
    if tag not in ("mask", "polygon"):
        importer.leave_out(
            f"a <{tag[:40]}>; only masks and polygons are read", f"{shape[1].get('label', tag)} of {image}"
        )
        return
    label = _attribute(shape, "label", where)
    where_shape, description = f"{where}, {tag} {label[:60]!r}", f"{tag} {label[:60]!r} of {image}"
    if label not in values:
        importer.leave_out(OTHER_LABEL, description)
        return
    try:
        if tag == "polygon":
            points = [pair.split(",") for pair in _attribute(shape, "points", where_shape).split(";")]
            polygon = fill_polygon(np.array([(float(x), float(y)) for x, y in points]), mask, values[label])
            importer.spend(polygon.work, where_shape)
            painted = polygon.pixels
        else:
            left, top, w, h = (_number(shape, key, where_shape) for key in ("left", "top", "width", "height"))
            if not (0 <= left < left + w <= mask.shape[1] and 0 <= top < top + h <= mask.shape[0]):
                raise ValueError(f"{w}×{h} pixels at column {left}, row {top}: not in its image")
            code = _attribute(shape, "rle", where_shape)
            if (count := code.count(",") + 1) > w * h + 1:
                raise ValueError(f"{count} runs where there are {w * h} pixels")
            y, x = np.divmod(positions(np.array(code.split(","), dtype=np.int64), w * h), w)
            mask[top + y, left + x] = values[label]
            painted = y.size
            importer.spend(count + painted, where_shape)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{where_shape}: {error}; export it again") from None
    if not painted:
        importer.leave_out("a shape that covers no pixel", description)


def _attribute(element: Element, key: str, where: str) -> str:
    if key not in element[1]:
        raise ValueError(f'{where}: {element[0]} without {key}; export it again as "CVAT for images 1.1"')
    return element[1][key]


def _number(element: Element, key: str, where: str, default: int | None = None) -> int:
    text = str(default) if default is not None and key not in element[1] else _attribute(element, key, where)
    if not re.fullmatch(r"[+-]?\d{1,18}", text, re.ASCII):
        raise ValueError(f"{where}: {key} {text[:20]!r} is no whole number; export it again")
    return int(text)


def _read_masks(
    importer: AnswerImporter, archive: Archive, listed: str, masks: Sequence[tuple[str, str]], annotator: str
) -> None:
    """Import PNGs of the archive, which come with the names of their images."""
    listed_labels, tables = _label_map(archive, listed), dict[tuple[str, bool], _Table]()
    for name, image in masks:
        with importer.problems():
            where = archive.where(name)
            if (image_of_domain := importer.find_image(image, where)) is None:
                continue
            domain, stem = image_of_domain
            data = archive.read(name)
            height, width = importer.size(domain, stem, where, png_size(data, where))
            importer.spend(height * width, where)
            picture = decode_colours(data, where)
            kind = domain.name, picture.ndim == 2
            if kind not in tables:
                tables[kind] = _table(listed_labels, domain.space, kind[1], where)
            values, other_labels = tables[kind]
            mask, codes = recode(picture, values)
            if unknown := [code for code in codes if code not in values]:
                colours = ", ".join(str(c) if kind[1] else f"#{c.to_bytes(3, 'little').hex()}" for c in unknown[:20])
                raise ValueError(f"{where}: {colours} stands for no label of {LABELMAP}; paint with those that it has")
            for code in other_labels.keys() & set(codes):
                importer.leave_out(OTHER_LABEL, f"{other_labels[code]} in {name}")
            importer.add_answer(domain, stem, mask, annotator, where)


def _label_map(archive: Archive, listed: str) -> list[tuple[str, int]]:
    """The labels, background among them, with their colours (R + 256·G + 65536·B) in the order of the file."""
    where, entries = archive.where(listed), list[tuple[str, int]]()
    text = archive.read(listed, 1 << 20).decode("utf-8-sig", errors="replace")
    for line in filter(None, (line.strip() for line in text.splitlines())):
        if line.startswith("#"):
            continue
        name, _, colour = line.partition(":")
        channels = [int(c) if c.isascii() and c.isdigit() else 256 for c in colour.partition(":")[0].split(",")]
        if len(channels) != 3 or max(channels) > 255:
            raise ValueError(f"{where}: {line[:80]!r}; a line is <label>:<red>,<green>,<blue>::")
        entries.append((name, channels[0] | channels[1] << 8 | channels[2] << 16))
    for position, kind in enumerate(("names", "colours")):
        if len({entry[position] for entry in entries}) != len(entries):
            raise ValueError(f"{where}: two labels have equal {kind}; give each its own in CVAT and export again")
    black = [name for name, colour in entries if colour == 0 and name != BACKGROUND]
    if black:
        raise ValueError(f"{where}: {black[0]!r} is black, which means that nobody painted; give it a colour in CVAT")
    return entries


_Table = tuple[dict[int, int], dict[int, str]]
"""Contract values by code, and, by code, the names of the labels that the domain does not have."""


def _table(listed_labels: list[tuple[str, int]], space: LabelSpace, listed: bool, where: Path) -> _Table:
    """The table of codes, which are colours or, for a picture of one channel, indices of the list.

    Black means that nobody painted, whether the list says so or not.
    """
    if BACKGROUND in space.names:
        raise ValueError(f"{where}: {_BACKGROUND_CLASS}")
    if listed and (not listed_labels or listed_labels[0][0] != BACKGROUND):
        raise ValueError(f"{where}: one channel, and {LABELMAP} does not begin with {BACKGROUND}; export in colours")
    values = labels(space) | {BACKGROUND: NOT_LABELLED}
    codes = [(place if listed else colour, name) for place, (name, colour) in enumerate(listed_labels)]
    table = {0: NOT_LABELLED} | {code: values.get(name, NOT_LABELLED) for code, name in codes}
    return table, {code: name for code, name in codes if name not in values}
