"""CVAT: "CVAT for images 1.1" (XML) and "Segmentation mask 1.1" (zip), both ways. See docs/formats.md.

Shapes: H×W pixels of an image · h×w pixels of a box.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO
from xml.sax.saxutils import escape, quoteattr

import numpy as np
from PIL import Image

from fewmask.annotation.archive import MAX_TEXT, Archive, Element, read_bytes, xml_elements
from fewmask.annotation.facts import Question
from fewmask.annotation.inbox import Import, Inbox
from fewmask.annotation.ledger import Ledger
from fewmask.annotation.pixels import fill_polygon, recode
from fewmask.annotation.rle import counts, positions
from fewmask.annotation.tasks import Part, guesses, label_colours, labels, parts, tasks
from fewmask.data.domain import Domain
from fewmask.data.reading import decode_colours, png_size
from fewmask.files import write_atomically, write_json
from fewmask.labels import NOT_LABELLED, LabelSpace, Mask
from fewmask.paths import below

ANNOTATIONS, LABELMAP = "annotations.xml", "labelmap.txt"
CLASSES, LIST = "SegmentationClass", "ImageSets/Segmentation/default.txt"
BACKGROUND = "background"
"""What "Segmentation mask 1.1" calls pixels on which nobody painted."""


def write_questions(
    ledger: Ledger,
    domains: Mapping[str, Domain],
    folder: Path,
    number: int | None = None,
    annotator: str | None = None,
) -> list[Question]:
    """Write the open questions of a round, or of all, for CVAT; returns them.

    For each domain `<domain>/labels.json` for the raw label editor, the pictures to upload, and the guesses to upload
    as annotations: `<domain>/annotations.xml` and, unless a class is called "background", `<domain>/masks.zip`.
    """
    questions = ledger.questions(number, open_only=True, annotator=annotator)
    for domain, asked in tasks(ledger, domains, questions):
        root = below(folder, domain.name)
        for task in asked:
            task.write_pictures(root)
        write_json(root / "labels.json", label_editor(domain.space))
        regions = ((task.stem, task.size, (part for _, part in task.guess_parts())) for task in asked)
        _write_xml(root / ANNOTATIONS, domain.space, regions)
        if BACKGROUND not in domain.space.names:
            write_masks(root / "masks.zip", domain.space, guesses(asked))
    return questions


def label_editor(space: LabelSpace) -> list[dict[str, Any]]:
    """The labels as CVAT's raw label editor takes them: no two colours are alike, and none is the background's."""
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

    Raises ValueError for a class "background": the format could not tell it from what nobody painted.
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


def read_answers(ledger: Ledger, domains: Mapping[str, Domain], path: Path, annotator: str) -> Import:
    """Take the masks and polygons of an export of CVAT, XML or zip, as this annotator's answers, all or none.

    Where shapes overlap, that of the higher z_order wins, and of the same the later. Raises one ValueError that lists
    every problem.
    """
    inbox = Inbox(ledger, domains, "cvat")
    with inbox.problems():
        if path.suffix.lower() == ".xml":
            _read_xml(inbox, read_bytes(path, MAX_TEXT), path, annotator)
        else:
            with Archive(path) as archive:
                if ANNOTATIONS in archive.names:
                    _read_xml(inbox, archive.read(ANNOTATIONS), archive.where(ANNOTATIONS), annotator)
                elif LABELMAP in archive.names:
                    _read_masks(inbox, archive, annotator)
                else:
                    raise ValueError(
                        f'{path}: neither {ANNOTATIONS} nor {LABELMAP} in it; export as "CVAT for images 1.1" or as '
                        '"Segmentation mask 1.1"'
                    )
    return inbox.save(f'{path}: no images in it; export as "CVAT for images 1.1" or "Segmentation mask 1.1"')


def _read_xml(inbox: Inbox, data: bytes, where: Path, annotator: str) -> None:
    for element, inside in xml_elements(data, where, "image", refused=("track",)):
        with inbox.problems():
            name = _attribute(element, "name", f"{where}: an image")
            said = f"{where}: image {name[:200]!r}"
            domain, stem = inbox.find(name, said)
            size = inbox.size(domain, stem, said, (_number(element, "height", said), _number(element, "width", said)))
            shapes = [shape for shape in inside if shape[0] != "attribute"]
            shapes.sort(key=lambda shape: _number(shape, "z_order", said, 0))
            mask = np.full(size, NOT_LABELLED, dtype=np.uint8)
            for shape in shapes:
                _paint(shape, mask, domain.space, said)
            inbox.take(domain, stem, mask, annotator, said)


def _paint(shape: Element, mask: Mask, space: LabelSpace, where: str) -> None:
    tag, values = shape[0], labels(space)
    label = _attribute(shape, "label", where)
    said = f"{where}, {tag} {label[:60]!r}"
    if tag not in ("mask", "polygon"):
        raise ValueError(f"{said}: only masks and polygons are read; draw it as one of them, or remove it")
    if label not in values:
        raise ValueError(f"{said}: no such label, there are {', '.join(values)}; label it anew")
    try:
        if tag == "polygon":
            points = [pair.split(",") for pair in _attribute(shape, "points", said).split(";")]
            fill_polygon(np.array([(float(x), float(y)) for x, y in points]), mask, values[label])
        else:
            left, top, w, h = (_number(shape, key, said) for key in ("left", "top", "width", "height"))
            if not (0 <= left < left + w <= mask.shape[1] and 0 <= top < top + h <= mask.shape[0]):
                raise ValueError(f"{w}×{h} pixels at column {left}, row {top}: not in its image")
            runs = np.array(_attribute(shape, "rle", said).split(","), dtype=np.int64)
            y, x = np.divmod(positions(runs, w * h), w)
            mask[top + y, left + x] = values[label]
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{said}: {error}; export it again") from None


def _attribute(element: Element, key: str, where: str) -> str:
    if key not in element[1]:
        raise ValueError(f'{where}: {element[0]} without {key}; export it again as "CVAT for images 1.1"')
    return element[1][key]


def _number(element: Element, key: str, where: str, default: int | None = None) -> int:
    text = str(default) if default is not None and key not in element[1] else _attribute(element, key, where)
    try:
        return int(text[:20])
    except ValueError:
        raise ValueError(f"{where}: {key} {text[:20]!r} is no whole number; export it again") from None


def _read_masks(inbox: Inbox, archive: Archive, annotator: str) -> None:
    known, tables = _label_map(archive), dict[tuple[str, bool], dict[int, int]]()
    for name in archive.names:
        if not name.startswith(f"{CLASSES}/"):
            continue
        with inbox.problems():
            said = archive.where(name)
            if not name.endswith(".png"):
                raise ValueError(f"{said}: not a PNG by its name; export the archive again")
            domain, stem = inbox.find(name.removeprefix(f"{CLASSES}/").removesuffix(".png"), said)
            data = archive.read(name)
            inbox.size(domain, stem, said, png_size(data, said))
            picture = decode_colours(data, said)
            kind = domain.name, picture.ndim == 2
            if kind not in tables:
                tables[kind] = _table(known, domain.space, kind[1], said)
            inbox.take(domain, stem, _values(picture, tables[kind], said), annotator, said)


def _label_map(archive: Archive) -> list[tuple[str, int]]:
    """The labels with their colours (R + 256·G + 65536·B), in the order of the file; background is one of them."""
    where, found = archive.where(LABELMAP), list[tuple[str, int]]()
    text = archive.read(LABELMAP, 1 << 20).decode("utf-8-sig", errors="replace")
    for line in filter(None, (line.strip() for line in text.splitlines())):
        if line.startswith("#"):
            continue
        name, _, rest = line.partition(":")
        channels = [int(c) if c.isascii() and c.isdigit() else 256 for c in rest.partition(":")[0].split(",")]
        if len(channels) != 3 or max(channels) > 255:
            raise ValueError(f"{where}: {line[:80]!r}; a line is <label>:<red>,<green>,<blue>::")
        found.append((name, channels[0] | channels[1] << 8 | channels[2] << 16))
    for position, kind in enumerate(("names", "colours")):
        if len({entry[position] for entry in found}) != len(found):
            raise ValueError(f"{where}: two labels have equal {kind}; give each its own in CVAT and export again")
    black = [name for name, colour in found if colour == 0 and name != BACKGROUND]
    if black:
        raise ValueError(f"{where}: {black[0]!r} is black, as is what nobody painted; give it a colour in CVAT")
    return found


def _table(known: list[tuple[str, int]], space: LabelSpace, listed: bool, where: Path) -> dict[int, int]:
    """Contract values by colour or, where a picture has one channel, by place in the list.

    Black is what nobody painted, whether the list says so or not.
    """
    if BACKGROUND in space.names:
        raise ValueError(f"{where}: {_BACKGROUND_CLASS}")
    if listed and (not known or known[0][0] != BACKGROUND):
        raise ValueError(f"{where}: one channel, and {LABELMAP} does not begin with {BACKGROUND}; export in colours")
    values = labels(space) | {BACKGROUND: NOT_LABELLED}
    codes = ((place if listed else colour, name) for place, (name, colour) in enumerate(known))
    return {0: NOT_LABELLED} | {code: values[name] for code, name in codes if name in values}


def _values(picture: np.ndarray, table: Mapping[int, int], where: Path) -> Mask:
    """The contract values (H,W) of a picture (H,W) or (H,W,3)."""
    values, lost = recode(picture, table)
    if lost:
        unknown = ", ".join(
            f"#{code.to_bytes(3, 'little').hex()}" if picture.ndim == 3 else str(code) for code in lost[:20]
        )
        raise ValueError(f"{where}: {unknown} stands for no label of the domain; see {LABELMAP}, and paint with these")
    return values
