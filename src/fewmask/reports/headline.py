"""The first thing that one sees: how good, for how many labels, and what to do next."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from fewmask.comparison.single import Intervals
from fewmask.document.model import Block, Figure, Figures, Note, Section, Table
from fewmask.plurals import agreeing, count, duration
from fewmask.reports.learning import outlook
from fewmask.reports.reported_run import Group, ImageCounts, ReportedRun, by_labels, groups
from fewmask.reports.words import between, percent, points, whole


def headline(runs: Sequence[ReportedRun], answers: Sequence[Block] = ()) -> Section:
    """`answers` are the verdicts of a comparison. What a reader came for stands first, and the figures behind it."""
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
    """The mean of runs that differ by their seed alone, with their spread."""
    known = [s for s in map(scored, group.runs) if s is not None]
    values = [miou for _, miou in known if miou is not None]
    if not values:
        return Figure(group.name, "–", "not scored yet")
    on = " and ".join(sorted({split for split, _ in known}))
    over = f"± {100 * statistics.stdev(values):.1f} over {len(values)} runs, " if len(values) > 1 else "one run, "
    return Figure(group.name, percent(statistics.fmean(values)), f"{over}mIoU on {on}")


def _certain(runs: Sequence[ReportedRun]) -> list[Block]:
    """Domains whose figures say nothing of the network."""
    own = {name: s for reported in runs if reported.summary for name, s in reported.summary.domains.items()}
    alone = {name: next(iter(s.iou)) for name, s in own.items() if len(s.iou) == 1}
    return [
        Note(
            f"{name} has the one class {only}, which every network finds everywhere: its mIoU is 100 % whatever was "
            "learned. A second class, background say, makes it a figure."
        )
        for name, only in alone.items()
    ]


def _shared_outlook(runs: Sequence[ReportedRun]) -> list[Block]:
    """Of runs of one method; of several each stands beside its curve."""
    found = groups(runs)
    return [Note(words, "verdict") for words in outlook(runs)] if len(found) == 1 else []


def _figures(reported: ReportedRun) -> list[Figure]:
    found = []
    test, validation = scored(reported), validated(reported)
    if test is not None:
        split, miou = test
        again = "scored once, at the end" if split == "test" else "not on test; this is what selected the weights"
        own = reported.intervals
        sure = f"95 %: {between(own.avg_miou)} over {count(own.images, 'image')}; " if own and own.avg_miou else ""
        found.append(Figure(f"mIoU on {split}", percent(miou), sure + again))
    if validation is not None and (test is None or test[0] != "val"):
        before = [e.avg_miou for e in reported.history[:-1] if e.avg_miou is not None]
        change = f"{points(validation - before[-1])} points since the last round" if before else "selects the weights"
        found.append(Figure("mIoU on validation", percent(validation), change))
    found.append(_labels(reported))
    if reported.campaign and reported.campaign.answered:
        told = reported.campaign
        who = "by the cost model: the annotator is simulated" if simulated(reported) else f"{whole(told.clicks)} clicks"
        if told.seconds or told.clicks:
            found.append(Figure("Annotator's time", duration(told.seconds), who))
        else:
            found.append(Figure("Annotator's time", "–", "not measured: painting programs do not tell"))
    steps = sum(t.steps for t in reported.trainings)
    seconds = sum(t.lines[-1].seconds for t in reported.trainings if t.lines)
    found.append(Figure("Training", duration(seconds), f"{count(steps, 'step')}, {reported.config.method.name}"))
    return found


def _labels(reported: ReportedRun) -> Figure:
    if reported.history:
        last = reported.history[-1]
        pixels = f"; {count(sum(last.pixels.values()), 'pixel')} decided" if reported.unit != "pixels" else ""
        return Figure("Labels", whole(last.total_cost), reported.unit + _made_of(reported) + pixels)
    images = reported.image_counts
    if images is not None:
        part = f", {whole(images.in_part)} in part" if images.in_part else ""
        beside = f"wholly{part}; {whole(images.without)} without labels"
        return Figure("Labelled images", whole(images.whole), beside)
    chosen = reported.config.labelled.images
    return Figure("Labelled images", "all" if chosen is None else whole(chosen), "per domain")


def _made_of(reported: ReportedRun) -> str:
    """Which part of a campaign's labels was there before anything was asked."""
    before = reported.start
    if before is None or not before.cost:
        return ""
    if before.masks is None:
        return f", {whole(before.cost)} of them in masks that were there before"
    masks = count(before.masks, "mask")
    asked = reported.history[-1].total_cost - before.cost
    rest = f" and {whole(asked)} asked" if round(asked) else ""
    return f": {whole(before.cost)} for {masks} that {agreeing(before.masks, 'was', 'were')} there before{rest}"


def _verdicts(reported: ReportedRun) -> list[Block]:
    """The answer first: of a campaign what to do next, of a single run how good it is."""
    found: list[Block] = [Note(words, "verdict") for words in outlook([reported])]
    test, own = scored(reported), reported.intervals
    if not found and reported.finished and test is not None and test[1] is not None:
        found.append(Note(_score(test[0], test[1], own), "verdict"))
    if not reported.finished:
        found.append(Note(f"State of this run: {reported.state}. The page shows what there is so far.", "missing"))
    return found


def _score(split: str, miou: float, own: Intervals | None) -> str:
    if own is None or own.avg_miou is None:
        return f"{percent(miou)} mIoU on {split}, of one run. How far another seed is from it, further runs tell."
    return (
        f"{percent(miou)} ({between(own.avg_miou)}) mIoU on {split}: the 95 % interval over "
        f"{count(own.images, 'image')}, of this one network. How far another seed is from it, further runs tell."
    )


def _domains(reported: ReportedRun) -> list[Block]:
    """A row for each domain, where the run has scored them."""
    if reported.summary is None:
        return []
    own, intervals = reported.summary.domains, reported.intervals
    if not own:
        return [Note("Scores: no image of val or test had a mask when the run ended.", "missing")]
    aligned = any(s.divided for s in own.values())
    head = ["domain", "classes", "wholly labelled", "in part", "without", "scored on", "images", "mIoU", "95 %"]
    head += ["pixel accuracy"]
    head += ["shared classes", "private classes"] if aligned else []
    rows = []
    for name, s in own.items():
        images = ImageCounts.of(reported.summary, [name])
        row = [name, str(len(s.iou)), whole(images.whole), whole(images.in_part), whole(images.without)]
        ends = intervals.domains[name].miou if intervals is not None else None
        row += [s.split, whole(s.images), percent(s.miou), between(ends), percent(s.pixel_accuracy)]
        row += [percent(s.miou_shared), percent(s.miou_private)] if aligned else []
        rows.append(row)
    unseen = [
        Note(f"{name}: no labelled mask has a pixel of {', '.join(missing)}, so that nothing could be learnt of that.")
        for name, missing in reported.summary.unseen.items()
        if name in reported.domains
    ]
    unseen += [Note(f"Intervals of the scores: {why}", "missing")] if (why := reported.no_intervals) else []
    return [Table(head, rows, caption="The run's own scores, by domain", text_columns=1), *unseen]


def _runs(runs: Sequence[ReportedRun]) -> Table:
    """A row for each run."""
    names = list(dict.fromkeys(name for reported in runs for name in reported.domains))
    head = ["run", "method", "seed", "state", "labels", "mIoU on validation", "scored on", "mIoU"]
    head += names if len(names) > 1 else []
    rows = []
    for reported in runs:
        test = scored(reported)
        split, miou = test or ("–", None)
        own = reported.summary.domains if reported.summary else {}
        state = "done" if reported.finished else "not finished"
        row = [reported.name, reported.config.method.name, str(reported.config.seed), state]
        row += [f"{_labels(reported).value} {reported.unit}", percent(validated(reported)), split, percent(miou)]
        row += [percent(own[name].miou if name in own else None) for name in names] if len(names) > 1 else []
        rows.append(row)
    return Table(head, rows, caption="Every run", text_columns=2)


def scored(reported: ReportedRun) -> tuple[str, float | None] | None:
    """The split that the run's summary was scored on, and the mean mIoU; None where there is no summary."""
    if reported.summary is None or not reported.summary.domains:
        return None
    splits = {s.split for s in reported.summary.domains.values()}
    return " and ".join(sorted(splits)), reported.summary.avg_miou


def validated(reported: ReportedRun) -> float | None:
    """The mean mIoU on validation of the weights that were kept."""
    chosen = reported.summary.selected if reported.summary else None
    return chosen.avg_miou if chosen else None


def simulated(reported: ReportedRun) -> bool:
    return reported.config.campaign is not None and reported.config.campaign.annotator == "oracle"
