"""The sections of IoU by class, of confusion, and of calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fewmask.document.charts import Bar, bars, reliability
from fewmask.document.maps import LARGE, heat_map
from fewmask.document.model import Block, Chart, Charts, Note, Section, Table
from fewmask.engine.metrics import expected_calibration_error
from fewmask.plurals import count
from fewmask.reports.evaluation import SplitEvaluation
from fewmask.reports.reported_run import ReportedRun
from fewmask.reports.words import between, percent, points, whole

CONFUSIONS = 6  # confusions that the caption lists, the worst first
NAMED = 3  # confusions of a class that the table lists if there are many classes


def classes(reported: ReportedRun, evaluations: Mapping[str, SplitEvaluation], without: Sequence[Note]) -> Section:
    """The section of per-class IoU, with the change since the last round."""
    charts, notes = [], list(without)
    for name, scores in _scores(reported, evaluations).items():
        before, why = _before(reported, name, scores, evaluations.get(name))
        charts.append(_bars(reported, name, scores, before))
        notes += [Note(why, "missing")] if why else []
    if not charts and not reported.finished:
        notes.append(Note("IoU by class: the run has not scored itself yet.", "missing"))
    lead = "Intersection over union of each class, over all pixels that are labelled." if charts else ""
    return Section("classes", "Classes", [*([Charts(charts)] if charts else []), *notes], lead)


def _scores(reported: ReportedRun, evaluations: Mapping[str, SplitEvaluation]) -> dict[str, dict[str, Any]]:
    """The scores by domain: those of this evaluation, or else those of the run's summary."""
    summary_scores = {n: s.to_dict() for n, s in reported.summary.domains.items()} if reported.summary else {}
    evaluated = {
        name: evaluated.scores | {"split": evaluated.split, "images": len(evaluated.stems)}
        for name, evaluated in evaluations.items()
    }
    return summary_scores | evaluated


def _before(
    reported: ReportedRun, name: str, scores: Mapping[str, Any], evaluation: SplitEvaluation | None
) -> tuple[Mapping[str, float | None], str]:
    """The IoU of the previous round on the same images, or the reason why it is not comparable."""
    done = [t for t in reported.trainings if t.summary is not None]
    if not reported.rounds or len(done) < 2:
        return {}, ""
    summary = done[-2].summary
    assert summary is not None
    earlier = summary.domains.get(name)
    if earlier is None or earlier.split != scores["split"] or (evaluation is not None and not evaluation.whole):
        now_images = f"{scores['images']} images of {scores['split']} were evaluated now"
        earlier_images = f"{earlier.images} of {earlier.split}" if earlier else "none"
        return (
            {},
            f"The change since the last round in {name}: {now_images}, {earlier_images} in that round. A larger "
            "--images shows the change.",
        )
    return earlier.iou, ""


def _bars(reported: ReportedRun, name: str, scores: Mapping[str, Any], before: Mapping[str, float | None]) -> Chart:
    order = sorted(scores["iou"], key=lambda c: -1 if scores["iou"][c] is None else scores["iou"][c], reverse=True)
    class_bars = [Bar(c, scores["iou"][c], before.get(c)) for c in order]
    done = [t.number for t in reported.trainings if t.summary is not None]
    previous = f"round {done[-2] + 1}" if len(done) > 1 else ""
    test = reported.summary.domains.get(name) if reported.summary else None
    head = ["class", scores["split"], *([previous, "change"] if before else [])]
    scored_on = test if test and test.split != scores["split"] else None
    head += [scored_on.split] if scored_on else []
    intervals = reported.intervals.domains[name].iou if reported.intervals and test else None
    head += [f"95 % on {test.split}"] if intervals and test else []
    rows = []
    for bar in class_bars:
        row = [bar.name, percent(bar.value)]
        if before:
            comparable = bar.value is not None and bar.before is not None
            row += [percent(bar.before), points(bar.value - bar.before) if comparable else "–"]  # type: ignore[operator]
        row += [percent(scored_on.iou.get(bar.name))] if scored_on else []
        rows.append(row + ([between(intervals.get(bar.name))] if intervals else []))
    defined = [bar for bar in class_bars if bar.value is not None]
    words = "No class occurs."
    if defined:
        best, worst = (f"{bar.name} with {percent(bar.value)}" for bar in (defined[0], defined[-1]))
        words = f"{count(len(defined), 'class', 'classes')}; best {best}, worst {worst}."
    title = f"{name}, {scores['split']}: mIoU {percent(scores['miou'])}"
    caption = f"{count(scores['images'], 'image')}."
    if any(bar.value is None for bar in class_bars):
        caption += " Classes that do not occur in them are left out of the mean."
    return bars(title, class_bars, before=previous, description=words, caption=caption, table=Table(head, rows))


# ── Confusion ────────────────────────────────────────────────────────────────────────────────────────────────────────


def confusions(evaluations: Mapping[str, SplitEvaluation], without: Sequence[Note]) -> Section:
    blocks: list[Block] = []
    charts = []
    for name, evaluation in evaluations.items():
        if int(evaluation.matrix.sum()) == 0:
            blocks.append(
                Note(f"Confusion in {name}: no pixel of its {evaluation.split} images is labelled.", "missing")
            )
        elif len(evaluation.matrix) == 1:
            blocks.append(Note(f"Confusion in {name}: with one class there is no confusion.", "missing"))
        else:
            charts.append(_confusion(evaluation))
    chart_blocks: list[Block] = [Charts(charts)] if charts else []
    lead = (
        "The share of the pixels of each class (row) that is predicted as each class (column), in %." if charts else ""
    )
    return Section("confusion", "Confusion", [*chart_blocks, *blocks, *without], lead)


def _confusion(evaluation: SplitEvaluation) -> Chart:
    names, counts = evaluation.domain.space.names, evaluation.matrix.double().numpy()
    pixels = counts.sum(1)
    shares = [
        [None] * len(names) if not pixels[i] else [float(v) for v in counts[i] / pixels[i]] for i in range(len(names))
    ]
    worst = sorted(
        (
            (share, names[i], names[j])
            for i, row in enumerate(shares)
            for j, share in enumerate(row)
            if share and i != j
        ),
        reverse=True,
    )[:CONFUSIONS]
    words = "; ".join(
        f"{percent(share)} of {true_class} is predicted as {predicted_class}"
        for share, true_class, predicted_class in worst
    )
    return heat_map(
        f"{evaluation.domain.name}, {evaluation.split}", names, names, shares, "predicted", "labelled",
        format_value=percent, description=words or "There is no confusion.",
        caption=f"Most often: {words}." if words else "There is no confusion.",
        table=_table(names, pixels.tolist(), shares),
    )  # fmt: skip


def _table(names: Sequence[str], pixels: Sequence[float], shares: Sequence[Sequence[float | None]]) -> Table:
    """A table of all shares. With many classes it lists only the most frequent confusions of each class."""
    if len(names) < LARGE:
        rows = [
            [n, whole(p), *map(percent, row_shares)] for n, p, row_shares in zip(names, pixels, shares, strict=True)
        ]
        return Table(("class", "pixels", *names), rows)
    rows = []
    for name, total, row_shares in zip(names, pixels, shares, strict=True):
        most = sorted(((v, n) for v, n in zip(row_shares, names, strict=True) if v), reverse=True)[:NAMED]
        rows.append([name, whole(total), "; ".join(f"{n} {percent(v)}" for v, n in most)])
    return Table(("class", "pixels", "is predicted as"), rows, text_columns=3)


# ── Calibration ──────────────────────────────────────────────────────────────────────────────────────────────────────


def calibration(evaluations: Mapping[str, SplitEvaluation], without: Sequence[Note]) -> Section:
    charts = []
    blocks: list[Block] = []
    for name, evaluation in evaluations.items():
        error = expected_calibration_error(evaluation.reliability)
        if error is None:
            blocks.append(
                Note(f"Calibration in {name}: no pixel of its {evaluation.split} images is labelled.", "missing")
            )
            continue
        pixels, right, confidence = evaluation.reliability.sum(0).tolist()
        tendency = "overconfident" if confidence > right else "underconfident"
        words = (
            f"The mean confidence is {percent(confidence / pixels)} and the accuracy {percent(right / pixels)}: the "
            f"network is {tendency}"
        )
        title = f"{name}, {evaluation.split}: expected calibration error {percent(error)}"
        caption = f"{words}. The dashed line is perfect calibration."
        charts.append(reliability(title, evaluation.reliability.tolist(), description=f"{words}.", caption=caption))
    chart_blocks: list[Block] = [Charts(charts)] if charts else []
    lead = (
        "The accuracy of the pixels by confidence, which is the probability of the predicted class." if charts else ""
    )
    return Section("calibration", "Calibration", [*chart_blocks, *blocks, *without], lead)
