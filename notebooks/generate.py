"""Writes the notebooks of this folder from the tutorials: `make notebooks`.

A block with a title becomes a cell that writes the file, the commands of a `console` block become a cell of shell
commands, and a Python block becomes a cell of Python. The output that a tutorial shows becomes the output of its cell.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from nbformat import NotebookNode, v4, write

FOLDER = Path(__file__).parent
TUTORIALS = FOLDER.parent / "docs" / "tutorials"
NAMES = ("own-data", "campaign")

BLOCK = re.compile(
    r"^```(?P<language>\w+)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
LINK = re.compile(r"(?<=\]\()(?!https?:|#)([^)#]+)")
ADMONITION = re.compile(r"^!!! \w+ \"(?P<title>[^\"]+)\"\n(?P<body>(?:^(?: {4}.*)?\n)+)", re.MULTILINE)
NOTE = """*This notebook is generated from [the tutorial]({page}). Change the tutorial and run `make notebooks`.*

Start Jupyter in the environment that has fewmask. A cell that opens the labelling page runs until you interrupt it."""


def notebook_of(name: str) -> NotebookNode:
    page = TUTORIALS / f"{name}.md"
    text = page.read_text(encoding="utf-8")
    cells = [v4.new_markdown_cell(NOTE.format(page=os.path.relpath(page, FOLDER)))]
    end = 0
    for match in BLOCK.finditer(text):
        cells += _markdown_cells(text[end : match.start()])
        cells.append(_block_cell(match["language"], match["title"], match["text"].rstrip("\n")))
        end = match.end()
    cells += _markdown_cells(text[end:])
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"  # nbformat would draw one
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return v4.new_notebook(cells=cells, metadata={"kernelspec": kernel, "language_info": {"name": "python"}})


def _markdown_cells(text: str) -> list[NotebookNode]:
    """Links lead from this folder, and an admonition is a quotation: Jupyter does not know MkDocs' syntax."""
    text = LINK.sub(lambda match: os.path.relpath(TUTORIALS / match[1], FOLDER), text)
    text = ADMONITION.sub(_quotation, text).strip()
    return [v4.new_markdown_cell(text)] if text else []


def _quotation(match: re.Match[str]) -> str:
    lines = [f"**{match['title']}**", "", *(line.strip() for line in match["body"].strip().splitlines())]
    return "".join(f"> {line}".rstrip() + "\n" for line in lines) + "\n"


def _block_cell(language: str, title: str | None, text: str) -> NotebookNode:
    if title:
        return v4.new_code_cell(f"%%writefile {title}\n{text}")
    if language == "python":
        return v4.new_code_cell(text)
    if language != "console":
        return v4.new_markdown_cell(f"```{language}\n{text}\n```")
    commands = [line for line in text.splitlines() if line.startswith("$ ")]
    shown = [line for line in text.splitlines() if not line.startswith("$ ")]
    outputs = [v4.new_output("stream", name="stdout", text="\n".join(shown) + "\n")] if shown else []
    return v4.new_code_cell("\n".join("!" + line.removeprefix("$ ") for line in commands), outputs=outputs)


if __name__ == "__main__":
    for name in NAMES:
        write(notebook_of(name), FOLDER / f"{name}.ipynb")
