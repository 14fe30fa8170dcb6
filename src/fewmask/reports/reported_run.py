"""What a run's folder says of itself, read without its data but for the pool's size; whatever is not there is None or
empty."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from fewmask.campaigns.history import pool_cost, unit_of
from fewmask.comparison.single import Intervals, score_intervals
from fewmask.config import Config
from fewmask.engine.run import load_config, load_domains
from fewmask.plurals import count
from fewmask.runs import CampaignSummary, Entry, RunFolder, StepLine, Summary, settings_of


@dataclass(frozen=True)
class Training:
    """One training: a plain run, or a round of a campaign."""

    number: int
    run: RunFolder
    config: Config
    summary: Summary | None
    """None while it is not finished."""
    lines: Sequence[StepLine]

    @property
    def steps(self) -> int:
        return self.lines[-1].step if self.lines else 0


@dataclass(frozen=True)
class ImageCounts:
    """Images of train, each counted once."""

    whole: int
    in_part: int
    without: int

    @classmethod
    def of(cls, summary: Summary, domains: Sequence[str]) -> ImageCounts:
        labelled, pool, in_part = (
            sum(counts.get(name, 0) for name in domains)
            for counts in (summary.labelled, summary.unlabelled, summary.in_part)
        )
        return cls(labelled - in_part, in_part, pool - in_part)

    @property
    def labelled(self) -> int:
        return self.whole + self.in_part


@dataclass(frozen=True)
class Start:
    """The labels that a campaign began with: their cost in the budget's unit, and how many masks they are in, where
    that is known."""

    cost: float
    masks: int | None


@dataclass(frozen=True)
class ReportedRun:
    """A run, as its folder tells it."""

    folder: Path
    name: str
    """What the page calls it: unique among its runs."""
    config: Config
    summary: Summary | None
    campaign: CampaignSummary | None
    """campaign.json; None where there is none yet."""
    trainings: Sequence[Training]
    """The rounds of a campaign that began, or the run itself."""

    @property
    def rounds(self) -> bool:
        return self.config.campaign is not None

    @property
    def history(self) -> list[Entry]:
        return self.campaign.history if self.campaign else []

    @property
    def unit(self) -> str:
        """What its labels are counted in."""
        return unit_of(self.config.campaign) if self.config.campaign else "labelled images"

    @property
    def trained(self) -> bool:
        """There is a network to look at."""
        run = RunFolder(self.folder)
        return run.weights.exists() and run.model.exists()

    @property
    def domains(self) -> tuple[str, ...]:
        """The domains that it trained; while it is not finished, all that it has."""
        return tuple(self.summary.trained if self.summary is not None else self.config.domains)

    @property
    def image_counts(self) -> ImageCounts | None:
        """How many images it trained on; None while it is not finished."""
        return None if self.summary is None else ImageCounts.of(self.summary, self.domains)

    @property
    def intervals(self) -> Intervals | None:
        """95 % intervals of its scores; None where there are none."""
        return self._intervals[0]

    @property
    def no_intervals(self) -> str:
        """What keeps a file of counts from being used; empty where nothing does."""
        return self._intervals[1]

    @cached_property
    def _intervals(self) -> tuple[Intervals | None, str]:
        if self.summary is None or not self.finished:
            return None, ""
        try:
            return score_intervals(self.folder), ""
        except ValueError as error:
            return None, str(error)

    @cached_property
    def start(self) -> Start | None:
        """What was labelled before anything was asked; None of a plain run, and before the first round has begun."""
        if not self.rounds or not self.run.record(0).exists():
            return None
        cost = sum(cost for _, cost in self.run.read_record(0).start.values())
        asked_before = self.config.campaign is not None and self.config.campaign.first is not None
        first = self.trainings[0].summary if self.trainings else None
        masks = None if first is None or asked_before else sum(first.labelled.values())
        return Start(cost, masks)

    @property
    def run(self) -> RunFolder:
        return RunFolder(self.folder)

    @property
    def finished(self) -> bool:
        return self.campaign.state == "done" if self.rounds and self.campaign else self.summary is not None

    @cached_property
    def pool(self) -> float | None:
        """About how much there is to label in train, in its unit; None where that is no area, or the data is gone."""
        settings = self.config.campaign
        if settings is None:
            return None
        try:
            return pool_cost(settings, load_domains(self.config).values())
        except ValueError:
            return None

    @property
    def state(self) -> str:
        """How far it is, in words."""
        if self.rounds:
            assert self.config.campaign is not None
            done, rounds = sum(t.summary is not None for t in self.trainings), self.config.campaign.rounds
            if self.campaign and self.campaign.state == "waiting":
                return f"{done} of {rounds} rounds are done; waiting for answers to {self.campaign.open:,} questions"
            return "done" if self.finished else f"not finished: {done} of {rounds} rounds are done"
        step = self.trainings[0].steps
        return "done" if self.finished else f"not finished: step {step:,} of {self.config.train.steps:,} was logged"

    @cached_property
    def essence(self) -> str:
        """Equal for runs that differ in nothing but the seed, how many images were labelled, and where they are."""
        own = settings_of(self.config.model_dump(mode="json", serialize_as_any=True))
        return json.dumps({k: v for k, v in own.items() if not k.startswith("labelled.")}, sort_keys=True)


@dataclass(frozen=True)
class Group:
    """Runs of one configuration; their seeds, and at times their labels, differ."""

    name: str
    runs: Sequence[ReportedRun]


def read_runs(folders: Sequence[Path]) -> list[ReportedRun]:
    """The facts of runs. Raises ValueError for a folder that is no run, or one that is named twice."""
    real = [folder.resolve() for folder in folders]
    if twice := sorted({str(f) for f in real if real.count(f) > 1}):
        raise ValueError(f"{', '.join(twice)}: named twice; name each run once")
    names = _names(real)
    return [_read_run(folder, names[path]) for folder, path in zip(folders, real, strict=True)]


def groups(runs: Sequence[ReportedRun]) -> list[Group]:
    """Runs of one configuration together, in the order of the first of each."""
    found: dict[str, list[ReportedRun]] = {}
    for reported in runs:
        found.setdefault(reported.essence, []).append(reported)
    methods = [part[0].config.method.name for part in found.values()]
    named = [
        method if methods.count(method) == 1 else f"{method} ({part[0].config.name})"
        for method, part in zip(methods, found.values(), strict=True)
    ]
    unique = [
        n if named.count(n) == 1 else f"{n}, {part[0].name}" for n, part in zip(named, found.values(), strict=True)
    ]
    return [Group(name, part) for name, part in zip(unique, found.values(), strict=True)]


def by_labels(group: Group) -> list[Group]:
    """Its runs of one `labelled.images` together, fewest first: what they differ by is their seeds' alone."""
    found: dict[int | None, list[ReportedRun]] = {}
    for reported in group.runs:
        found.setdefault(reported.config.labelled.images, []).append(reported)
    if len(found) == 1:
        return [group]
    counts = sorted(found, key=lambda images: (images is None, images))
    return [Group(f"{group.name}, {_labels(images)}", found[images]) for images in counts]


def _labels(images: int | None) -> str:
    return "all labels" if images is None else f"{count(images, 'labelled image')} a domain"


def _names(folders: Sequence[Path]) -> dict[Path, str]:
    """Each folder's name, with as many of those above it as tell it from the others."""
    for depth in range(1, max(len(folder.parts) for folder in folders) + 1):
        names = {folder: "/".join(folder.parts[-depth:]) for folder in folders}
        if len(set(names.values())) == len(folders):
            break
    return names


def _read_run(folder: Path, name: str) -> ReportedRun:
    config, run = load_config(folder), RunFolder(folder)
    trainings = [_training(0, run, config)]
    if config.campaign is not None:
        rounds = {number: run.round(number) for number in range(config.campaign.rounds)}
        begun = {number: its for number, its in rounds.items() if its.config.exists()}
        trainings = [_training(number, its, load_config(its.folder)) for number, its in begun.items()]
    campaign = run.read_campaign() if run.campaign.exists() else None
    return ReportedRun(folder, name, config, _summary(run), campaign, trainings)


def _training(number: int, run: RunFolder, config: Config) -> Training:
    return Training(number, run, config, _summary(run), run.read_steps())


def _summary(run: RunFolder) -> Summary | None:
    return run.read_summary() if run.summary.exists() else None
