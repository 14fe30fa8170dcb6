"""The class guidelines that a team writes: `guidelines.md` in a folder, with example pictures beside it.

A line `# NAME` begins the section of a class. Paragraphs, `## headings`, `- items` and lines `![what it shows](FILE)`
are known. Everything else is plain text. The page inserts all of it as text and never as markup.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from fewmask.data.domain import Domain
from fewmask.labels import VOID
from fewmask.paths import below

FILE = "guidelines.md"
LONGEST = 1 << 20
"""The most bytes of the file."""
LARGEST_PICTURE = 16 << 20
# The kinds of pictures by ending: the media type, and the bytes at the beginning of each file. A picture in SVG could
# hold a script.
JPEG = ("image/jpeg", re.compile(rb"\xff\xd8\xff"))
KINDS = {
    ".png": ("image/png", re.compile(rb"\x89PNG\r\n\x1a\n")),
    ".jpg": JPEG,
    ".jpeg": JPEG,
    ".webp": ("image/webp", re.compile(rb"RIFF....WEBP", re.DOTALL)),
}
HEADING = re.compile(r"(#{1,6})\s+(.*?)(?:\s+#+)?")
ITEM = re.compile(r"[-*]\s+(.*)")
PICTURE = re.compile(r"!\[(.*)\]\((.*)\)")

Kind = Literal["text", "heading", "item", "picture"]


@dataclass(frozen=True)
class Block:
    kind: Kind
    text: str
    """Of a picture what it shows."""
    picture: int | None = None
    """The index of a picture in `Guidelines.pictures`."""


@dataclass(frozen=True)
class Section:
    title: str
    classes: Sequence[tuple[str, int]]
    """(domain, value) of the classes that the section is about."""
    blocks: list[Block] = field(default_factory=list)


@dataclass(frozen=True)
class Guidelines:
    introduction: list[Block] = field(default_factory=list)
    """The text before the first class."""
    sections: list[Section] = field(default_factory=list)
    pictures: list[Path] = field(default_factory=list)


class GuidelineFolder:
    """The guidelines in a folder. They are read again for each request, so that changes show without a restart."""

    def __init__(self, folder: Path, domains: Mapping[str, Domain], required: bool = False) -> None:
        """Raises ValueError where `required` guidelines are missing, or where they are not valid."""
        self._folder, self._domains = folder, domains
        if required and not self._file.is_file():
            raise ValueError(f"--guidelines: no file {self._file}; write the guidelines there, or name another folder")
        self.read()

    @property
    def _file(self) -> Path:
        return self._folder / FILE

    def read(self) -> Guidelines:
        """The guidelines; empty where there is no file. Raises ValueError with the line of a mistake."""
        if not self._file.is_file():
            return Guidelines()
        if (size := self._file.stat().st_size) > LONGEST:
            raise ValueError(f"{self._file}: {size:,} bytes; write at most {LONGEST:,}")
        try:
            text = self._file.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(f"{self._file}: {error}; save it in UTF-8") from error
        return self._parse(text)

    def record(self) -> dict[str, Any]:
        """The guidelines as the page gets them, with the classes and colours of all domains."""
        guidelines = self.read()
        return {
            "domains": {n: {"classes": d.space.names, "colours": d.space.colours} for n, d in self._domains.items()},
            "introduction": guidelines.introduction,
            "sections": guidelines.sections,
        }

    def picture(self, number: int) -> tuple[str, bytes] | None:
        """The media type and the bytes of a picture of the guidelines; None where they have no such picture."""
        pictures = self.read().pictures
        if number >= len(pictures):
            return None
        return KINDS[pictures[number].suffix.lower()][0], pictures[number].read_bytes()

    def _parse(self, text: str) -> Guidelines:
        guidelines, titles = Guidelines(), self._titles()
        blocks, continues = guidelines.introduction, False
        for number, raw in enumerate(text.splitlines(), 1):
            line, place = raw.strip(), f"{self._file}:{number}"
            if (match := HEADING.fullmatch(line)) and len(match[1]) == 1:
                if match[2] not in titles:
                    raise ValueError(f"{place}: '# {match[2]}' is no class; write one of {_listed(titles)}, or '##'")
                if any(section.title == match[2] for section in guidelines.sections):
                    raise ValueError(f"{place}: '# {match[2]}' is there twice; write one section for each class")
                guidelines.sections.append(Section(match[2], titles[match[2]]))
                blocks, continues = guidelines.sections[-1].blocks, False
            elif match:
                blocks.append(Block("heading", match[2]))
                continues = False
            elif match := PICTURE.fullmatch(line):
                if not match[1].strip():
                    raise ValueError(f"{place}: a picture without words; write ![what it shows]({match[2]})")
                blocks.append(Block("picture", match[1].strip(), len(guidelines.pictures)))
                guidelines.pictures.append(self._picture(match[2], place))
                continues = False
            elif match := ITEM.fullmatch(line):
                blocks.append(Block("item", match[1]))
                continues = True
            elif line and continues:
                blocks[-1] = Block(blocks[-1].kind, f"{blocks[-1].text} {line}")
            elif line:
                blocks.append(Block("text", line))
                continues = True
            else:
                continues = False
        return guidelines

    def _titles(self) -> dict[str, list[tuple[str, int]]]:
        """The titles that a section may have, with the classes that it is then about.

        A class of one domain among several is named `DOMAIN: CLASS`.
        """
        titles = dict[str, list[tuple[str, int]]]()
        for domain, space in ((name, domain.space) for name, domain in self._domains.items()):
            for value, name in [*enumerate(space.names), (VOID, "void")]:
                titles.setdefault(name, []).append((domain, value))
                titles.setdefault(f"{domain}: {name}", [(domain, value)])
        return titles

    def _picture(self, name: str, place: str) -> Path:
        """The path of a picture, which is one and lies in the folder."""
        try:
            path = below(self._folder, name)
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from error
        if not path.is_file():
            raise ValueError(f"{place}: no picture {path}; put it there, or correct its name")
        if not path.resolve().is_relative_to(self._folder.resolve()):
            raise ValueError(f"{place}: {path} is a link to a file outside of {self._folder}; copy the picture there")
        if path.suffix.lower() not in KINDS:
            raise ValueError(f"{place}: {path.name} ends in none of {', '.join(KINDS)}; save it as one of them")
        if (size := path.stat().st_size) > LARGEST_PICTURE:
            raise ValueError(f"{place}: {path.name} has {size:,} bytes; make it smaller than {LARGEST_PICTURE:,}")
        with path.open("rb") as file:
            if not KINDS[path.suffix.lower()][1].match(file.read(16)):
                raise ValueError(f"{place}: the content of {path.name} is no {path.suffix[1:]}; save it as one")
        return path


def _listed(titles: Mapping[str, object]) -> str:
    names = [name for name in titles if ": " not in name]
    return ", ".join(names[:20]) + (" …" if len(names) > 20 else "")
