"""links: a link to the labelling page for each annotator, which can be revoked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from fewmask.cli.campaigns import ledger_of, opened
from fewmask.cli.terminal import Json, RunFolder, out, plain, print_json, say
from fewmask.plurals import duration


def links(
    run: RunFolder,
    add: Annotated[
        list[str] | None, typer.Option("--add", help="Make a link for an annotator of this name; may be repeated.")
    ] = None,
    revoke: Annotated[
        list[str] | None,
        typer.Option("--revoke", help="Make this annotator's link invalid at once; may be repeated. Answers stay."),
    ] = None,
    as_json: Json = False,
) -> None:
    """List the annotators' links to the labelling page, with their work. Add and revoke links.

    Whoever opens a link answers under its name and no other. An open page follows every change at once.
    """
    from fewmask.annotation.page.links import Links

    opened(run)
    Links(run).change([name.strip() for name in add or ()], [name.strip() for name in revoke or ()])
    found = links_by_name(run)
    with ledger_of(run) as ledger:
        work = ledger.work()
    if as_json:
        done = {n: {"answered": w.answered, "skipped": w.skipped, "seconds": w.seconds} for n, w in work.items()}
        nothing = {"answered": 0, "skipped": 0, "seconds": 0.0}
        print_json({name: {"link": link} | done.get(name, nothing) for name, link in found.items()})
        return
    for name in revoke or ():
        say(f"Revoked: {name.strip()}. The answers stay.")
    if not found:
        say("Nobody has a link. --add NAME makes one.")
        return
    table = Table("annotator", "answered", "skipped", "time", "last action")
    for name in found:
        of = work.get(name)
        row = (str(of.answered), str(of.skipped), duration(of.seconds), of.last or "–") if of else ("0", "0", "–", "–")
        table.add_row(plain(name), *row)
    out.print(table)
    for name, link in found.items():
        say(f"{name}: {link}")
    if any(link.startswith("/") for link in found.values()):
        say("Each of them follows the page's address: `fewmask answer` prints the whole links.")


def links_by_name(run: Path) -> dict[str, str]:
    """The link of each annotator, at the address at which the page was last opened."""
    from fewmask.annotation.page.links import Links
    from fewmask.annotation.page.listener import last_base

    base = last_base(run) or ""
    return {name: f"{base}/{token}/" for name, token in Links(run).tokens().items()}
