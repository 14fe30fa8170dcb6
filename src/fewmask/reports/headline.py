"""The first section: the scores, the number of labels, and the recommended next step."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from fewmask.comparison.single import Intervals
from fewmask.comparison.words import SIMILAR_IMAGES
from fewmask.document.model import Block, Figure, Figures, Note, Section, Table
from fewmask.plurals import count, duration
from fewmask.reports.learning import outlook
from fewmask.reports.reported_run import Group, ImageCounts, ReportedRun, by_labels, groups
from fewmask.reports.words import between, percent, points, whole


def headline(runs: Sequence[ReportedRun], answers: Sequence[Block] = ()) -> Section:
    """The first section. The verdicts come first, `answers` of a comparison among them, and then the figures."""
    blocks: list[Block] = [*answers]
    if len(runs) == 1:
        blocks += [*_verdicts(runs[0]), Figures(_figures(runs[0])), *_domains(runs[0])]
    else:
        blocks += [
            *_shared_outlook(runs),
            Figures([_group(part) for group in groups(runs) for part in by_labels(group)]),
            _runs(runs),
        ]
        blocks += [*(Note(f"{reported.name} is {reported.state}.") for reported in runs if not reported.finished)]
    blocks += _certain(runs)
    return Section("headline", "At a glance", blocks)


def _group(group: Group) -> Figure:
    """The mean of the runs of one configuration, with their spread."""
    scores = [s for s in map(scored, group.runs) if s is not None]
    values = [miou for _, miou in scores if miou is not None]
    if not values:
        return Figure(group.name, "–", "not scored yet")
    on = " and ".join(sorted({split for split, _ in scores}))
    over = f"± {100 * statistics.stdev(values):.1f} over {len(values)} runs, " if len(values) > 1 else "one run, "
    return Figure(group.name, percent(statistics.fmean(values)), f"{over}mIoU on {on}")


def _certain(runs: Sequence[ReportedRun]) -> list[Block]:
    """Notes about domains with a single class, whose scores are 100 % for every network."""
    scores = {name: s for reported in runs if reported.summary for name, s in reported.summary.domains.items()}
    alone = {name: next(iter(s.iou)) for name, s in scores.items() if len(s.iou) == 1}
    return [
        Note(
            f"{name} has only the class {only}, which every network predicts everywhere: its mIoU is always 100 %. Add "
            "a second class, such as background, for a meaningful score."
        )
        for name, only in alone.items()
    ]


def _shared_outlook(runs: Sequence[ReportedRun]) -> list[Block]:
    """The outlook of one method. With several methods, each outlook is in the section of the learning curve."""
    single_method = groups(runs)
    return [Note(words, "verdict") for words in outlook(runs)] if len(single_method) == 1 else []


def _figures(reported: ReportedRun) -> list[Figure]:
    figures = []
    test, validation = scored(reported), validated(reported)
    if test is not None:
        split, miou = test
        explanation = (
            "scored once, at the end" if split == "test" else "not on test; this split also selected the weights"
        )
        intervals = reported.intervals
        interval = (
            f"95 %: {between(intervals.avg_miou)} over {count(intervals.images, 'image')}; "
            if intervals and intervals.avg_miou
            else ""
        )
        figures.append(Figure(f"mIoU on {split}", percent(miou), interval + explanation))
    if validation is not None and (test is None or test[0] != "val"):
        before = [e.avg_miou for e in reported.history[:-1] if e.avg_miou is not None]
        change = f"{points(validation - before[-1])} points since the last round" if before else "selects the weights"
        figures.append(Figure("mIoU on validation", percent(validation), change))
    figures.append(_labels(reported))
    if reported.campaign and reported.campaign.answered:
        campaign = reported.campaign
        source = (
            "by the cost model; the annotator is simulated"
            if simulated(reported)
            else f"{whole(campaign.clicks)} clicks"
        )
        if campaign.seconds or campaign.clicks:
            figures.append(Figure("Annotator's time", duration(campaign.seconds), source))
        else:
            figures.append(Figure("Annotator's time", "–", "not measured: painting programs do not report it"))
    steps = sum(t.steps for t in reported.trainings)
    seconds = sum(t.lines[-1].seconds for t in reported.trainings if t.lines)
    figures.append(Figure("Training", duration(seconds), f"{count(steps, 'step')}, {reported.config.method.name}"))
    return figures


def _labels(reported: ReportedRun) -> Figure:
    if reported.history:
        last = reported.history[-1]
        pixels = f"; {count(sum(last.pixels.values()), 'pixel')} decided" if reported.unit != "pixels" else ""
        return Figure("Labels", whole(last.total_cost), reported.unit + _made_of(reported) + pixels)
    images = reported.image_counts
    if images is not None:
        part = f", {whole(images.in_part)} in part" if images.in_part else ""
        details = f"wholly{part}; {whole(images.without)} without labels"
        return Figure("Labelled images", whole(images.whole), details)
    chosen = reported.config.labelled.images
    return Figure("Labelled images", "all" if chosen is None else whole(chosen), "per domain")


def _made_of(reported: ReportedRun) -> str:
    """The part of a campaign's labels that existed before the first question."""
    before = reported.start
    if before is None or not before.cost:
        return ""
    if before.masks is None:
        return f", {whole(before.cost)} of them in masks from before the campaign"
    masks = count(before.masks, "mask")
    asked_cost = reported.history[-1].total_cost - before.cost
    rest = f" and {whole(asked_cost)} asked" if round(asked_cost) else ""
    return f": {whole(before.cost)} in {masks} from before the campaign{rest}"


def _verdicts(reported: ReportedRun) -> list[Block]:
    """The verdict of one run: the outlook of a campaign, or the score of a plain run."""
    notes: list[Block] = [Note(words, "verdict") for words in outlook([reported])]
    test, intervals = scored(reported), reported.intervals
    if not notes and reported.finished and test is not None and test[1] is not None:
        notes.append(Note(_score(test[0], test[1], intervals), "verdict"))
    if not reported.finished:
        notes.append(Note(f"State of this run: {reported.state}. The page shows the results so far.", "missing"))
    return notes


def _score(split: str, miou: float, intervals: Intervals | None) -> str:
    if intervals is None or intervals.avg_miou is None:
        return f"{percent(miou)} mIoU on {split}, of one run. Runs with other seeds show the variation between seeds."
    return (
        f"{percent(miou)} ({between(intervals.avg_miou)}) mIoU on {split}. The 95 % interval is over "
        f"{count(intervals.images, 'image')}, for this network. {SIMILAR_IMAGES} Runs with other seeds show the "
        "variation between seeds."
    )


def _domains(reported: ReportedRun) -> list[Block]:
    """A table with a row for each scored domain."""
    if reported.summary is None:
        return []
    scores, intervals = reported.summary.domains, reported.intervals
    if not scores:
        return [Note("Scores: no image of val or test had a mask when the run ended.", "missing")]
    aligned = any(s.divided for s in scores.values())
    head = ["domain", "classes", "wholly labelled", "in part", "without", "scored on", "images", "mIoU", "95 %"]
    head += ["pixel accuracy"]
    head += ["shared classes", "private classes"] if aligned else []
    rows = []
    for name, s in scores.items():
        images = ImageCounts.from_summary(reported.summary, [name])
        row = [name, str(len(s.iou)), whole(images.whole), whole(images.in_part), whole(images.without)]
        ends = intervals.domains[name].miou if intervals is not None else None
        row += [s.split, whole(s.images), percent(s.miou), between(ends), percent(s.pixel_accuracy)]
        row += [percent(s.miou_shared), percent(s.miou_private)] if aligned else []
        rows.append(row)
    unseen = [
        Note(f"{name}: no labelled mask has a pixel of {', '.join(missing)}, so the network could not learn this.")
        for name, missing in reported.summary.unseen.items()
        if name in reported.domains
    ]
    unseen += [Note(f"Intervals of the scores: {why}", "missing")] if (why := reported.no_intervals) else []
    return [Table(head, rows, caption="The run's own scores, by domain", text_columns=1), *unseen]


def _runs(runs: Sequence[ReportedRun]) -> Table:
    """A table with a row for each run."""
    names = list(dict.fromkeys(name for reported in runs for name in reported.domains))
    head = ["run", "method", "seed", "state", "labels", "mIoU on validation", "scored on", "mIoU"]
    head += names if len(names) > 1 else []
    rows = []
    for reported in runs:
        test = scored(reported)
        split, miou = test or ("–", None)
        scores = reported.summary.domains if reported.summary else {}
        state = "done" if reported.finished else "not finished"
        row = [reported.name, reported.config.method.name, str(reported.config.seed), state]
        row += [f"{_labels(reported).value} {reported.unit}", percent(validated(reported)), split, percent(miou)]
        row += [percent(scores[name].miou if name in scores else None) for name in names] if len(names) > 1 else []
        rows.append(row)
    return Table(head, rows, caption="Every run", text_columns=2)


def scored(reported: ReportedRun) -> tuple[str, float | None] | None:
    """The split of the run's summary, and the mean mIoU; None if there is no summary."""
    if reported.summary is None or not reported.summary.domains:
        return None
    splits = {s.split for s in reported.summary.domains.values()}
    return " and ".join(sorted(splits)), reported.summary.avg_miou


def validated(reported: ReportedRun) -> float | None:
    """The mean mIoU of the selected weights on validation."""
    chosen = reported.summary.selected if reported.summary else None
    return chosen.avg_miou if chosen else None


def simulated(reported: ReportedRun) -> bool:
    return reported.config.campaign is not None and reported.config.campaign.annotator == "oracle"
