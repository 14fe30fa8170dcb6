"""init: write a configuration for a folder of images and masks."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fewmask.cli.terminal import Json, counting, print_json, say
from fewmask.plurals import count

if TYPE_CHECKING:
    from fewmask.discovery import Discovery


def init(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="A folder with images and masks.", show_default=False)
    ],
    name: Annotated[str | None, typer.Option(help="The configuration's name; the folder's name by default.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="The folder to write to; the current one by default.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Accept all proposals without questions.")] = False,
    as_json: Json = False,
) -> None:
    """Examine a folder of images and masks and write NAME.yaml and classes.yaml for it, or report what is unclear.

    Nothing in the folder is changed, copied or converted, and no file is overwritten."""
    from fewmask.config import read_config
    from fewmask.data.doctor import check_domains
    from fewmask.discovery import configuration_name, discover, taken, write
    from fewmask.paths import fault

    asks = not (yes or as_json)
    if asks and not sys.stdin.isatty():
        raise ValueError("no terminal to ask questions in; give --yes to accept the proposals")
    config_name, place = name or configuration_name(folder), out or Path()
    if reason := fault(config_name):
        raise ValueError(f"--name {config_name}: {reason}")
    if out is None and folder.is_dir() and place.resolve().is_relative_to(folder.resolve()):
        raise ValueError(
            f"{place.resolve()}: is inside {folder}, where init writes nothing; run it elsewhere, or give --out"
        )
    if existing := taken(config_name, place):
        raise ValueError(f"{existing[0]}: exists already; move it away, or give another --name or --out")
    with counting("files") as progress:
        discovery = discover(folder, progress)
    if not as_json:
        _print_discovery(discovery)
    if asks:
        discovery = _ask(discovery)
    files = write(discovery, config_name, place)
    config = read_config(files["config"])
    with counting("files") as progress:
        report = check_domains(dict(config.domains), progress=progress)
    if as_json:
        written = {key: str(path) for key, path in files.items()}
        print_json({**discovery.to_dict(), "files": written, "check": report.to_dict()})
    else:
        for path in files.values():
            say(f"wrote {path}")
        for problem in report.problems:
            say(f"{problem.severity} {problem}")
        problems = f"{count(len(report.errors), 'error')}, {count(len(report.warnings), 'warning')}"
        say(f"{problems} of `fewmask check {files['config']}`")
        if not report.errors:
            say(f"Next: fewmask train {files['config']}")
    if report.errors:
        raise typer.Exit(2)


def _print_discovery(discovery: Discovery) -> None:
    listing, classes = discovery.listing, discovery.dataset.classes
    without = len(listing.images.keys() - listing.masks.keys())
    images, masks = count(len(listing.images), "image"), count(len(listing.masks), "mask")
    say(f"{discovery.root}: {images}, {masks}, {count(without, 'image')} without a mask")
    say(f"masks: {discovery.dataset.kind}, in {discovery.dataset.labels} for the images in {discovery.dataset.images}")
    say(f"classes: {', '.join(f'{e.id} {e.name}' for e in classes.entries)}")
    if classes.named_by:
        say(f"  their names are those of {classes.named_by}")
    if classes.ignore:
        say(f"void: {', '.join(map(str, classes.ignore))}")
    if classes.absent:
        say(f"in no mask: {', '.join(classes.absent)} (`absent` states that this is intended)")
    counts = ", ".join(f"{split} {len(stems):,}" for split, stems in discovery.splits.stems.items())
    say(f"splits: {counts}; {discovery.splits.why}")
    if discovery.splits.left_out:
        say(f"  in no split: {count(len(discovery.splits.left_out), 'image')}")
    if not listing.input.plain:
        say(f"channels: {', '.join(listing.input.channels)} (change the names in the configuration)")
        say(f"depth: {listing.input.depth}")
    if discovery.upright:
        say("orientation: images are turned by their cameras' tags, because the masks fit the turned images")
    for proposal in discovery.proposals:
        say(f"{proposal.key}: {proposal.value} ({proposal.why})")
    for note in discovery.dataset.notes:
        say(f"note: {note}")


def _ask(discovery: Discovery) -> Discovery:
    """Ask for the names of the classes and for proposals at the terminal. An empty answer accepts a proposal."""
    classes = discovery.dataset.classes
    if not classes.named_by and not discovery.dataset.kind.startswith("0 and 255"):
        say("Give the names of the classes. Enter keeps the name in brackets.")
        entries = tuple(
            replace(e, name=typer.prompt(f"  class {e.id}", default=e.name)) for e in discovery.dataset.classes.entries
        )
        discovery = replace(discovery, dataset=replace(discovery.dataset, classes=replace(classes, entries=entries)))
    proposals = []
    for proposal in discovery.proposals:
        if proposal.key in ("train.steps", "method"):
            answer = typer.prompt(f"{proposal.key} ({proposal.why})", default=proposal.value)
            proposal = replace(proposal, value=int(answer) if str(answer).isdigit() else answer)
        proposals.append(proposal)
    if not typer.confirm("Write the configuration?", default=True):
        raise typer.Exit(1)
    return replace(discovery, proposals=proposals)
