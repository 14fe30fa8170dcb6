"""init: from a folder to a configuration."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fewmask.cli.terminal import Json, counting, print_json, say

if TYPE_CHECKING:
    from fewmask.discovery import Discovery


def init(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="A folder with images and masks.", show_default=False)
    ],
    name: Annotated[str | None, typer.Option(help="Of the configuration; by default the folder's.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Where to write; here by default.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Take all proposals, ask nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Look at a folder of images and masks and write NAME.yaml and classes.yaml for it, or say what cannot be told.

    Nothing in the folder is changed, copied or converted, and no file is overwritten."""
    from fewmask.config import read_config
    from fewmask.data.doctor import check_domains
    from fewmask.discovery import configuration_name, discover, taken, write
    from fewmask.paths import fault

    asks = not (yes or as_json)
    if asks and not sys.stdin.isatty():
        raise ValueError("no terminal to ask questions in; give --yes to take the proposals")
    called, place = name or configuration_name(folder), out or Path()
    if wrong := fault(called):
        raise ValueError(f"--name {called}: {wrong}")
    if out is None and folder.is_dir() and place.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{place.resolve()}: lies in {folder}, where nothing is written; go elsewhere, or give --out")
    if there := taken(called, place):
        raise ValueError(f"{there[0]}: there already; move it away, or give another --name or --out")
    with counting("files") as progress:
        found = discover(folder, progress)
    if not as_json:
        _tell(found)
    if asks:
        found = _asked(found)
    files = write(found, called, place)
    config = read_config(files["config"])
    with counting("files") as progress:
        report = check_domains(dict(config.domains), progress=progress)
    if as_json:
        written = {key: str(path) for key, path in files.items()}
        print_json({**found.to_dict(), "files": written, "check": report.to_dict()})
    else:
        for path in files.values():
            say(f"wrote {path}")
        for problem in report.problems:
            say(f"{problem.severity} {problem}")
        say(f"{len(report.errors)} errors, {len(report.warnings)} warnings of `fewmask check {files['config']}`")
        if not report.errors:
            say(f"Next: fewmask train {files['config']}")
    if report.errors:
        raise typer.Exit(2)


def _tell(found: Discovery) -> None:
    listing, classes = found.listing, found.dataset.classes
    without = len(listing.images.keys() - listing.masks.keys())
    say(f"{found.root}: {len(listing.images):,} images, {len(listing.masks):,} masks, {without:,} images without one")
    say(f"masks: {found.dataset.kind}, in {found.dataset.labels} for the images in {found.dataset.images}")
    say(f"classes: {', '.join(f'{e.id} {e.name}' for e in classes.entries)}")
    if classes.named_by:
        say(f"  their names are those of {classes.named_by}")
    if classes.ignore:
        say(f"void: {', '.join(map(str, classes.ignore))}")
    if classes.absent:
        say(f"in no mask: {', '.join(classes.absent)} (`absent` says that this is meant)")
    counts = ", ".join(f"{split} {len(stems):,}" for split, stems in found.splits.stems.items())
    say(f"splits: {counts}; {found.splits.why}")
    if found.splits.left_out:
        say(f"  in no split: {len(found.splits.left_out):,} images")
    if found.upright:
        say("orientation: images are turned as their cameras' tags ask, because the masks fit them so")
    for proposal in found.proposals:
        say(f"{proposal.key}: {proposal.value} ({proposal.why})")
    for note in found.dataset.notes:
        say(f"note: {note}")


def _asked(found: Discovery) -> Discovery:
    """What somebody answers at the terminal; an empty answer takes the proposal."""
    classes = found.dataset.classes
    if not classes.named_by and not found.dataset.kind.startswith("0 and 255"):
        say("The classes' names; Enter keeps what is in brackets.")
        entries = tuple(
            replace(e, name=typer.prompt(f"  class {e.id}", default=e.name)) for e in found.dataset.classes.entries
        )
        found = replace(found, dataset=replace(found.dataset, classes=replace(classes, entries=entries)))
    proposals = []
    for one in found.proposals:
        if one.key in ("train.steps", "method"):
            answer = typer.prompt(f"{one.key} ({one.why})", default=one.value)
            one = replace(one, value=int(answer) if str(answer).isdigit() else answer)
        proposals.append(one)
    if not typer.confirm("Write the configuration?", default=True):
        raise typer.Exit(1)
    return replace(found, proposals=proposals)
