"""agreement: print how far the annotators of a campaign agree."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from fewmask.cli.campaigns import ledger_of, opened
from fewmask.cli.terminal import Json, RunFolder, out, plain, print_json, say
from fewmask.plurals import agreeing, count, duration, percent


def agreement(
    run: RunFolder,
    worst: Annotated[int, typer.Option(min=1, help="How many pairs of classes, images and regions to list.")] = 10,
    as_json: Json = False,
) -> None:
    """Show how far annotators agree, by person, class, image and region."""
    from fewmask.annotation.agreement import agreement as agreement_of

    domains = opened(run)
    with ledger_of(run) as ledger:
        result = agreement_of(ledger, domains, worst)
    if as_json:
        print_json(result)
    else:
        print_agreement(result, run)


def print_agreement(result: Mapping[str, Any], run: Path) -> None:
    if not result["annotators"]:
        say("Nobody has answered yet.")
        return
    out.print(_people(result["annotators"]))
    shared = {name: part for name, part in result["domains"].items() if part["questions"]}
    if not shared:
        say(_no_shared_answers(list(result["annotators"])))
        return
    for name, part in shared.items():
        _print_domain(name, part, result["decide"])
    regions = [region for part in shared.values() for region in part["regions"]]
    if regions:
        ids = [f"--question {region['id']}" for region in sorted(regions, key=lambda r: r["agreement"])]
        say(f"To ask another annotator about these questions:\n  fewmask answer {_quoted(run)} {' '.join(ids)}")


def _no_shared_answers(people: Sequence[str]) -> str:
    reason = f"Only {people[0]} has answered" if len(people) == 1 else "No question was answered by two annotators"
    return (
        f"{reason}: there is nothing to compare. With campaign.answers.each=2 a new run asks every question of two "
        "annotators. In an existing run, tick `Ask me also what others have answered` in the page's settings."
    )


def _people(annotators: Mapping[str, Any]) -> Table:
    table = Table("annotator", "answered", "skipped", "time", "shared", "with others, %", "with the outcome, %")
    for name, person in annotators.items():
        time = duration(person["seconds"]) if person["seconds"] else "–"
        counts = str(person["answered"]), str(person["skipped"]), time, str(person["shared"])
        table.add_row(plain(name), *counts, percent(person["with_others"]), percent(person["with_consensus"]))
    return table


def _print_domain(name: str, part: Mapping[str, Any], decide: str) -> None:
    several = f"{count(part['questions'], 'question')}, {count(part['pixels'], 'pixel')} answered by several annotators"
    coefficient = "is not defined" if part["alpha"] is None else f"is {part['alpha']:.3f}"
    say(f"\n{name}: {several}. Agreement is {percent(part['agreement'])} %. Krippendorff's alpha {coefficient}.")
    if part["undecided"]:
        undecided = f"{part['undecided']:,} of these pixels {agreeing(part['undecided'], 'is', 'are')} not labelled"
        say(f"{undecided}: the votes are tied (answers.decide={decide}).")
    if part["trust"]:
        say("Trust: " + ", ".join(f"{person} {weight:.2f}" for person, weight in part["trust"].items()))
    classes = Table("class", "share of votes, %", "others agree, %")
    for label, votes in part["classes"].items():
        classes.add_row(plain(label), percent(votes["share"]), percent(votes["agreement"]))
    out.print(classes)
    if not part["confused"]:
        return
    pairs = Table("class of one annotator", "class of another", "share of votes, %")
    for pair in part["confused"]:
        pairs.add_row(*map(plain, pair["classes"]), percent(pair["share"]))
    images = Table("image", "questions", "pixels", "agreement, %")
    for image in part["images"]:
        images.add_row(
            plain(image["image"]), str(image["questions"]), f"{image['pixels']:,}", percent(image["agreement"])
        )
    regions = Table("question", "image", "y0, x0, y1, x1", "pixels", "agreement, %", "by")
    for region in part["regions"]:
        box, annotators = ", ".join(map(str, region["box"])), plain(", ".join(region["annotators"]))
        place = str(region["id"]), plain(region["stem"]), box
        regions.add_row(*place, f"{region['pixels']:,}", percent(region["agreement"]), annotators)
    for table in (pairs, images, regions):
        out.print(table)


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
