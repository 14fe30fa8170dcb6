"""Files from strangers: what could lead elsewhere, fill the memory or mean two things is refused, and nothing is kept.

Shapes: H×W pixels of an image.
"""

from __future__ import annotations

import io
import json
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from annotating import SIZE, refused
from PIL import Image

from fewmask.annotation import archive as zips
from fewmask.annotation import coco, cvat, label_studio
from fewmask.annotation.archive import Archive
from fewmask.annotation.ledger import Ledger
from fewmask.data.domain import Domain
from fewmask.formats import texts
from fewmask.formats.texts import field, json_items, read_json, xml_elements

ANNOTATIONS = '<annotations><image id="0" name="a-0.png" width="24" height="20"></image></annotations>'


def entry(name: str, **changes: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.compress_type = zipfile.ZIP_DEFLATED
    for key, value in changes.items():
        setattr(info, key, value)
    return info


def packed(path: Path, *files: tuple[zipfile.ZipInfo | str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("annotations.xml", ANNOTATIONS)
        for name, data in files:
            file.writestr(name, data)
    return path


def overwrite(path: Path, signature: bytes, offset: int, value: bytes) -> None:
    """Change bytes of the last record of a kind."""
    data = bytearray(path.read_bytes())
    at = data.rfind(signature) + offset
    data[at : at + len(value)] = value
    path.write_bytes(data)


LIST, END = b"PK\x01\x02", b"PK\x05\x06"
LINK = entry("images/a.png", external_attr=(stat.S_IFLNK | 0o777) << 16)
DEVICE = entry("images/a.png", external_attr=(stat.S_IFCHR | 0o666) << 16)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (("../a.png", b"x"), "'../a.png': a path that leads out of the archive"),
        (("images/../../a.png", b"x"), "a path that leads out of the archive"),
        (("/etc/passwd", b"x"), "'/etc/passwd': an absolute path"),
        (("C:/a.png", b"x"), "'C:/a.png': an absolute path"),
        (("images\\..\\a.png", b"x"), "a path that leads out of the archive"),
        (("images\\a.png", b"x"), "not a plain name"),
        (("a\nb.png", b"x"), "not a plain name"),
        ((LINK, b"/etc/passwd"), "'images/a.png': a link or a device, not a file"),
        ((DEVICE, b""), "a link or a device, not a file"),
        ((entry("a.png", compress_type=zipfile.ZIP_LZMA), b"x"), "packed by method 14, neither stored nor deflated"),
        (("a.png", bytes(20 << 20)), "more than 200 times"),
    ],
)
def test_names_and_kinds_that_no_tool_writes(
    ledger: Ledger, domains: dict[str, Domain], tmp_path: Path, file: tuple[zipfile.ZipInfo | str, bytes], message: str
) -> None:
    path = packed(tmp_path / "e.zip", file)
    before = sorted(tmp_path.rglob("*"))
    refused(
        ledger,
        lambda: cvat.read_answers(ledger, domains, path, "ann"),
        f"{path}: refused:",
        message,
        "export the archive",
    )
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_twice_and_many_faults(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'annotations\.xml': there twice"):
        Archive(packed(tmp_path / "e.zip", ("annotations.xml", b"<other/>")))
    many = [(f"/{i}.png", b"") for i in range(30)]
    with pytest.raises(ValueError, match=r"'/19\.png': an absolute path and 10 more"):
        Archive(packed(tmp_path / "e.zip", *many))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("MAX_FILE", 100, "bytes, more than 100; export fewer images"),
        ("MAX_MEMBERS", 2, "3 files, more than 2; export fewer images"),
        ("MAX_MEMBER", 50, r"'annotations\.xml': \d+ bytes, more than 50"),
        ("MAX_UNPACKED", 150, r"\d+ bytes when unpacked, more than 150"),
        ("MAX_DIRECTORY", 20, r"a list of files of \d+ bytes, more than 20"),
    ],
)
def test_archives_that_are_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: int, message: str
) -> None:
    path = packed(tmp_path / "e.zip", ("a.png", b"x" * 40), ("b.png", b"y" * 40))
    with Archive(path) as archive:
        assert archive.names == ["annotations.xml", "a.png", "b.png"]
    monkeypatch.setattr(zips, name, value)
    with pytest.raises(ValueError, match=message):
        Archive(path)


def test_sizes_that_are_not_what_the_list_says(tmp_path: Path) -> None:
    """The list says less, or more, than there is; the memory never holds more than it says."""
    content = b"<annotations>" + b" " * 5000 + b"</annotations>"
    for size in (100, 6000):
        path = packed(tmp_path / "e.zip", ("a.xml", content))
        overwrite(path, LIST, 24, struct.pack("<I", size))
        with Archive(path) as archive, pytest.raises(ValueError, match=r"e\.zip/a\.xml: "):
            archive.read("a.xml")
    path = packed(tmp_path / "e.zip", ("a.xml", content))
    with Archive(path) as archive, pytest.raises(ValueError, match=r"a\.xml: 5027 bytes, more than 100"):
        archive.read("a.xml", limit=100)


def test_archives_that_are_damaged(ledger: Ledger, domains: dict[str, Domain], tmp_path: Path) -> None:
    path = packed(tmp_path / "e.zip")
    whole = path.read_bytes()
    for broken in (whole[:-30], b"PK" + bytes(50), b"", whole[:40] + b"\xff" * 20 + whole[60:]):
        path.write_bytes(broken)
        refused(ledger, lambda: cvat.read_answers(ledger, domains, path, "ann"), str(path), "again")
    refused(
        ledger, lambda: cvat.read_answers(ledger, domains, tmp_path / "no.zip", "ann"), "cannot be read (No such file"
    )
    packed(path)
    overwrite(path, LIST, 8, struct.pack("<H", 1))
    refused(ledger, lambda: cvat.read_answers(ledger, domains, path, "ann"), "'annotations.xml': encrypted")
    path.write_bytes(whole[: whole.rfind(END)] + b"PK\x06\x07" + bytes(16) + whole[whole.rfind(END) :])
    refused(ledger, lambda: cvat.read_answers(ledger, domains, path, "ann"), "zip64")


def png_that_claims(height: int, width: int) -> bytes:
    """A PNG of a few bytes whose header promises more."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize(
    ("png", "message"),
    [
        (png_that_claims(60_000, 60_000), "claims 60000×60000 pixels"),
        (png_that_claims(2000, 2000), "2000×2000 pixels, its image is 24×20"),
        (png_that_claims(*SIZE), "truncated, rows are missing"),
        (png_that_claims(*SIZE)[:-20], "truncated after"),
        (b"GIF89a", "not a PNG"),
    ],
)
def test_pictures_are_refused_before_they_are_unpacked(
    ledger: Ledger, domains: dict[str, Domain], tmp_path: Path, png: bytes, message: str
) -> None:
    listed = b"background:0,0,0::\nvoid:1,2,3::\n"
    path = tmp_path / "e.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("labelmap.txt", listed)
        archive.writestr("SegmentationClass/a-0.png", png)
    refused(
        ledger, lambda: cvat.read_answers(ledger, domains, path, "ann"), "e.zip/SegmentationClass/a-0.png: ", message
    )
    (tmp_path / "p").mkdir()
    (tmp_path / "p/a-0.png").write_bytes(png)
    data = {
        "images": [{"id": 1, "file_name": "a-0.png", "width": 24, "height": 20}],
        "categories": [],
        "annotations": [{"image_id": 1, "file_name": "a-0.png", "segments_info": []}],
    }
    (tmp_path / "p.json").write_text(json.dumps(data))
    refused(ledger, lambda: coco.read_answers(ledger, domains, tmp_path / "p.json", "ann"), "p/a-0.png: ", message)


# ── XML ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

LAUGHS = '<!DOCTYPE a [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]><annotations>&b;</annotations>'
FILE = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotations>&x;</annotations>'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LAUGHS, "declares a document type"),
        (FILE, "declares a document type"),
        ('<!DOCTYPE a SYSTEM "http://localhost/a.dtd"><annotations/>', "declares a document type"),
        ("<annotations>&b;</annotations>", "not XML (undefined entity"),
        ("<a>" * 100 + "</a>" * 100, "nested more than 64 deep"),
        (ANNOTATIONS[:-5], "not XML (unclosed token"),
        ("", "not XML (no element found"),
        ("a,b,c", "not XML (syntax error"),
        ('<image a="1" a="2"/>', "not XML (duplicate attribute"),
    ],
)
def test_xml_that_no_tool_writes(
    ledger: Ledger, domains: dict[str, Domain], tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "e.xml"
    path.write_text(text)
    refused(ledger, lambda: cvat.read_answers(ledger, domains, path, "ann"), f"{path}: ", message)


def test_elements_come_one_at_a_time_across_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "CHUNK", 7)
    text = '<x><meta><name>é</name></meta><i n="0"><m a="1"/><p><q/></p></i><o/><i n="1"/></x>'
    elements = list(xml_elements(text.encode(), Path("x")))
    assert elements == [
        (("meta", {}), [("name", {})]),
        (("i", {"n": "0"}), [("m", {"a": "1"}), ("p", {})]),
        (("o", {}), []),
        (("i", {"n": "1"}), []),
    ]


# ── JSON ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("chunk", [1, 2, 3, 17, 1 << 20])
def test_a_list_is_read_item_by_item(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(texts, "CHUNK", chunk)
    items = [{"a": [1, {"b": "]},{ é"}], "n": i} for i in range(5)]
    path = tmp_path / "e.json"
    for text in (json.dumps(items), json.dumps(items, indent=3), "\ufeff " + json.dumps(items) + "\n\n"):
        path.write_text(text, encoding="utf-8")
        assert list(json_items(path)) == items
    for text in ("[]", " [ ] "):
        path.write_text(text)
        assert list(json_items(path)) == []


NOT_LISTS = [
    "",
    "{}",
    "[",
    "[{}",
    "[{},",
    "[{},]",
    "[{} {}]",
    "[,{}]",
    "[{}] x",
    "[1]",
    '["a"]',
    "[{}]]",
    "[[]]",
    '[{"a": }]',
]


@pytest.mark.parametrize("text", NOT_LISTS)
@pytest.mark.parametrize("chunk", [1, 1 << 20])
def test_what_is_no_list_of_objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, chunk: int) -> None:
    monkeypatch.setattr(texts, "CHUNK", chunk)
    path = tmp_path / "e.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"e\.json: not a list of JSON objects that is whole"):
        list(json_items(path))


READERS: dict[str, tuple[Callable[..., object], str]] = {
    "label-studio": (label_studio.read_answers, '[{{"id": 1, "x": {}}}]'),
    "coco": (coco.read_answers, '{{"images": [], "annotations": [], "categories": [], "x": {}}}'),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("[" * 200_000 + "]" * 200_000, "nested too deeply"),
        ('{"a": 1, "b": 2, "a": 3}', "a key twice among a, b"),
        ("NaN", "NaN is no number"),
        ("1" * 5000, "xceeds the limit"),
    ],
)
def test_json_that_no_tool_writes(
    ledger: Ledger, domains: dict[str, Domain], tmp_path: Path, reader: str, value: str, message: str
) -> None:
    read, text = READERS[reader]
    path = tmp_path / "e.json"
    path.write_text(text.format(value))
    refused(ledger, lambda: read(ledger, domains, path, "ann"), f"{path}: ", message)


def test_json_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "e.json"
    path.write_text('{"a": "' + "x" * 2000 + '"}')
    assert len(read_json(path)["a"]) == 2000
    monkeypatch.setattr(texts, "MAX_TEXT", 1000)
    with pytest.raises(ValueError, match=r"e\.json: more than 1000 bytes; export fewer images"):
        read_json(path)
    monkeypatch.setattr(texts, "CHUNK", 100)
    path.write_text('[{"a": 1}, {"a": "' + "x" * 5000 + '"}]')
    with pytest.raises(ValueError, match="each of at most 1000 characters"):
        list(json_items(path))
    path.write_text("[" + ",".join(['{"a": 1}'] * 1000) + "]")
    assert len(list(json_items(path))) == 1000  # many small ones are no large one


@pytest.mark.parametrize("read", [read_json, lambda path: list(json_items(path))])
def test_json_that_is_no_text(tmp_path: Path, read: Callable[[Path], object]) -> None:
    path = tmp_path / "e.json"
    path.write_bytes(b'[{"a": "\xff"}]')
    with pytest.raises(ValueError, match=r"e\.json: not UTF-8"):
        read(path)
    with pytest.raises(ValueError, match="cannot be read"):
        read(tmp_path / "none.json")
    path.write_text('[{"a": 1}' if read is not read_json else "[1]")
    with pytest.raises(ValueError, match=r"e\.json: (holds a list, not an object|not a list of JSON)"):
        read(path)


def test_fields_are_of_their_kind() -> None:
    record = {"a": 1, "b": "x", "c": None, "d": True, "e": [], "f": 0.5}
    assert field(record, "a", int, "w") == 1
    for key, kind, message in (
        ("z", int, "w: z is missing, not a whole number; export it again"),
        ("c", str, "w: c is null, not text"),
        ("d", int, "w: d is True, not a whole number"),
        ("e", dict, "w: e is a list, not an object"),
        ("f", int, r"w: f is 0\.5, not a whole number"),
    ):
        with pytest.raises(ValueError, match=message):
            field(record, key, kind, "w")


def test_a_good_picture_beside_a_bad_one_changes_nothing(
    ledger: Ledger, domains: dict[str, Domain], tmp_path: Path
) -> None:
    good = io.BytesIO()
    Image.fromarray(np.full((*SIZE, 3), (1, 2, 3), np.uint8)).save(good, "PNG")
    path = tmp_path / "e.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("labelmap.txt", "background:0,0,0::\nvoid:1,2,3::\n")
        archive.writestr("SegmentationClass/a-2.png", good.getvalue())
        archive.writestr("SegmentationClass/a-0.png", good.getvalue()[:-30])
    refused(ledger, lambda: cvat.read_answers(ledger, domains, path, "ann"), "SegmentationClass/a-0.png: truncated")
