"""The annotation tools by name. Each is a module with the two functions of `Tool`.

A tool of an installed package has a third function, `recognises(path)`: whether the tool wrote the file at a path.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Protocol

from fewmask.annotation import coco, cvat, folder, label_studio
from fewmask.annotation.importer import Import, Mode
from fewmask.annotation.ledger import Ledger
from fewmask.annotation.questions import Question
from fewmask.data.domain import Domain
from fewmask.formats.texts import CHUNK
from fewmask.plugins import with_installed


class Tool(Protocol):
    """Writes questions and reads answers."""

    @property
    def write_questions(self) -> WriteQuestions: ...

    @property
    def read_answers(self) -> ReadAnswers: ...


class WriteQuestions(Protocol):
    def __call__(
        self,
        ledger: Ledger,
        domains: Mapping[str, Domain],
        folder: Path,
        number: int | None = None,
        annotator: str | None = None,
    ) -> list[Question]:
        """Write the open questions of a round, or of all rounds, into a folder. Returns the questions.

        With `annotator`, questions that this annotator has answered are left out.
        """
        ...


class ReadAnswers(Protocol):
    def __call__(
        self, ledger: Ledger, domains: Mapping[str, Domain], path: Path, annotator: str, mode: Mode = "open"
    ) -> Import:
        """Import all answers of a tool, or none if any is invalid.

        `annotator` gave the answers for which the tool names nobody. `mode` says which questions are answered. An
        answer that the ledger has is not added again. Content that is no answer is left out, counted and named. Raises
        one ValueError that lists every problem.
        """
        ...


TOOLS: Mapping[str, Tool] = {"folder": folder, "label-studio": label_studio, "cvat": cvat, "coco": coco}


@cache
def known_tools() -> dict[str, Tool]:
    """`TOOLS` and the tools of installed packages. Raises ValueError for a package whose tool cannot be used."""
    return with_installed("tool", TOOLS)


def recognise(path: Path) -> str:
    """The tool that wrote the file or folder at a path. Raises ValueError when no tool reads it."""
    for name, tool in known_tools().items():
        if name not in TOOLS and tool.recognises(path):  # type: ignore[attr-defined]
            return name
    ending = path.suffix.lower()
    if path.is_dir() or not ending:
        return "folder"
    if ending in (".xml", ".zip"):
        return "cvat"
    if path.name == folder.QUESTIONS:
        raise ValueError(
            f"{path}: holds the questions, not the answers; give the folder that was painted in, {path.parent}"
        )
    if ending == ".json":
        try:
            with open(path, encoding="utf-8-sig", errors="replace") as file:
                first = next((part for part in iter(lambda: file.read(CHUNK), "") if part.strip()), "")
                return "label-studio" if first.lstrip().startswith("[") else "coco"
        except OSError as error:
            raise ValueError(f"{path}: cannot be read ({error.strerror}); fix the path or its permissions") from None
    raise ValueError(
        f"{path}: no tool reads a file of this name; give the folder that was painted in, the JSON of Label Studio or "
        "COCO, or the XML or zip of CVAT"
    )
