"""The comparison section: every method against the first one, with intervals and verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fewmask.comparison import compare, words
from fewmask.comparison.runs import groups
from fewmask.document.intervals import POSSIBLE, Difference, intervals
from fewmask.document.model import Block, Chart, Charts, Note, Section, Table
from fewmask.reports.reported_run import ReportedRun


def several(runs: Sequence[ReportedRun]) -> bool:
    """Whether the finished runs form several methods for a comparison. Runs with different numbers of labels are
    several methods there, but one method in the learning curve."""
    done = [reported.folder for reported in runs if reported.finished]
    return bool(done) and len(groups(done)[0]) > 1


def compared(runs: Sequence[ReportedRun]) -> Mapping[str, Any] | str:
    """The comparison of the finished runs, or the reason why there is none."""
    try:
        return compare([reported.folder for reported in runs if reported.finished])
    except ValueError as error:
        return str(error)


def verdicts(result: Mapping[str, Any] | str) -> list[Block]:
    """The verdicts at the top of the page: one sentence for each method that is compared with the first one."""
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
    assumptions = dict.fromkeys(line for pair in result["comparisons"] for line in words.assumptions(pair))
    blocks += [Note(line) for line in (*assumptions, *result["warnings"])]
    first = result["methods"][0]["name"]
    return Section(
        name, title, blocks, f"Each method against {first}, paired by seed, on the images that the runs were scored on."
    )


def _chart(pair: Mapping[str, Any]) -> Chart:
    differences, rows = [], []
    for domain, figure, d in words.rows(pair):
        is_miou = figure == "mIoU"
        name = f"{domain}: {figure}" if is_miou or len(pair["domains"]) > 1 else figure
        ends = None if d["interval"] is None else (d["interval"][0], d["interval"][1])
        if d["difference"] is not None:
            differences.append(Difference(name, d["difference"], ends, d["verdict"] in ("higher", "lower"), is_miou))
        values = [words.points(d["a"]), words.points(d["b"]), words.points(d["difference"], "+")]
        rows.append(
            [domain, figure, *values, words.interval(d["interval"]), words.interval(d["bootstrap"]), words.verdict(d)]
        )
    title = f"{pair['b']} − {pair['a']}"
    table = Table(("domain", "IoU of", "a", "b", "b − a", "95 %", "bootstrap", "verdict"), rows, text_columns=2)
    caption = (
        "Points of IoU with 95 % intervals. Means and classes have separate scales. Coloured squares are beyond noise, "
        "grey circles are within noise."
    )
    if any(end is not None and abs(end) > POSSIBLE for d in differences for end in d.ends or ()):
        caption += " Intervals are drawn up to ±100 points, the largest possible difference; the table has their ends."
    return intervals(title, differences, "points", description=words.sentence(pair), caption=caption, table=table)
