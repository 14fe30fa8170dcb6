"""The sections of the learning curve, with its forecast, and of the losses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fewmask.acquisition.curve import Curve
from fewmask.campaigns.forecast import Scored, forecast, forecast_words
from fewmask.campaigns.history import curve
from fewmask.document.charts import Series, lines
from fewmask.document.model import Block, Chart, Charts, Note, Section, Table
from fewmask.document.svg import plain_number
from fewmask.reports.reported_run import Group, ReportedRun, groups
from fewmask.reports.words import percent, whole
from fewmask.runs import StepLine

AHEAD = 1.6  # the curve is drawn up to this multiple of the present labels
LINE = 150  # points of a line of losses; more could not be distinguished

Point = tuple[float, float]


def learning(runs: Sequence[ReportedRun]) -> Section:
    title = "Learning curve"
    methods = groups(runs)
    units = list(dict.fromkeys(group.runs[0].unit for group in methods))
    charts = [c for unit in units for c in _charts([g for g in methods if g.runs[0].unit == unit], unit)]
    words = [Note(w) for g in methods if len(methods) > 1 for w in outlook(g.runs, f"{g.name}: ")]
    if not charts:
        return Section("learning", title, [*_over_steps(runs), *words] or [Note(_why(runs), "missing")])
    lead = "Each point is the mean mIoU over domains on validation, for a network trained with that many labels."
    if any(not group.runs[0].rounds for group in methods):
        lead = "Each point is the mean mIoU over domains, for a network trained with that many labels."
    return Section("learning", title, [Charts(charts), *words], lead)


def _why(runs: Sequence[ReportedRun]) -> str:
    if any(reported.rounds for reported in runs):
        return "A learning curve: it needs two finished rounds with different labels, and validation images."
    return (
        "A learning curve: there is one training with one amount of labels. The rounds of a campaign, or runs with "
        "different labelled.images, show the effect of labels."
    )


def outlook(runs: Sequence[ReportedRun], name: str = "") -> list[str]:
    """The forecast from the rounds of all runs of one configuration: whether to label more."""
    settings, rounds = runs[0].config.campaign, _rounds(runs)
    if settings is None or not rounds:
        return []
    return [name + forecast_words(forecast(rounds, settings, runs[0].pool))]


def _rounds(runs: Sequence[ReportedRun]) -> list[Scored]:
    """The mean of each round over the runs with a score for it."""
    scored_rounds = []
    for number in range(max(len(reported.history) for reported in runs)):
        entries = [reported.history[number] for reported in runs if number < len(reported.history)]
        scores = [(e.total_cost, e.avg_miou) for e in entries if e.avg_miou is not None]
        if scores:
            labels, score = np.mean(scores, 0).tolist()
            scored_rounds.append(Scored(labels, score, len(scores)))
    return scored_rounds


def _charts(methods: Sequence[Group], unit: str) -> list[Chart]:
    by_run = {reported.name: _points(reported) for group in methods for reported in group.runs}
    if len({x for part in by_run.values() for x, _ in part}) < 2:
        return []
    series: list[Series] = []
    fits, forecasts = [], 0
    for place, group in enumerate(methods):
        curves = [by_run[reported.name] for reported in group.runs if by_run[reported.name]]
        if not curves:
            continue
        middle, band = _mean(curves, group.runs[0].rounds)
        fit = curve([point for part in curves for point in part])
        if fit is not None:
            last = max(x for x, _ in middle)
            fits.append(fit)
            explained = _explained(group)
            forecasts += explained
            series += _fitted(fit, min(x for x, _ in middle), last, place, explained, len(methods) < 3)
        several = len(curves) > 1
        if several:
            series += [Series(f.name, by_run[f.name], place, dots=True, line=False, faint=True) for f in group.runs]
        series.append(Series(group.name, middle, place, band, dots=not several))
    first = methods[0].runs[0].config.campaign
    caption = _caption(fits, forecasts, any(len(g.runs) > 1 for g in methods))
    title = f"mIoU by {unit}"
    charts = [
        lines(
            title, series, f"{unit} in all", "mIoU", caption=caption, target=first.target if first else None,
            description=_described(methods, by_run, unit), table=_table(methods, by_run, unit), wide=len(methods) > 1,
        )
    ]  # fmt: skip
    domains = list(methods[0].runs[0].config.domains)
    if methods[0].runs[0].rounds and len(domains) > 1:
        charts.append(_by_domain(methods[0], domains, unit))
    return charts


def _points(reported: ReportedRun) -> list[Point]:
    """The points (labels, mIoU): one for each round on validation, or one from the summary of a plain run."""
    if reported.rounds:
        return [(e.total_cost, e.avg_miou) for e in reported.history if e.avg_miou is not None]
    images = reported.image_counts
    if reported.summary is None or images is None or reported.summary.avg_miou is None:
        return []
    return [(float(images.labelled), reported.summary.avg_miou)]


def _mean(parts: Sequence[Sequence[Point]], rounds: bool) -> tuple[list[Point], list[tuple[float, float, float]]]:
    """The mean curve of several runs and their range, by round or by number of labels."""
    cells: dict[float, list[Point]] = {}
    for part in parts:
        for i, point in enumerate(part):
            cells.setdefault(i if rounds else point[0], []).append(point)
    middle, band = [], []
    for _, points_at in sorted(cells.items()):
        x = float(np.mean([x for x, _ in points_at]))
        ys = [y for _, y in points_at]
        middle.append((x, float(np.mean(ys))))
        band.append((x, min(ys), max(ys)))
    return middle, band if any(len(points_at) > 1 for points_at in cells.values()) else []


def _explained(group: Group) -> bool:
    """Whether the verdict has a forecast: labels explain the last change, and the curve rises."""
    settings, rounds = group.runs[0].config.campaign, _rounds(group.runs)
    result = forecast(rounds, settings) if settings is not None and rounds else None
    return result is None or (result.change is None and not result.flat)


def _fitted(fit: Curve, first: float, last: float, place: int, ahead: bool, banded: bool) -> list[Series]:
    """The fitted curve. With `ahead` it goes beyond the last point, and with `banded` its interval does too."""
    xs = np.linspace(first, AHEAD * last if ahead else last, 60).tolist()
    beyond = np.linspace(last, AHEAD * last, 20).tolist() if ahead and banded else []
    band = [(x, low, high) for x in beyond for low, _, high in [fit.interval(x)]]
    return [Series("", [(x, fit(x)) for x in xs], place, band, forecast=True)]


def _caption(fits: Sequence[Curve], forecasts: int, several: bool) -> str:
    parts = []
    if several:
        parts.append("Lines are means over the seeds, small markers single runs, and bands the ranges of the runs.")
    if fits:
        law = "; ".join("flat" if f.flat else f"{f.a:.3f} − {f.b:.3g}·n^(−{f.c:.2f})" for f in fits)
        interval = ", with the 80 % interval of the forecast" if forecasts else ""
        parts.append(f"Dashed: the power law a − b·n^(−c) through all points ({law}){interval}.")
        if forecasts < len(fits):
            parts.append(
                "No forecast is drawn where the last round changed more than its labels explain, or where the curve "
                "does not rise."
            )
    else:
        parts.append("A power law needs three rounds with different numbers of labels.")
    return " ".join(parts)


def _described(methods: Sequence[Group], by_run: dict[str, list[Point]], unit: str) -> str:
    sentences = []
    for group in methods:
        points = [point for reported in group.runs for point in by_run[reported.name]]
        if points:
            (x0, y0), (x1, y1) = min(points), max(points)
            sentences.append(
                f"{group.name}: from {percent(y0)} with {whole(x0)} {unit} to {percent(y1)} with {whole(x1)}"
            )
    return "; ".join(sentences) + "."


def _table(methods: Sequence[Group], by_run: dict[str, list[Point]], unit: str) -> Table:
    rows = [
        [group.name, reported.name, str(i + 1), whole(x), percent(y)]
        for group in methods
        for reported in group.runs
        for i, (x, y) in enumerate(by_run[reported.name])
    ]
    return Table(("method", "run", "point", unit, "mIoU"), rows, text_columns=2)


def _by_domain(group: Group, domains: Sequence[str], unit: str) -> Chart:
    series = []
    for place, name in enumerate(domains):
        parts = [
            [(e.cost[name], miou) for e in reported.history if (miou := e.miou.get(name)) is not None]
            for reported in group.runs
        ]
        if any(parts):
            middle, band = _mean([part for part in parts if part], rounds=True)
            series.append(Series(name, middle, place, band, dots=True))
    words = "; ".join(f"{s.name} from {percent(s.points[0][1])} to {percent(s.points[-1][1])}" for s in series)
    rows = [[s.name, whole(x), percent(y)] for s in series for x, y in s.points]
    table = Table(("domain", unit, "mIoU"), rows)
    return lines(
        f"By domain: {group.name}", series, f"{unit} in the domain", "mIoU", description=words, table=table,
        caption="The distribution of a shared budget, and the mIoU of each domain.",
    )  # fmt: skip


def _over_steps(runs: Sequence[ReportedRun]) -> list[Block]:
    """The validation curve during the training, for runs with more than one validation."""
    series = []
    for place, group in enumerate(groups(runs)):
        for reported in group.runs:
            validations = reported.summary.validation if reported.summary else []
            points = [(float(v.step), v.avg_miou) for v in validations if v.avg_miou is not None]
            if len(points) > 1:
                name = group.name if len(group.runs) == 1 else f"{group.name}, seed {reported.config.seed}"
                series.append(Series(name, points, place, dots=True, legend=group.name))
    if not series:
        return []
    words = "; ".join(f"{s.name}: {percent(s.points[0][1])} to {percent(s.points[-1][1])}" for s in series)
    chart = lines("mIoU on validation by step", series, "step", "mIoU", description=words, wide=True)
    return [Charts([chart]), Note(_why(runs), "missing")]


# ── Losses ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def losses(runs: Sequence[ReportedRun]) -> Section:
    title, name = "Losses", "losses"
    if not any(t.lines for reported in runs for t in reported.trainings):
        return Section(name, title, [Note("Loss curves: nothing was logged yet (no metrics.jsonl).", "missing")])
    methods = groups(runs)
    terms = list(dict.fromkeys(term for f in runs for t in f.trainings for line in t.lines for term in line.terms))
    charts = []
    for term in ["loss", *(terms if len(terms) > 1 else [])]:
        series = [
            Series(group.name if i == 0 else "", _curve(reported, term), place, faint=len(runs) > 1)
            for place, group in enumerate(methods)
            for i, reported in enumerate(group.runs)
        ]
        series = [s for s in series if s.points]
        first, last = [s.points[0][1] for s in series], [s.points[-1][1] for s in series]
        words = f"{term} from {plain_number(max(first))} to {plain_number(min(last))}"
        charts.append(
            lines(
                "in all" if term == "loss" else term, _named(series), "step", term, description=words,
                y_format=plain_number, narrowest=1e-3, zero=True, marks=_marks(runs[0]) if len(runs) == 1 else (),
            )
        )  # fmt: skip
    lead = "The terms are weighted as in the loss. Further metrics of the method are shown as well."
    if any(sum(len(t.lines) for t in reported.trainings) > LINE for reported in runs):
        lead += f" Each of the {LINE} points of a line is the mean of several logged steps."
    return Section(name, title, [Charts(charts)], lead)


def _named(series: Sequence[Series]) -> list[Series]:
    """The series, with the first of each group drawn strong and the others faint."""
    named_groups: set[int] = set()
    lines = []
    for s in series:
        first = s.group not in named_groups
        named_groups.add(s.group)
        lines.append(replace(s, faint=not first))
    return lines


def _curve(reported: ReportedRun, key: str) -> list[Point]:
    """The values over the steps of all rounds. Long curves are thinned to means of equal parts."""
    points, before = [], 0
    for training in reported.trainings:
        values = ((line.step, _value(line, key)) for line in training.lines)
        points += [(float(before + step), value) for step, value in values if value is not None]
        before += training.config.train.steps
    if len(points) <= LINE:
        return points
    parts = np.array_split(np.array(points), LINE)
    return [(float(x), float(y)) for x, y in (part.mean(0) for part in parts)]


def _value(line: StepLine, key: str) -> float | None:
    return line.loss if key == "loss" else line.terms.get(key)


def _marks(reported: ReportedRun) -> list[tuple[float, str]]:
    """The steps where a round or a phase begins, with their names."""
    marks, before = [], 0
    for training in reported.trainings:
        if reported.rounds:
            marks.append((float(before), f"round {training.number + 1}"))
        phase: Any = None
        for line in training.lines:
            if line.phase != phase and (phase is not None or not reported.rounds):
                marks.append((float(before + (line.step if phase is not None else 0)), line.phase))
            phase = line.phase
        before += training.config.train.steps
    phases = {word for _, word in marks}
    return marks if len(phases) > 1 else []
