"""What can be amiss with an export, or be said otherwise in it: functions that change one that was written.

Shapes: H×W pixels of an image.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from annotating import domain
from PIL import Image

from fewmask.data.pictures import mask_palette

Change = Callable[[Path], None]


def in_json(change: Callable[[Any], None]) -> Change:
    def put(path: Path) -> None:
        data = json.loads(path.read_text(encoding="utf-8"))
        change(data)
        path.write_text(json.dumps(data), encoding="utf-8")

    return put


def in_xml(old: str, new: str) -> Change:
    def put(path: Path) -> None:
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new, 1), encoding="utf-8")

    return put


def in_zip(change: Callable[[dict[str, bytes]], None]) -> Change:
    def put(path: Path) -> None:
        with zipfile.ZipFile(path) as packed:
            files = {name: packed.read(name) for name in packed.namelist()}
        change(files)
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
            for name, data in files.items():
                packed.writestr(name, data)

    return put


def packed_again(files: dict[str, bytes]) -> None:
    """As a Mac's Finder packs a folder: its name comes before all, and its own files lie in between."""
    before = dict(files)
    files.clear()
    for name, data in before.items():
        files[f"export 2/{name}"] = data
        files[f"__MACOSX/export 2/{name.rpartition('/')[0]}/._{name.rpartition('/')[2]}"] = b"\0\5\26\7"
    files["export 2/.DS_Store"] = files["export 2/Thumbs.db"] = files["export 2/SegmentationClass/desktop.ini"] = b"x"


def other_case(files: dict[str, bytes]) -> None:
    for name in list(files):
        files[name.replace("SegmentationClass", "segmentationclass").replace("labelmap", "LabelMap")] = files.pop(name)


def append(key: str, **fields: Any) -> Change:
    """One more entry like the last of a list in JSON, with other fields; without those that are None."""

    def put(data: Any) -> None:
        more = {**data[key][-1], "id": 900, **fields}
        data[key].append({name: value for name, value in more.items() if value is not None})

    return in_json(put)


def result(**fields: Any) -> Change:
    """One more result of the first annotation."""

    def put(data: Any) -> None:
        results = data[0]["annotations"][0]["result"]
        results.insert(0, {**results[0], "id": "more", **fields})

    return in_json(put)


def brush(**fields: Any) -> Change:
    def put(data: Any) -> None:
        results = data[0]["annotations"][0]["result"]
        results.insert(0, {**results[0], "value": {**results[0]["value"], **fields}})

    return in_json(put)


def of_a_car(data: Any) -> None:
    data["categories"].append({"id": 50, "name": "car"})
    data["annotations"].append({**data["annotations"][0], "id": 900, "category_id": 50})


def crowds(data: Any) -> None:
    for annotation in data["annotations"]:
        annotation["iscrowd"] = 1


def moved(old: str, new: str) -> Change:
    """A file or folder of the export somewhere else."""

    def put(path: Path) -> None:
        (path / old).rename(path.with_name("moving"))
        (path / new).parent.mkdir(parents=True, exist_ok=True)
        path.with_name("moving").rename(path / new)

    return put


def files(*names: str) -> Change:
    def put(path: Path) -> None:
        for name in names:
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(b"x")

    return put


def lay_out(name: str, picture: Image.Image) -> Change:
    def put(path: Path) -> None:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        picture.save(path / name)

    return put


def chunks_of(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 8
    while at + 12 <= len(png):
        length = int.from_bytes(png[at : at + 4])
        yield png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        at += 12 + length


def png_of(chunks: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A PNG whose checksums are right, whatever its chunks say."""
    parts = (len(d).to_bytes(4) + kind + d + zlib.crc32(kind + d).to_bytes(4) for kind, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def in_png(change: Callable[[bytes, bytes], Iterable[tuple[bytes, bytes]]]) -> Change:
    """Other chunks in the place of each of the first mask's."""

    def put(path: Path) -> None:
        file = path / "a/labels/a-0.png"
        file.write_bytes(png_of(new for old in chunks_of(file.read_bytes()) for new in change(*old)))

    return put


def recoloured(colours: Mapping[int, tuple[int, int, int]]) -> Change:
    """The first mask with a palette of the entries that its pixels use, with other colours where it is said."""

    def put(path: Path) -> None:
        file = path / "a/labels/a-0.png"
        raw, ours = np.array(Image.open(file)), mask_palette(domain().space)
        used = np.unique(raw).tolist()
        entries = [colours.get(number, tuple(ours[number].tolist())) for number in used]
        picture = Image.fromarray(np.searchsorted(used, raw).astype(np.uint8)).convert("P")
        picture.putpalette(bytes(c for entry in entries for c in entry))
        picture.save(file)

    return put


def cut(path: Path) -> None:
    files_of = sorted(path.rglob("*.png")) if path.is_dir() else [path]
    data = files_of[0].read_bytes()
    files_of[0].write_bytes(data[: len(data) * 2 // 3])
