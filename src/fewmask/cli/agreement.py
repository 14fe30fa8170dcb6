"""agreement: how far the annotators of a campaign agree."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from fewmask.cli.campaigns import ledger_of, opened
from fewmask.cli.terminal import Json, RunFolder, out, plain, print_json, say
from fewmask.plurals import count, duration, percent


def agreement(
    run: RunFolder,
    worst: Annotated[int, typer.Option(min=1, help="How many pairs of classes, images and regions to list.")] = 10,
    as_json: Json = False,
) -> None:
    """How far annotators agree: by person, class, image and region."""
    from fewmask.annotation.agreement import agreement as agreement_of

    domains = opened(run)
    with ledger_of(run) as ledger:
        found = agreement_of(ledger, domains, worst)
    if as_json:
        print_json(found)
    else:
        print_agreement(found, run)


def print_agreement(found: Mapping[str, Any], run: Path) -> None:
    if not found["annotators"]:
        say("Nobody has answered yet.")
        return
    out.print(_people(found["annotators"]))
    shared = {name: part for name, part in found["domains"].items() if part["questions"]}
    if not shared:
        say(_nothing(list(found["annotators"])))
        return
    for name, part in shared.items():
        _print_domain(name, part, found["decide"])
    regions = [region for part in shared.values() for region in part["regions"]]
    if regions:
        ids = [f"--question {region['id']}" for region in sorted(regions, key=lambda r: r["agreement"])]
        say(f"To show these to somebody who has not answered them:\n  fewmask answer {_quoted(run)} {' '.join(ids)}")


def _nothing(people: Sequence[str]) -> str:
    who = f"Only {people[0]} has answered" if len(people) == 1 else "No question was answered by two of them"
    return (
        f"{who}: there is nothing to compare. With campaign.answers.each=2 every question is asked of two annotators; "
        "in a run that is there already, tick `Ask me also what others have answered` in the page's settings."
    )


def _people(annotators: Mapping[str, Any]) -> Table:
    table = Table("annotator", "answered", "skipped", "time", "shared", "with others, %", "with the outcome, %")
    for name, one in annotators.items():
        time = duration(one["seconds"]) if one["seconds"] else "–"
        counts = str(one["answered"]), str(one["skipped"]), time, str(one["shared"])
        table.add_row(plain(name), *counts, percent(one["with_others"]), percent(one["with_consensus"]))
    return table


def _print_domain(name: str, part: Mapping[str, Any], decide: str) -> None:
    several = f"{count(part['questions'], 'question')}, {count(part['pixels'], 'pixel')} answered by several"
    coefficient = "not defined" if part["alpha"] is None else f"{part['alpha']:.3f}"
    say(f"\n{name}: {several}. They agree on {percent(part['agreement'])} %; Krippendorff's alpha {coefficient}.")
    if part["undecided"]:
        say(f"{part['undecided']:,} of these pixels are not labelled: answers.decide={decide} ends in a tie there.")
    if part["trust"]:
        say("Trust: " + ", ".join(f"{who} {weight:.2f}" for who, weight in part["trust"].items()))
    classes = Table("class", "share of votes, %", "others say so too, %")
    for label, one in part["classes"].items():
        classes.add_row(plain(label), percent(one["share"]), percent(one["agreement"]))
    out.print(classes)
    if not part["confused"]:
        return
    pairs = Table("one says", "another says", "share of votes, %")
    for pair in part["confused"]:
        pairs.add_row(*map(plain, pair["classes"]), percent(pair["share"]))
    images = Table("image", "questions", "pixels", "agreement, %")
    for image in part["images"]:
        images.add_row(
            plain(image["image"]), str(image["questions"]), f"{image['pixels']:,}", percent(image["agreement"])
        )
    regions = Table("question", "image", "y0, x0, y1, x1", "pixels", "agreement, %", "by")
    for one in part["regions"]:
        box, by = ", ".join(map(str, one["box"])), plain(", ".join(one["annotators"]))
        where = str(one["id"]), plain(one["stem"]), box
        regions.add_row(*where, f"{one['pixels']:,}", percent(one["agreement"]), by)
    for table in (pairs, images, regions):
        out.print(table)


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
