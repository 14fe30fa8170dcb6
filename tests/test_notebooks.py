"""The notebooks are those of today's tutorials, and Jupyter can read them."""

from __future__ import annotations

import json
import os
import re
import runpy
from typing import Any

import nbformat
import pytest
from doc_blocks import blocks
from source import ROOT

NOTEBOOKS = ROOT / "notebooks"
NAMES = ["own-data", "campaign"]


def read(name: str) -> Any:
    return nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)


def test_every_notebook_is_checked() -> None:
    assert sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")) == sorted(NAMES)
    assert runpy.run_path(str(NOTEBOOKS / "generate.py"))["NAMES"] == tuple(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_valid_and_what_make_notebooks_writes_now(name: str) -> None:
    nbformat.validate(json.loads((NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8")))
    generated = runpy.run_path(str(NOTEBOOKS / "generate.py"))["notebook_of"](name)
    assert read(name) == generated, f"notebooks/{name}.ipynb differs from the tutorial; run: make notebooks"


@pytest.mark.parametrize("name", NAMES)
def test_the_code_cells_are_the_files_commands_and_scripts_of_the_tutorial(name: str) -> None:
    expected: list[str] = []
    for block in blocks(f"tutorials/{name}.md"):
        if block.title:
            expected.append(f"%%writefile {block.title}\n{block.text}")
        elif block.kind == "console":
            lines = block.text.splitlines(keepends=True)
            expected.append("".join("!" + line[2:] for line in lines if line.startswith("$ ")))
        elif block.kind == "python":
            expected.append(block.text)
    code = [cell.source for cell in read(name).cells if cell.cell_type == "code"]
    assert code == [text.rstrip("\n") for text in expected]
    assert len(code) > 5


@pytest.mark.parametrize("name", NAMES)
def test_a_link_of_a_notebook_leads_to_a_file(name: str) -> None:
    text = "\n".join(cell.source for cell in read(name).cells if cell.cell_type == "markdown")
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in link]
    assert len(links) > 5
    assert not [link for link in links if not os.path.exists(NOTEBOOKS / link)]
    assert "!!!" not in text
