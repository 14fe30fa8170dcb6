"""Finding finished runs and grouping them by method. Runs that differ by their seed alone belong to one method.

A run is a folder with `config.yaml` and `summary.json`. A result file is JSON with the figures of several runs,
`{"runs": {"<method>/<seed>": {"avg_miou": …, "domains": {…}}}, "steps": …, "labelled": {…}}`.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from fewmask.labels import shared_classes
from fewmask.runs import ImageCounts, RunFolder, flat, read_counts
from fewmask.runs.reading import read_object

LISTED = 6
# The keys of a summary that should be equal in runs that are compared.
_COMPARED_KEYS = ("steps", "steps_of_all_rounds", "labelled", "labelled_pixels", "unlabelled", "versions", "hardware")


@dataclass(frozen=True)
class Scored:
    """A finished run and its scores."""

    where: str
    method: str
    seed: int
    settings: Mapping[str, Any]
    """By dotted key, as `RunFolder.settings` returns them."""
    summary: Mapping[str, Any]
    folder: Path | None = None

    @property
    def comparable(self) -> dict[str, Any]:
        """By dotted key, the values that should be equal in two compared runs: settings other than the method's,
        labels, scored images, versions."""
        # With patience the number of steps depends on validation.
        variable_keys = {"steps", "steps_of_all_rounds"} if self.settings.get("train.patience") else set()
        compared = {
            key: self.summary[key] for key in _COMPARED_KEYS if key in self.summary and key not in variable_keys
        }
        scored = {
            name: {key: scores.get(key) for key in ("split", "images", "pixels")}
            for name, scores in self.summary["domains"].items()
        }
        named_elsewhere = ("method.", "labelled.", "train.steps")
        other_settings = {key: value for key, value in self.settings.items() if not key.startswith(named_elsewhere)}
        return {**other_settings, **flat({**compared, "scored": scored})}

    @cached_property
    def counts(self) -> dict[str, ImageCounts]:
        """The counts of each image; empty for a run without `scores.npz`. Raises ValueError if the counts do not give
        the summary's scores."""
        if self.folder is None or not RunFolder(self.folder).counts.exists():
            return {}
        path = RunFolder(self.folder).counts
        counts = read_counts(path)
        for name, scores in self.summary["domains"].items():
            summary_iou = [np.nan if v is None else v for v in scores["iou"].values()]
            if name not in counts or not np.allclose(counts[name].iou, summary_iou, rtol=0, atol=1e-9, equal_nan=True):
                raise ValueError(
                    f"{path}: does not match the scores of {name} in {RunFolder(self.folder).summary}; remove it, and "
                    f"`fewmask evaluate {self.folder} --split {scores['split']}` counts again"
                )
        return counts

    def parts(self, domain: str) -> frozenset[str]:
        """A key for the meaning of a domain's shared and private means. Two runs with equal keys are comparable.

        It is the set of shared classes. For a result file, which does not state them, it is the set of scored domains.
        """
        return self.shared.get(domain, frozenset(self.summary["domains"]))

    @cached_property
    def shared(self) -> dict[str, frozenset[str]]:
        """By domain, the classes that another domain of the model has too; empty for a result file, which does not
        state the model's domains and synonyms."""
        if self.folder is None:
            return {}
        return shared_classes(RunFolder(self.folder).read_description().spaces, self.settings.get("synonyms") or ())


@dataclass
class Group:
    """The runs of one method by seed."""

    name: str
    runs: dict[int, Scored] = field(default_factory=dict)

    @property
    def any_run(self) -> Scored:
        return next(iter(self.runs.values()))


def groups(places: Sequence[str | Path]) -> tuple[list[Group], list[str]]:
    """The methods among the runs at `places`, in the order of the places, and warnings.

    A place is a run, a folder that holds runs at any depth, a result file, or a pattern of those (`runs/joint-*`).
    Raises ValueError for a place without a finished run, and for a seed that occurs twice in one place.
    """
    all_groups: list[Group] = []
    warnings: list[str] = []
    for place in places:
        place_groups: list[Group] = []
        for run in _runs_at(str(place), warnings):
            group = next((g for g in place_groups if _same_method(g.any_run, run)), None)
            if group is None:
                place_groups.append(group := Group(run.method))
            if run.seed in group.runs:
                raise ValueError(
                    f"{place}: {group.runs[run.seed].where} and {run.where} are the same method and seed; name one"
                )
            group.runs[run.seed] = run
        for group in place_groups:
            # A shell expands runs/joint-* to many places. A method with repeated seeds stays a group of its own.
            into = next(
                (g for g in all_groups if _same_method(g.any_run, group.any_run) and not g.runs.keys() & group.runs),
                None,
            )
            if into is None:
                all_groups.append(group)
            else:
                into.runs.update(group.runs)
    _name_apart(all_groups)
    return all_groups, warnings


def differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """The common keys whose values differ, each as "key: first, second".

    A group of settings that is null in one mapping is listed by its name. A key that only one mapping has comes from
    another version or another kind of source, and is no difference.
    """
    lines = [f"{key}: {first[key]}, {second[key]}" for key in first if key in second and first[key] != second[key]]
    lines += [f"{key}: none, given" for key in _left_out(first, second)]
    return lines + [f"{key}: given, none" for key in _left_out(second, first)]


def _left_out(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """Names of groups of settings that are null in `first` and set in `second`."""
    return [key for key in first if first[key] is None and any(dotted.startswith(f"{key}.") for dotted in second)]


def _runs_at(place: str, warnings: list[str]) -> list[Scored]:
    matches = [place] if os.path.exists(place) else sorted(glob.glob(os.path.expanduser(place)))
    runs = []
    for path in map(Path, matches):
        if path.is_file():
            runs += _result_file(path)
            continue
        for folder, inside, files in os.walk(path):
            inside.sort()
            if RunFolder(path).config.name in files:
                inside.clear()  # the rounds of a campaign belong to it
                if RunFolder(Path(folder)).finished:
                    runs.append(finished_run(Path(folder)))
                else:
                    warnings.append(f"{folder}: not finished, left out")
    if not runs:
        raise ValueError(f"{place}: contains no finished run (a folder with config.yaml and summary.json)")
    return runs


def finished_run(folder: Path) -> Scored:
    """The finished run in a folder, with its scores. Raises ValueError for any other folder."""
    run = RunFolder(folder)
    summary, spent = run.read_summary(), run.spent()
    figures = summary.to_dict() | {"seconds": spent.seconds}
    if (pixels := run.labelled_pixels()) is not None:
        figures |= {"labelled_pixels": pixels, "steps_of_all_rounds": spent.steps}
    return Scored(str(folder), summary.method, summary.seed, run.settings(), figures, folder)


def _result_file(path: Path) -> list[Scored]:
    try:
        data = read_object(path, "give a folder of runs or a result file")
        shared_figures = {key: data[key] for key in _COMPARED_KEYS if key in data}
        return [
            Scored(f"{path}: {key}", method, int(seed), {"method.name": method}, shared_figures | _checked(run))
            for key, run in data["runs"].items()
            for method, _, seed in [key.rpartition("/")]
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path}: not a result file ({type(error).__name__}: {error}); it needs "
            '{"runs": {"<method>/<seed>": {"avg_miou": …, "domains": {<name>: {"miou": …, "iou": {…}}}}}}'
        ) from None


def _checked(summary: dict[str, Any]) -> dict[str, Any]:
    """The summary as it is. Raises KeyError or TypeError if a figure is missing."""
    for scores in summary["domains"].values():
        _ = scores["miou"], scores["iou"].keys()
    _ = summary["avg_miou"]
    return summary


def _same_method(first: Scored, second: Scored) -> bool:
    return first.settings == second.settings and first.summary["domains"].keys() == second.summary["domains"].keys()


def _name_apart(all_groups: list[Group]) -> None:
    """Make the names of methods unique: add the settings that differ, or else the folder."""
    for name in sorted({group.name for group in all_groups}):
        alike = [group for group in all_groups if group.name == name]
        if len(alike) == 1:
            continue
        keys = sorted({key for group in alike for key in group.any_run.settings})
        keys = [key for key in keys if len({repr(group.any_run.settings.get(key)) for group in alike}) > 1]
        campaigns = [group for group in alike if group.any_run.settings.get("campaign.rounds")]
        mixed = 0 < len(campaigns) < len(alike)  # then the name only says whether a run is a campaign
        keys = [key for key in keys if not (mixed and key.partition(".")[0] == "campaign")]
        for group in alike:
            details = ["campaign" if group in campaigns else "no campaign"] * mixed
            details += [f"{k.removeprefix('method.')}={group.any_run.settings.get(k)}" for k in keys[:LISTED]]
            group.name = f"{name} ({', '.join(details) if details else group.any_run.where})"
