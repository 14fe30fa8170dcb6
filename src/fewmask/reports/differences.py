"""Methods against the first one named: which differences are more than luck."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fewmask.comparison import compare, words
from fewmask.comparison.runs import groups
from fewmask.document.intervals import POSSIBLE, Difference, intervals
from fewmask.document.model import Block, Chart, Charts, Note, Section, Table
from fewmask.reports.reported_run import ReportedRun


def several(runs: Sequence[ReportedRun]) -> bool:
    """Whether a comparison tells methods apart among those that are finished: runs with other labels are one method of
    the learning curve and several of the comparison."""
    done = [reported.folder for reported in runs if reported.finished]
    return bool(done) and len(groups(done)[0]) > 1


def compared(runs: Sequence[ReportedRun]) -> Mapping[str, Any] | str:
    """The comparison of those that are finished, or why there is none."""
    try:
        return compare([reported.folder for reported in runs if reported.finished])
    except ValueError as error:
        return str(error)


def verdicts(result: Mapping[str, Any] | str) -> list[Block]:
    """The answer that opens the page: a sentence for each method that is compared with the first one."""
    if isinstance(result, str):
        return []
    return [Note(words.sentence(pair), "verdict") for pair in result["comparisons"]]


def differences(result: Mapping[str, Any] | str) -> Section:
    title, name = "Comparison", "comparison"
    if isinstance(result, str):
        return Section(name, title, [Note(f"A comparison of methods: {result}", "missing")])
    blocks: list[Block] = []
    for pair in result["comparisons"]:
        if any(d["difference"] is not None for _, _, d in words.rows(pair)):
            blocks.append(Charts([_chart(pair)]))
        blocks += [Note(warning) for warning in pair["warnings"]]
    told = dict.fromkeys(line for pair in result["comparisons"] for line in words.assumptions(pair))
    blocks += [Note(line) for line in (*told, *result["warnings"])]
    first = result["methods"][0]["name"]
    return Section(
        name, title, blocks, f"Each method against {first}, paired by seed, on what the runs were scored on."
    )


def _chart(pair: Mapping[str, Any]) -> Chart:
    given, rows = [], []
    for domain, figure, d in words.rows(pair):
        head = figure == "mIoU"
        name = f"{domain}: {figure}" if head or len(pair["domains"]) > 1 else figure
        ends = None if d["interval"] is None else (d["interval"][0], d["interval"][1])
        if d["difference"] is not None:
            given.append(Difference(name, d["difference"], ends, d["verdict"] in ("higher", "lower"), head))
        told = [words.points(d["a"]), words.points(d["b"]), words.points(d["difference"], "+")]
        rows.append(
            [domain, figure, *told, words.interval(d["interval"]), words.interval(d["bootstrap"]), words.verdict(d)]
        )
    title = f"{pair['b']} − {pair['a']}"
    table = Table(("domain", "IoU of", "a", "b", "b − a", "95 %", "bootstrap", "verdict"), rows, text_columns=2)
    caption = (
        "Points of IoU with 95 % intervals, means and classes each on a scale of their own. Coloured squares are "
        "beyond noise, grey circles are not."
    )
    if any(end is not None and abs(end) > POSSIBLE for d in given for end in d.ends or ()):
        caption += " Intervals are drawn as far as differences are possible, to ±100 points; the table has their ends."
    return intervals(title, given, "points", description=words.sentence(pair), caption=caption, table=table)
