"""demo, check and train."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from fewmask.cli.tables import print_scores, statistics_table
from fewmask.cli.terminal import (
    ConfigFile,
    Json,
    OutFolder,
    Overrides,
    counting,
    err,
    out,
    plain,
    print_json,
    say,
    training_progress,
)
from fewmask.paths import below
from fewmask.plurals import agreeing, count, percent
from fewmask.stopping import exit_on_signal

if TYPE_CHECKING:
    from fewmask.config import Config
    from fewmask.data.doctor import Report
    from fewmask.data.layouts import Problem

ALIKE = 3
"""Up to this many problems of one kind are listed in full."""


def demo(
    folder: Annotated[Path, typer.Option("--out", help="The folder to write to.")] = Path("runs/demo"),
    as_json: Json = False,
) -> None:
    """Train joint and univ-full on three procedural domains, in minutes on a laptop's CPU, and show the results."""
    from fewmask.demo import METHODS, compare

    with training_progress() as observe:
        result = compare(folder, observe)
    if as_json:
        print_json(result)
        return
    domains = list(result["runs"][METHODS[0]]["domains"])
    table = Table("method", *domains, "mean", "seconds", title="mIoU on the test images, 16 labelled images per domain")
    for method, run in result["runs"].items():
        scores = [run["domains"][d]["miou"] for d in domains]
        table.add_row(method, *map(percent, [*scores, run["avg_miou"]]), f"{run['seconds']:.0f}")
    out.print(table)
    say(f"Pictures: {result['picture']} and {folder}/<method>/overlays")
    say(f"Report: {result['report']}")
    say("These are short runs with one seed; docs/results.md says which differences are more than noise.")


def check(config: ConfigFile, overrides: Overrides = None, as_json: Json = False) -> None:
    """Examine a configuration's data, network and method. List every problem with its file or key and the fix."""
    from fewmask.config import read_config
    from fewmask.data.doctor import check_domains as examine

    settings = read_config(config, overrides or [])
    with counting("files") as progress:
        report = examine(
            {**settings.domains, **settings.held_out},
            settings.labelled.images,
            settings.seed,
            progress=progress,
            asks=settings.campaign is not None,
        )
    problems = tuple(sorted((*_of_network(settings), *report.problems), key=lambda problem: problem.severity))
    if not as_json and not report.errors:
        settled(settings)
    print_report(replace(report, problems=problems), as_json)


def settled(settings: Config) -> Config:
    """The configuration with every `auto` decided by the data. Prints a line about each decision."""
    from fewmask.config.training import AUTO

    if settings.method.name != "auto" and settings.train.steps != AUTO:
        return settings
    from fewmask.data.domains import load_domains
    from fewmask.engine.automatic import resolve_auto

    settings, decisions = resolve_auto(settings, load_domains(settings))
    for line in decisions:
        say(line, err)
    return settings


def _of_network(settings: Config) -> list[Problem]:
    """Errors in building the network and the method, and in running them on the images."""
    from fewmask.campaigns import settings as of_campaigns
    from fewmask.data.domains import load_domains
    from fewmask.data.layouts import Problem
    from fewmask.engine import preflight
    from fewmask.engine.automatic import resolve_auto
    from fewmask.engine.features import features_size
    from fewmask.models.universal import UniversalSegmenter

    try:
        domains = load_domains(settings)
    except ValueError:  # the data check reports these errors with their files
        domains = None
    try:
        if domains is not None:
            settings, _ = resolve_auto(settings, domains)
        if domains is None:
            UniversalSegmenter(settings.model, {}, settings.seed)
        elif settings.campaign is None:
            model, method = preflight.check_configs([settings], domains)
            if model.packing is not None:
                say(features_size(settings.train, model, method), err)
        else:
            of_campaigns.check_campaign(settings, domains)
    except ValueError as error:
        parted = [line.partition(": ") for line in str(error).splitlines()]
        parts = [(key, *rest.rpartition("; ")) for key, _, rest in parted]
        return [
            Problem(key, value, fix) if value else Problem(key, fix, "see docs/formats.md")
            for key, value, _, fix in parts
        ]
    return []


def print_report(report: Report, as_json: bool) -> None:
    """Print the report of the data check. Ends the command with code 2 if there are errors."""
    if as_json:
        print_json(report.to_dict())
    else:
        for name, s in report.statistics.items():
            splits = ", ".join(f"{k} {v}" for k, v in s.splits.items())
            out.print(f"\n{name}: {splits}; {s.labelled} labelled", style="bold", soft_wrap=True)
            out.print(statistics_table(s))
            if s.in_part:
                are = agreeing(s.in_part, "is", "are")
                say(
                    f"{s.in_part:,} of {count(s.masks, 'mask')} {are} labelled in part: losses and scores ignore the "
                    "other pixels, and a campaign may ask about them."
                )
        _list("[yellow]warning[/]", report.warnings)
        _list("[red]error[/]", report.errors)
        say(f"{count(len(report.errors), 'error')}, {count(len(report.warnings), 'warning')}")
    if report.errors:
        raise typer.Exit(2)


def _list(severity: str, problems: Sequence[Problem]) -> None:
    """Print a line for each problem. Many problems of one kind get one line with their number and the first ones."""
    kinds: dict[tuple[int, str], list[Problem]] = {}
    for problem in problems:
        kinds.setdefault((problem.reach, problem.kind), []).append(problem)
    for (reach, _), alike in sorted(kinds.items(), key=lambda item: (item[0][0], -len(item[1]))):
        if reach == 0 or len(alike) <= ALIKE:
            for problem in alike:
                out.print(f"{severity} {plain(problem)}", soft_wrap=True)
        else:
            names = ", ".join(problem.where for problem in alike[:ALIKE])
            summary = f"{len(alike):,} × {alike[0].value}: {names} and {len(alike) - ALIKE:,} more (--json lists them)"
            out.print(f"{severity} {plain(summary)}; {plain(alike[0].fix)}", soft_wrap=True)


@exit_on_signal()
def train(config: ConfigFile, overrides: Overrides = None, folder: OutFolder = None, as_json: Json = False) -> None:
    """Train a model. The same command resumes a run where it stopped."""
    from fewmask.config import read_config
    from fewmask.runs import RunFolder

    settings = read_config(config, overrides or [])
    from fewmask.engine.fit import train as fit  # imports torch, so it comes after the check of path and keys
    from fewmask.engine.longer import former_steps

    settings = settled(settings)
    folder = folder or below(Path("runs"), settings.name)
    settings = RunFolder(folder).kept(settings)
    if settings.campaign is not None:
        say("`fewmask train` trains once and ignores `campaign`; `fewmask campaign` asks questions", err)
    finished = RunFolder(folder).summary.exists() and former_steps(RunFolder(folder), settings) is None
    with training_progress() as observe:
        summary = fit(settings, folder, observe)
    if finished:
        say(f"{folder} was finished before: nothing was trained; give another --out to train again", err)
    if as_json:
        print_json(summary)
        return
    print_scores(summary, f"{settings.method.name}: {folder}")
