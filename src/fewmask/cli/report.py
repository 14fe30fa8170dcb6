"""report: write a page about one or several runs."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from fewmask.cli.terminal import Device, Json, Split, counting, print_json, say


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN",
            help="Folders of runs. Several methods are compared with the first one.",
            show_default=False,
        ),
    ],
    file: Annotated[
        Path | None, typer.Option("--out", help="The file; report.html in the (first) run's folder by default.")
    ] = None,
    images: Annotated[int, typer.Option(min=1, help="The largest number of images to evaluate in a domain.")] = 200,
    split: Split = "val",
    show: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Write one HTML page about runs, with the learning curve, scores by class, asked regions, and pictures."""
    from fewmask.runs import RunFolder
    from fewmask.runs.reading import check_split

    check_split(split)
    for run in runs:
        RunFolder(run).load_config()  # refuses other folders before torch is imported
    from fewmask.reports import report as write

    with counting("images") as progress:
        result = write(runs, file, images=images, split=split, device=device, progress=progress)
    if as_json:
        print_json(result)
    else:
        say(f"{result['report']} ({result['bytes'] / 2**20:.1f} MiB)")
        for reason in result["missing"]:
            say(f"missing: {reason}")
    if show:
        webbrowser.open(Path(result["report"]).resolve().as_uri())
