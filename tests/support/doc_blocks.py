"""The code blocks of the documentation's pages."""

from __future__ import annotations

import re
import shlex
from typing import NamedTuple

from source import ROOT

DOCS = ROOT / "docs"
BLOCK = re.compile(r"^```(?P<kind>\w+)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    kind: str
    title: str | None
    text: str


def blocks(page: str) -> list[Block]:
    code_blocks = [Block(**match.groupdict()) for match in BLOCK.finditer((DOCS / page).read_text(encoding="utf-8"))]
    assert code_blocks
    return code_blocks


def commands(block: Block) -> list[list[str]]:
    return [shlex.split(line.removeprefix("$ "), comments=True) for line in block.text.splitlines() if line[:2] == "$ "]
