"""compare: print the differences of methods, with intervals and verdicts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from fewmask.cli.terminal import Json, out, plain, print_json

if TYPE_CHECKING:
    from collections.abc import Mapping

Places = Annotated[
    list[str],
    typer.Argument(
        metavar="RUNS",
        help="Runs, folders of runs, patterns, or result files. All methods are compared with the first one.",
        show_default=False,
    ),
]


def compare(
    places: Places,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print a table in Markdown instead.")] = False,
    as_json: Json = False,
) -> None:
    """Compare methods, paired by seed: mean differences with 95 % intervals, per domain and per class."""
    from fewmask.comparison import compare as between
    from fewmask.comparison import words

    result = between(places)
    if as_json:
        print_json(result)
    elif markdown:
        print(words.markdown(result), end="")
    else:
        for pair in result["comparisons"]:
            _print(pair, words)
        for warning in result["warnings"]:
            out.print(f"[yellow]warning[/] {plain(warning)}", soft_wrap=True)


def _print(pair: Mapping[str, Any], words: Any) -> None:
    table = Table(
        "", "IoU of", "a", "b", "b − a", "95 %", "bootstrap", "verdict", box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    for column in table.columns[2:]:
        column.no_wrap = True
    last_domain = None
    for domain, figure, d in words.rows(pair):
        if domain != last_domain and last_domain is not None:
            table.add_section()
        figures = [words.points(d["difference"], "+"), words.interval(d["interval"]), words.interval(d["bootstrap"])]
        style = "bold" if d["verdict"] in ("higher", "lower") else None
        name = plain(domain) if domain != last_domain else ""
        table.add_row(
            name, plain(figure), words.points(d["a"]), words.points(d["b"]), *figures, words.verdict(d), style=style
        )
        last_domain = domain
    out.print(f"a: {plain(pair['a'])} · b: {plain(pair['b'])}", style="bold", soft_wrap=True)
    out.print(table)
    out.print(plain(words.sentence(pair)), style="bold", soft_wrap=True)
    for line in words.assumptions(pair):
        out.print(plain(line), soft_wrap=True)
    for warning in pair["warnings"]:
        out.print(f"[yellow]warning[/] {plain(warning)}", soft_wrap=True)
