"""Finished runs, found and grouped: those that differ by their seed alone are one method.

A run is a folder with `config.yaml` and `summary.json`; a result file is JSON with the figures of several runs,
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
# Of a summary, what should be equal in runs that are compared.
_TOLD = ("steps", "steps_of_all_rounds", "labelled", "labelled_pixels", "unlabelled", "versions", "hardware")


@dataclass(frozen=True)
class Scored:
    """A finished run and what it scored."""

    where: str
    method: str
    seed: int
    settings: Mapping[str, Any]
    """By dotted key, as `RunFolder.settings` has them."""
    summary: Mapping[str, Any]
    folder: Path | None = None

    @property
    def comparable(self) -> dict[str, Any]:
        """By dotted key, what should be equal in two runs that are compared: settings beside the method's own, labels,
        what was scored, versions."""
        # With patience a training ends when validation says so.
        ends = {"steps", "steps_of_all_rounds"} if self.settings.get("train.patience") else set()
        told = {key: self.summary[key] for key in _TOLD if key in self.summary and key not in ends}
        scored = {
            name: {key: scores.get(key) for key in ("split", "images", "pixels")}
            for name, scores in self.summary["domains"].items()
        }
        told_better = ("method.", "labelled.", "train.steps")
        own = {key: value for key, value in self.settings.items() if not key.startswith(told_better)}
        return {**own, **flat({**told, "scored": scored})}

    @cached_property
    def counts(self) -> dict[str, ImageCounts]:
        """What was counted in each image; empty for a run without `scores.npz`. Raises ValueError when the file is not
        what the summary's scores come from."""
        if self.folder is None or not RunFolder(self.folder).counts.exists():
            return {}
        path = RunFolder(self.folder).counts
        found = read_counts(path)
        for name, scores in self.summary["domains"].items():
            told = [np.nan if v is None else v for v in scores["iou"].values()]
            if name not in found or not np.allclose(found[name].iou, told, rtol=0, atol=1e-9, equal_nan=True):
                raise ValueError(
                    f"{path}: not what {RunFolder(self.folder).summary} says of {name}; remove it, and "
                    f"`fewmask evaluate {self.folder} --split {scores['split']}` counts again"
                )
        return found

    def parts(self, domain: str) -> frozenset[str]:
        """What the means of a domain's shared and private classes are of, for comparing with another run's: the shared
        ones; of a result file the domains that were scored, which is all that it tells."""
        return self.shared.get(domain, frozenset(self.summary["domains"]))

    @cached_property
    def shared(self) -> dict[str, frozenset[str]]:
        """By domain, the classes that another domain of the model has too; empty for a result file, which says neither
        the model's domains nor which names mean the same."""
        if self.folder is None:
            return {}
        return shared_classes(RunFolder(self.folder).read_description().spaces, self.settings.get("synonyms") or ())


@dataclass
class Group:
    """The runs of one method by seed."""

    name: str
    runs: dict[int, Scored] = field(default_factory=dict)

    @property
    def some(self) -> Scored:
        return next(iter(self.runs.values()))


def groups(places: Sequence[str | Path]) -> tuple[list[Group], list[str]]:
    """The methods among the runs at `places`, in the order in which they are named, and what to warn of.

    A place is a run, a folder that holds runs at any depth, a result file, or a pattern of those (`runs/joint-*`).
    Raises ValueError for a place without a finished run, and for a seed that occurs twice in one place.
    """
    found: list[Group] = []
    warnings: list[str] = []
    for place in places:
        here: list[Group] = []
        for run in _runs_at(str(place), warnings):
            group = next((g for g in here if _same_method(g.some, run)), None)
            if group is None:
                here.append(group := Group(run.method))
            if run.seed in group.runs:
                raise ValueError(
                    f"{place}: {group.runs[run.seed].where} and {run.where} are the same method and seed; name one"
                )
            group.runs[run.seed] = run
        for group in here:
            # What a shell makes of runs/joint-* are many places; the same method twice is two ways to run it.
            into = next((g for g in found if _same_method(g.some, group.some) and not g.runs.keys() & group.runs), None)
            if into is None:
                found.append(group)
            else:
                into.runs.update(group.runs)
    _name_apart(found)
    return found, warnings


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """The keys of both whose values differ, each as "key: this, that"; of settings that one has and the other leaves
    out as a whole (null), their name alone. A key that only one knows is another version's or another kind of source's,
    and not a difference."""
    lines = [f"{key}: {one[key]}, {other[key]}" for key in one if key in other and one[key] != other[key]]
    lines += [f"{key}: none, given" for key in _left_out(one, other)]
    return lines + [f"{key}: given, none" for key in _left_out(other, one)]


def _left_out(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Names of settings that one has as null and the other has."""
    return [key for key in one if one[key] is None and any(its.startswith(f"{key}.") for its in other)]


def _runs_at(place: str, warnings: list[str]) -> list[Scored]:
    matches = [place] if os.path.exists(place) else sorted(glob.glob(os.path.expanduser(place)))
    found = []
    for path in map(Path, matches):
        if path.is_file():
            found += _result_file(path)
            continue
        for folder, inside, files in os.walk(path):
            inside.sort()
            if RunFolder(path).config.name in files:
                inside.clear()  # a campaign's rounds are parts of it
                if RunFolder(Path(folder)).finished:
                    found.append(finished_run(Path(folder)))
                else:
                    warnings.append(f"{folder}: not finished, left out")
    if not found:
        raise ValueError(f"{place}: no finished run there (a folder with config.yaml and summary.json)")
    return found


def finished_run(folder: Path) -> Scored:
    """A finished run and what it scored. Raises ValueError for any other folder."""
    run = RunFolder(folder)
    summary, spent = run.read_summary(), run.spent()
    told = summary.to_dict() | {"seconds": spent.seconds}
    if (pixels := run.labelled_pixels()) is not None:
        told |= {"labelled_pixels": pixels, "steps_of_all_rounds": spent.steps}
    return Scored(str(folder), summary.method, summary.seed, run.settings(), told, folder)


def _result_file(path: Path) -> list[Scored]:
    try:
        data = read_object(path, "give a folder of runs or a result file")
        told = {key: data[key] for key in _TOLD if key in data}
        return [
            Scored(f"{path}: {key}", method, int(seed), {"method.name": method}, told | _checked(run))
            for key, run in data["runs"].items()
            for method, _, seed in [key.rpartition("/")]
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path}: not a result file ({type(error).__name__}: {error}); it needs "
            '{"runs": {"<method>/<seed>": {"avg_miou": …, "domains": {<name>: {"miou": …, "iou": {…}}}}}}'
        ) from None


def _checked(summary: dict[str, Any]) -> dict[str, Any]:
    """Raises KeyError or TypeError where a figure is missing."""
    for scores in summary["domains"].values():
        _ = scores["miou"], scores["iou"].keys()
    _ = summary["avg_miou"]
    return summary


def _same_method(one: Scored, other: Scored) -> bool:
    return one.settings == other.settings and one.summary["domains"].keys() == other.summary["domains"].keys()


def _name_apart(found: list[Group]) -> None:
    """Tell methods of one name apart by the settings that differ, or else by where they are."""
    for name in sorted({group.name for group in found}):
        alike = [group for group in found if group.name == name]
        if len(alike) == 1:
            continue
        keys = sorted({key for group in alike for key in group.some.settings})
        keys = [key for key in keys if len({repr(group.some.settings.get(key)) for group in alike}) > 1]
        campaigns = [group for group in alike if group.some.settings.get("campaign.rounds")]
        mixed = 0 < len(campaigns) < len(alike)  # what a campaign's settings are is then less than that it is one
        keys = [key for key in keys if not (mixed and key.partition(".")[0] == "campaign")]
        for group in alike:
            said = ["campaign" if group in campaigns else "no campaign"] * mixed
            said += [f"{k.removeprefix('method.')}={group.some.settings.get(k)}" for k in keys[:LISTED]]
            group.name = f"{name} ({', '.join(said) if said else group.some.where})"
