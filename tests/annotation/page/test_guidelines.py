"""Class guidelines: what a team writes in a folder, and what the page's server makes of it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pages
import pytest
from fastapi.testclient import TestClient
from pageclient import TOKEN, client_of, get

from fewmask.annotation.page import auth
from fewmask.annotation.page.guidelines import LONGEST, Block, GuidelineFolder
from fewmask.annotation.page.server import serve
from fewmask.annotation.page.service import LabellingService, Run
from fewmask.data.domain import Domain
from fewmask.labels import VOID

TEXT = """Ask when you are not sure.

# road
What cars drive on,
up to the kerb.
## Not road
- lay-bys
  with a kerb
* tram lines on grass

![a road in the rain](rain.png)

# streets: car ##
With its mirrors.
# void
Mirrors of shops.
"""


@pytest.fixture(scope="module")
def domain() -> Domain:
    return pages.streets()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "guidelines"
    folder.mkdir()
    picture(folder / "rain.png")
    (folder / "guidelines.md").write_text(TEXT)
    return folder


@pytest.fixture
def client(tmp_path: Path, folder: Path, domain: Domain) -> Iterator[TestClient]:
    service = LabellingService(pages.ask(tmp_path, domain, "points"))
    yield client_of(service)
    service.close()


def picture(path: Path) -> bytes:
    path.parent.mkdir(exist_ok=True, parents=True)
    assert cv2.imwrite(str(path), np.full((20, 30, 3), 90, np.uint8))
    return path.read_bytes()


def test_sections_headings_items_and_pictures(folder: Path, domain: Domain) -> None:
    names = domain.space.names
    read = GuidelineFolder(folder, {"streets": domain, "village": replace(domain, name="village")}).read()
    assert read.introduction == [Block("text", "Ask when you are not sure.")]
    road, car, void = read.sections
    at = names.index("road")
    assert (road.title, road.classes) == ("road", [("streets", at), ("village", at)])
    assert road.blocks == [
        Block("text", "What cars drive on, up to the kerb."),
        Block("heading", "Not road"),
        Block("item", "lay-bys with a kerb"),
        Block("item", "tram lines on grass"),
        Block("picture", "a road in the rain", 0),
    ]
    assert (car.title, car.classes) == ("streets: car", [("streets", names.index("car"))])
    assert void.classes == [("streets", VOID), ("village", VOID)]
    assert read.pictures == [folder / "rain.png"]


def test_the_page_gets_what_the_files_hold_now(client: TestClient, folder: Path) -> None:
    assert [section["title"] for section in get(client, "guidelines")["sections"]] == ["road", "streets: car", "void"]
    reply = client.get(f"/{TOKEN}/api/guidelines/pictures/0")
    assert (reply.content, reply.headers["content-type"]) == ((folder / "rain.png").read_bytes(), "image/png")
    for path in ("guidelines", "static/guidelines.js", "api/guidelines", "api/guidelines/pictures/0"):
        reply = client.get(f"/{TOKEN}/{path}")
        assert reply.status_code == 200
        assert reply.headers.items() >= {k.lower(): v for k, v in auth.HEADERS.items()}.items()
        assert client.get(f"/{path}").status_code == 403
    (folder / "guidelines.md").write_text("# void\nNothing else.")
    assert [section["title"] for section in get(client, "guidelines")["sections"]] == ["void"]
    shutil.rmtree(folder)
    assert get(client, "guidelines")["sections"] == []


@pytest.mark.parametrize(
    "name", ["1", "99", "-1", "rain.png", "..%2fguidelines.md", "../ledger.sqlite", "guidelines.md", "%2fetc%2fpasswd"]
)
def test_no_other_file_is_served(client: TestClient, name: str) -> None:
    assert client.get(f"/{TOKEN}/api/guidelines/pictures/{name}").status_code in (404, 422)


def test_a_mistake_that_is_made_meanwhile_is_shown_with_its_line(client: TestClient, folder: Path) -> None:
    with (folder / "guidelines.md").open("a") as file:
        file.write("# raod\n")
    reply = client.get(f"/{TOKEN}/api/guidelines")
    assert reply.status_code == 409
    assert "guidelines.md:17: '# raod' is no class; write one of <img" in reply.json()["error"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\n# raod\n", r"guidelines.md:2: '# raod' is no class; write one of .*road"),
        ("# road\n# road", r":2: '# road' is there twice"),
        ("![](rain.png)", r":1: a picture without words; write !\[what it shows\]\(rain.png\)"),
        ("![a](../ledger.sqlite)", r":1: .*begins with a dot"),
        ("![a](/etc/passwd)", r":1: .*not a path below"),
        ("![a](https://example.org/a.png)", r":1: .*not a path below"),
        ("![a](missing.png)", r":1: no picture .*missing.png; put it there"),
        ("![a](link.png)", r":1: .*link.png is a link to a file outside of"),
        ("![a](drawing.svg)", r":1: drawing.svg ends in none of .png"),
        ("![a](text.png)", r":1: the content of text.png is no png"),
        ("x" * (LONGEST + 1), r"1,048,577 bytes; write at most 1,048,576"),
        (b"\xff\xfeo", r"save it in UTF-8"),
    ],
)
def test_mistakes_are_told_with_file_line_and_fix(
    folder: Path, domain: Domain, text: str | bytes, message: str
) -> None:
    picture(folder.parent / "outside.png")
    (folder / "link.png").symlink_to(folder.parent / "outside.png")
    (folder / "drawing.svg").write_text("<svg/>")
    (folder / "text.png").write_text("<script>")
    (folder / "guidelines.md").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=message):
        GuidelineFolder(folder, {"streets": domain})


def test_a_class_of_any_name_has_a_section(folder: Path, domain: Domain) -> None:
    odd = ("C#", "a: b", "- item", "![x](y.png)", "..")
    names = (*odd, *domain.space.names[len(odd) :])
    odd_domain = replace(domain, space=replace(domain.space, names=names))
    (folder / "guidelines.md").write_text("".join(f"# {name}\nabout it\n" for name in odd))
    read = GuidelineFolder(folder, {"streets": odd_domain}).read()
    assert [(s.title, [b.text for b in s.blocks]) for s in read.sections] == [(name, ["about it"]) for name in odd]


def test_a_folder_that_is_named_has_guidelines(tmp_path: Path, domain: Domain) -> None:
    run = pages.ask(tmp_path, domain, "points")
    with pytest.raises(ValueError, match=r"--guidelines: no file .*elsewhere/guidelines.md; write the guidelines"):
        serve(tmp_path, run, guidelines=tmp_path / "elsewhere", tell=pytest.fail)
    assert isinstance(run, Run)
