"""The contents of a run's folder for the page. Only the size of the pool needs the run's data. Missing parts are None
or empty."""

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
from fewmask.plurals import agreeing, count
from fewmask.runs import CampaignSummary, Entry, RunFolder, StepLine, Summary, settings_of


@dataclass(frozen=True)
class Training:
    """One training: a plain run, or a round of a campaign."""

    number: int
    run: RunFolder
    config: Config
    summary: Summary | None
    """None until the training is finished."""
    lines: Sequence[StepLine]

    @property
    def steps(self) -> int:
        return self.lines[-1].step if self.lines else 0


@dataclass(frozen=True)
class ImageCounts:
    """The numbers of images of train that are labelled wholly, in part, and not at all."""

    whole: int
    in_part: int
    without: int

    @classmethod
    def from_summary(cls, summary: Summary, domains: Sequence[str]) -> ImageCounts:
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
    """The labels before a campaign: their cost in the budget's unit, and the number of masks if it is known."""

    cost: float
    masks: int | None


@dataclass(frozen=True)
class ReportedRun:
    """A run, read from its folder."""

    folder: Path
    name: str
    """Its name on the page, unique among the runs."""
    config: Config
    summary: Summary | None
    campaign: CampaignSummary | None
    """campaign.json; None if there is none yet."""
    trainings: Sequence[Training]
    """The rounds of a campaign that have begun, or the training of a plain run."""

    @property
    def rounds(self) -> bool:
        return self.config.campaign is not None

    @property
    def history(self) -> list[Entry]:
        return self.campaign.history if self.campaign else []

    @property
    def unit(self) -> str:
        """The unit of its labels."""
        return unit_of(self.config.campaign) if self.config.campaign else "labelled images"

    @property
    def trained(self) -> bool:
        """Whether a trained network is saved."""
        run = RunFolder(self.folder)
        return run.weights.exists() and run.model.exists()

    @property
    def domains(self) -> tuple[str, ...]:
        """The trained domains; all domains of the configuration until the run is finished."""
        return tuple(self.summary.trained if self.summary is not None else self.config.domains)

    @property
    def image_counts(self) -> ImageCounts | None:
        """The numbers of labelled images; None until the run is finished."""
        return None if self.summary is None else ImageCounts.from_summary(self.summary, self.domains)

    @property
    def intervals(self) -> Intervals | None:
        """95 % intervals of the run's scores; None if there are none."""
        return self._intervals[0]

    @property
    def no_intervals(self) -> str:
        """The error in the file of counts; empty if there is none."""
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
        """The labels before the first question; None for a plain run, and before the first round has begun."""
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
        """An estimate of all that can be labelled in train, in the run's unit; None if the unit is no area or the data
        is missing."""
        settings = self.config.campaign
        if settings is None:
            return None
        try:
            return pool_cost(settings, load_domains(self.config).values())
        except ValueError:
            return None

    @property
    def state(self) -> str:
        """The progress of the run, in words."""
        if self.rounds:
            assert self.config.campaign is not None
            done, rounds = sum(t.summary is not None for t in self.trainings), self.config.campaign.rounds
            if self.campaign and self.campaign.state == "waiting":
                open_questions = count(self.campaign.open, "question")
                return f"{_rounds_done(done, rounds)}; waiting for answers to {open_questions}"
            return "done" if self.finished else f"not finished: {_rounds_done(done, rounds)}"
        step = self.trainings[0].steps
        return "done" if self.finished else f"not finished: step {step:,} of {self.config.train.steps:,} was logged"

    @cached_property
    def essence(self) -> str:
        """A key that is equal for runs which differ only in the seed, the number of labelled images, and paths."""
        settings = settings_of(self.config.model_dump(mode="json", serialize_as_any=True))
        return json.dumps({k: v for k, v in settings.items() if not k.startswith("labelled.")}, sort_keys=True)


@dataclass(frozen=True)
class Group:
    """Runs of one configuration. Their seeds and their numbers of labels may differ."""

    name: str
    runs: Sequence[ReportedRun]


def read_runs(folders: Sequence[Path]) -> list[ReportedRun]:
    """Read the runs in the folders. Raises ValueError for a folder that is no run or is named twice."""
    real = [folder.resolve() for folder in folders]
    if twice := sorted({str(f) for f in real if real.count(f) > 1}):
        raise ValueError(f"{', '.join(twice)}: named twice; name each run once")
    names = _names(real)
    return [_read_run(folder, names[path]) for folder, path in zip(folders, real, strict=True)]


def groups(runs: Sequence[ReportedRun]) -> list[Group]:
    """Group the runs by configuration, in the order of the first run of each group."""
    by_essence: dict[str, list[ReportedRun]] = {}
    for reported in runs:
        by_essence.setdefault(reported.essence, []).append(reported)
    methods = [part[0].config.method.name for part in by_essence.values()]
    named = [
        method if methods.count(method) == 1 else f"{method} ({part[0].config.name})"
        for method, part in zip(methods, by_essence.values(), strict=True)
    ]
    unique = [
        n if named.count(n) == 1 else f"{n}, {part[0].name}" for n, part in zip(named, by_essence.values(), strict=True)
    ]
    return [Group(name, part) for name, part in zip(unique, by_essence.values(), strict=True)]


def by_labels(group: Group) -> list[Group]:
    """Split a group by `labelled.images`, fewest first. The runs of each part differ by their seeds alone."""
    by_count: dict[int | None, list[ReportedRun]] = {}
    for reported in group.runs:
        by_count.setdefault(reported.config.labelled.images, []).append(reported)
    if len(by_count) == 1:
        return [group]
    counts = sorted(by_count, key=lambda images: (images is None, images))
    return [Group(f"{group.name}, {_labels(images)}", by_count[images]) for images in counts]


def _rounds_done(done: int, rounds: int) -> str:
    return f"{done} of {count(rounds, 'round')} {agreeing(done, 'is', 'are')} done"


def _labels(images: int | None) -> str:
    return "all labels" if images is None else f"{count(images, 'labelled image')} a domain"


def _names(folders: Sequence[Path]) -> dict[Path, str]:
    """A unique name for each folder: its last name, with as many parent folders as needed."""
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
        begun = {number: round_folder for number, round_folder in rounds.items() if round_folder.config.exists()}
        trainings = [
            _training(number, round_folder, load_config(round_folder.folder)) for number, round_folder in begun.items()
        ]
    campaign = run.read_campaign() if run.campaign.exists() else None
    return ReportedRun(folder, name, config, _summary(run), campaign, trainings)


def _training(number: int, run: RunFolder, config: Config) -> Training:
    return Training(number, run, config, _summary(run), run.read_steps())


def _summary(run: RunFolder) -> Summary | None:
    return run.read_summary() if run.summary.exists() else None
