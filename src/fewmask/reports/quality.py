"""How good the network is, class by class, and whether it knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fewmask.document.charts import Bar, bars, reliability
from fewmask.document.maps import LARGE, heat_map
from fewmask.document.model import Block, Chart, Charts, Note, Section, Table
from fewmask.engine.metrics import expected_calibration_error
from fewmask.reports.evaluation import SplitEvaluation
from fewmask.reports.reported_run import ReportedRun
from fewmask.reports.words import between, percent, points, whole

CONFUSIONS = 6  # the worst ones are told in words
NAMED = 3  # of a class, where the whole table would be too large


def classes(reported: ReportedRun, evaluations: Mapping[str, SplitEvaluation], without: Sequence[Note]) -> Section:
    """Per-class IoU with the change since the last round."""
    charts, notes = [], list(without)
    for name, own in _scores(reported, evaluations).items():
        before, why = _before(reported, name, own, evaluations.get(name))
        charts.append(_bars(reported, name, own, before))
        notes += [Note(why, "missing")] if why else []
    if not charts and not reported.finished:
        notes.append(Note("IoU by class: the run has not scored itself yet.", "missing"))
    lead = "Intersection over union of each class, over all pixels that are labelled." if charts else ""
    return Section("classes", "Classes", [*([Charts(charts)] if charts else []), *notes], lead)


def _scores(reported: ReportedRun, evaluations: Mapping[str, SplitEvaluation]) -> dict[str, dict[str, Any]]:
    """By domain, what was seen now; else what the run wrote down."""
    own = {n: s.to_dict() for n, s in reported.summary.domains.items()} if reported.summary else {}
    seen = {name: seen.scores | {"split": seen.split, "images": len(seen.stems)} for name, seen in evaluations.items()}
    return own | seen


def _before(
    reported: ReportedRun, name: str, own: Mapping[str, Any], seen: SplitEvaluation | None
) -> tuple[Mapping[str, float | None], str]:
    """The IoU of the round before on the same images, or why there is none to compare with."""
    done = [t for t in reported.trainings if t.summary is not None]
    if not reported.rounds or len(done) < 2:
        return {}, ""
    summary = done[-2].summary
    assert summary is not None
    earlier = summary.domains.get(name)
    if earlier is None or earlier.split != own["split"] or (seen is not None and not seen.whole):
        looked = f"{own['images']} images of {own['split']} were looked at now"
        then = f"{earlier.images} of {earlier.split}" if earlier else "none"
        return {}, f"The change since the last round in {name}: {looked}, {then} then. A larger --images shows it."
    return earlier.iou, ""


def _bars(reported: ReportedRun, name: str, own: Mapping[str, Any], before: Mapping[str, float | None]) -> Chart:
    order = sorted(own["iou"], key=lambda c: -1 if own["iou"][c] is None else own["iou"][c], reverse=True)
    given = [Bar(c, own["iou"][c], before.get(c)) for c in order]
    done = [t.number for t in reported.trainings if t.summary is not None]
    then = f"round {done[-2] + 1}" if len(done) > 1 else ""
    test = reported.summary.domains.get(name) if reported.summary else None
    head = ["class", own["split"], *([then, "change"] if before else [])]
    scored_on = test if test and test.split != own["split"] else None
    head += [scored_on.split] if scored_on else []
    sure = reported.intervals.domains[name].iou if reported.intervals and test else None
    head += [f"95 % on {test.split}"] if sure and test else []
    rows = []
    for bar in given:
        row = [bar.name, percent(bar.value)]
        if before:
            both = bar.value is not None and bar.before is not None
            row += [percent(bar.before), points(bar.value - bar.before) if both else "–"]  # type: ignore[operator]
        row += [percent(scored_on.iou.get(bar.name))] if scored_on else []
        rows.append(row + ([between(sure.get(bar.name))] if sure else []))
    known = [bar for bar in given if bar.value is not None]
    words = (
        f"best {known[0].name} with {percent(known[0].value)}, worst {known[-1].name} with {percent(known[-1].value)}"
    )
    words = f"{len(known)} classes; {words}." if known else "No class occurs."
    title = f"{name}, {own['split']}: mIoU {percent(own['miou'])}"
    caption = f"{whole(own['images'])} images."
    if any(bar.value is None for bar in given):
        caption += " A class that does not occur in them counts nowhere."
    return bars(title, given, before=then, description=words, caption=caption, table=Table(head, rows))


# ── Confusion ────────────────────────────────────────────────────────────────────────────────────────────────────────


def confusions(evaluations: Mapping[str, SplitEvaluation], without: Sequence[Note]) -> Section:
    blocks: list[Block] = []
    charts = []
    for name, seen in evaluations.items():
        if int(seen.matrix.sum()) == 0:
            blocks.append(Note(f"Confusion in {name}: no pixel of its {seen.split} images is labelled.", "missing"))
        elif len(seen.matrix) == 1:
            blocks.append(Note(f"Confusion in {name}: with one class there is nothing to confuse it with.", "missing"))
        else:
            charts.append(_confusion(seen))
    found: list[Block] = [Charts(charts)] if charts else []
    lead = "Of the pixels of each class (row), the share that is called each class (column), in %." if charts else ""
    return Section("confusion", "Confusion", [*found, *blocks, *without], lead)


def _confusion(seen: SplitEvaluation) -> Chart:
    names, counts = seen.domain.space.names, seen.matrix.double().numpy()
    pixels = counts.sum(1)
    shares = [
        [None] * len(names) if not pixels[i] else [float(v) for v in counts[i] / pixels[i]] for i in range(len(names))
    ]
    wrong = sorted(
        (
            (share, names[i], names[j])
            for i, row in enumerate(shares)
            for j, share in enumerate(row)
            if share and i != j
        ),
        reverse=True,
    )[:CONFUSIONS]
    words = "; ".join(f"{percent(share)} of {one} is called {other}" for share, one, other in wrong)
    return heat_map(
        f"{seen.domain.name}, {seen.split}", names, names, shares, "predicted", "labelled", format_value=percent,
        description=words or "Nothing is confused.",
        caption=f"Most often: {words}." if words else "Nothing is confused.",
        table=_table(names, pixels.tolist(), shares),
    )  # fmt: skip


def _table(names: Sequence[str], pixels: Sequence[float], shares: Sequence[Sequence[float | None]]) -> Table:
    """Every share; of many classes what each is called most often."""
    if len(names) < LARGE:
        rows = [[n, whole(p), *map(percent, own)] for n, p, own in zip(names, pixels, shares, strict=True)]
        return Table(("class", "pixels", *names), rows)
    rows = []
    for name, count, own in zip(names, pixels, shares, strict=True):
        most = sorted(((v, n) for v, n in zip(own, names, strict=True) if v), reverse=True)[:NAMED]
        rows.append([name, whole(count), "; ".join(f"{n} {percent(v)}" for v, n in most)])
    return Table(("class", "pixels", "is called"), rows, text_columns=3)


# ── Calibration ──────────────────────────────────────────────────────────────────────────────────────────────────────


def calibration(evaluations: Mapping[str, SplitEvaluation], without: Sequence[Note]) -> Section:
    charts = []
    blocks: list[Block] = []
    for name, seen in evaluations.items():
        error = expected_calibration_error(seen.reliability)
        if error is None:
            blocks.append(Note(f"Calibration in {name}: no pixel of its {seen.split} images is labelled.", "missing"))
            continue
        pixels, right, sure = seen.reliability.sum(0).tolist()
        lean = "too sure" if sure > right else "not sure enough"
        words = f"On average {percent(sure / pixels)} sure and {percent(right / pixels)} right: {lean}"
        title = f"{name}, {seen.split}: expected calibration error {percent(error)}"
        caption = f"{words}. The dashed line is a network that knows how often it is right."
        charts.append(reliability(title, seen.reliability.tolist(), description=f"{words}.", caption=caption))
    found: list[Block] = [Charts(charts)] if charts else []
    lead = (
        "How often the network is right where it is so sure: pixels by the probability of the class that it chose."
        if charts
        else ""
    )
    return Section("calibration", "Calibration", [*found, *blocks, *without], lead)
