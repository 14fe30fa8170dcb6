"""Comparing every method with the first one, seed by seed. The result is plain data for tables, pages and scripts.

Shapes: S seeds · N images · R draws · F figures of a domain: mIoU, mIoU of shared and of private classes, each class.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fewmask.comparison.runs import Group, Scored, differing, groups
from fewmask.comparison.statistics import LEVEL, Array, Estimate, estimate, holm, means, redrawn
from fewmask.paths import AnyPath
from fewmask.randomness import generator
from fewmask.runs.records import mean

SCHEMA = 1
DRAWS = 2000
MEANS = ("miou", "miou_shared", "miou_private")
CLASS = "iou/"  # before a class's name, which may be any


def compare(places: AnyPath | Sequence[AnyPath], draws: int = DRAWS) -> dict[str, Any]:
    """Compare the methods among the runs at `places` (see `runs.groups`) with the first method, paired by seed.

    Returns `{"schema", "level", "draws", "methods": [{"name", "runs", "seconds", "avg_miou": {"mean", "sd"}, "domains":
    …}], "comparisons": [{"a", "b", "seeds", "basis", "images", "avg_miou": D, "domains": {name: {"miou": D, …, "iou":
    {class: D}}}, "warnings"}], "warnings"}`. `basis` names the sources of variance that the intervals include: "seeds
    and images", "seeds", "images" or "nothing".

    D is a mean over the common seeds, in fractions: `{"a", "b", "difference", "by_seed", "interval", "bootstrap", "p",
    "p_holm", "verdict"}`. The difference is b − a, the intervals are of 95 %, and an unknown value is null. Where image
    counts are known, `images` is the number of images that show the class. The verdict is "higher", "lower", "within
    noise", or "unknown" for a single seed. It depends on `p_holm`. The mean over domains is a family of its own;
    domains, means of shared and private classes, and single classes form one family each.

    Two methods are compared on their common domains. The means of shared and of private classes are compared if the
    same classes are shared in both methods. Raises ValueError for fewer than two methods, for methods without a common
    domain or seed, and for different classes.
    """
    named = [Path(place) for place in ([places] if isinstance(places, str | os.PathLike) else places)]
    methods, warnings = groups(named)
    if len(methods) < 2:
        raise ValueError(
            f"{', '.join(map(str, named))}: runs of one method only ({methods[0].name}); name at least two methods"
        )
    if len(methods) > 2:
        warnings.append(
            f"{len(methods) - 1} methods are compared with {methods[0].name}, without a correction for their number: "
            "by chance, one in twenty equal methods appears better or worse"
        )
    return {
        "schema": SCHEMA,
        "level": LEVEL,
        "draws": draws,
        "methods": [summarise(group) for group in methods],
        "comparisons": [_Pair(methods[0], other, draws).compared() for other in methods[1:]],
        "warnings": warnings,
    }


def summarise(group: Group) -> dict[str, Any]:
    """Mean and sample standard deviation of a method's figures over its seeds; null deviation for a single run."""
    summaries = [run.summary for _, run in sorted(group.runs.items())]
    first_domains = summaries[0]["domains"]
    return {
        "name": group.name,
        "runs": {str(seed): run.where for seed, run in sorted(group.runs.items())},
        "seconds": spread([s.get("seconds") for s in summaries]),
        "avg_miou": spread([s["avg_miou"] for s in summaries]),
        "domains": {
            name: {key: spread([s["domains"][name][key] for s in summaries]) for key in MEANS if key in scores}
            | {"iou": {c: spread([s["domains"][name]["iou"].get(c) for s in summaries]) for c in scores["iou"]}}
            for name, scores in first_domains.items()
        },
    }


def spread(values: Sequence[float | None]) -> dict[str, float | None] | None:
    """Mean and sample standard deviation; None if a value is missing."""
    numbers = [v for v in values if v is not None]
    if len(numbers) < len(values) or not numbers:
        return None
    return {"mean": float(np.mean(numbers)), "sd": float(np.std(numbers, ddof=1)) if len(numbers) > 1 else None}


@dataclass(frozen=True)
class _Differences:
    """The figures of one domain: their names, the values of a and b by seed (S,2,F), the differences by draw (S,R,F),
    and the number of images behind each figure (F,)."""

    names: list[str]
    values: Array
    by_draw: Array | None
    images: np.ndarray

    @property
    def by_seed(self) -> Array:
        by_seed: Array = self.values[:, 1] - self.values[:, 0]
        return by_seed


class _Pair:
    def __init__(self, a: Group, b: Group, draws: int) -> None:
        self.a, self.b, self.draws = a, b, draws
        self.seeds = sorted(a.runs.keys() & b.runs.keys())
        if not self.seeds:
            raise ValueError(
                f"{a.name} has seeds {_listed(a.runs)}, {b.name} has {_listed(b.runs)}: none in common. The seed also "
                "chooses the labelled images; train both methods with the same seeds"
            )
        self.runs = [(a.runs[seed], b.runs[seed]) for seed in self.seeds]
        self.domains = _common(a.any_run, b.any_run)
        for first, second in self.runs:
            _check_same_classes(first, second, self.domains)
        # Networks of different domains share different classes, so their means over shared classes are not comparable.
        divided = [
            name
            for name in self.domains
            if any("miou_shared" in r.summary["domains"][name] for r in (a.any_run, b.any_run))
        ]
        self.alike = {name for name in divided if a.any_run.parts(name) == b.any_run.parts(name)}
        self.warnings = self._warnings()
        if apart := [name for name in divided if name not in self.alike]:
            self.warnings.append(
                f"{_listed(apart)}: {a.name} and {b.name} may share different classes with their other domains; the "
                "means of shared and of private classes are left out"
            )
        self.images = {name: self._images(name) for name in self.domains}

    def compared(self) -> dict[str, Any]:
        differences = {name: self._domain(row, name) for row, name in enumerate(self.domains)}
        estimates = {
            name: estimate(d.by_seed, d.by_draw, d.images, generator(0, "report", 1, row))
            for row, (name, d) in enumerate(differences.items())
        }
        entries = {name: self._entries(differences[name], estimates[name]) for name in self.domains}
        overall = self._mean(differences)
        everything = {key: [entries[name][key] for name in entries if key in entries[name]] for key in MEANS}
        classes = [d for name in entries for key, d in entries[name].items() if key.startswith(CLASS)]
        for family in ([overall], everything["miou"], everything["miou_shared"] + everything["miou_private"], classes):
            _judge(family, len(self.seeds))
        return {
            "a": self.a.name,
            "b": self.b.name,
            "seeds": self.seeds,
            "basis": self._basis(),
            "images": {name: None if n is None else len(n) for name, n in self.images.items()},
            "avg_miou": overall,
            "domains": {name: _nested(entries[name]) for name in self.domains},
            "warnings": self.warnings,
        }

    def _basis(self) -> str:
        counts_known = all(stems is not None for stems in self.images.values())
        return " and ".join(["seeds"] * (len(self.seeds) > 1) + ["images"] * counts_known) or "nothing"

    def _images(self, name: str) -> list[str] | None:
        """The images that all runs were scored on; None if they differ or are unknown for a run."""
        runs = [run for pair in self.runs for run in pair]
        stem_lists = [run.counts[name].stems.tolist() for run in runs if name in run.counts]
        if any(stems != stem_lists[0] for stems in stem_lists):
            self.warnings.append(
                f"{name}: the runs were scored on different images; the difference includes that of the images"
            )
            return None
        return stem_lists[0] if len(stem_lists) == len(runs) else None

    def _warnings(self) -> list[str]:
        warnings: list[str] = []
        for group in (self.a, self.b):
            if more := [name for name in group.any_run.summary["domains"] if name not in self.domains]:
                warnings.append(
                    f"{group.name} also has {_listed(more)}; the comparison is on {_listed(self.domains)} only"
                )
            if alone := sorted(group.runs.keys() - set(self.seeds)):
                warnings.append(f"{group.name}: seeds {_listed(alone)} have no partner and are left out")
        differences = [line for first, second in self.runs for line in differing(first.comparable, second.comparable)]
        warnings += [f"another difference than the method: {line}" for line in dict.fromkeys(differences)]
        if without := [run.where for pair in self.runs for run in pair if not run.counts]:
            warnings.append(
                f"{len(without)} of {2 * len(self.runs)} runs have no scores.npz, so the intervals do not include the "
                f"variance over images: {without[0]}{', …' if without[1:] else ''}; `fewmask evaluate RUN --split …` "
                "with the split that was scored writes the file"
            )
        return warnings

    def _domain(self, row: int, name: str) -> _Differences:
        scores = [[run.summary["domains"][name] for run in pair] for pair in self.runs]
        classes = list(scores[0][0]["iou"])
        means_to_compare = MEANS if name in self.alike else MEANS[:1]
        keys = [key for key in means_to_compare if all(key in s for pair in scores for s in pair)]
        values = np.array([[[*(s[k] for k in keys), *s["iou"].values()] for s in pair] for pair in scores], float)
        names = [*keys, *(f"{CLASS}{c}" for c in classes)]
        stems = self.images[name]
        if stems is None:
            return _Differences(names, values, None, np.zeros(len(names)))
        counts = np.stack([np.stack([run.counts[name].counts for run in pair]) for pair in self.runs])  # (S,2,N,C,3)
        shared = np.array([name in self.alike and c in self.a.any_run.shared[name] for c in classes])
        parts = np.stack([{"miou": shared | True, "miou_shared": shared, "miou_private": ~shared}[k] for k in keys])
        iou = redrawn(counts, self.draws, generator(0, "report", 0, row))
        redrawn_figures = np.concatenate([means(iou, parts.astype(float)), iou], -1)
        images_per_class = (counts[0, 0, :, :, 1] > 0).sum(0)  # images with the class, (C,)
        images = np.array([len(stems)] * len(keys) + images_per_class.tolist())
        return _Differences(names, values, redrawn_figures[:, 1] - redrawn_figures[:, 0], images)

    def _mean(self, differences: Mapping[str, _Differences]) -> dict[str, Any]:
        """The entry of the mean over domains; each domain has its own draws of images."""
        domains = [[[run.summary["domains"][name] for name in self.domains] for run in pair] for pair in self.runs]
        of_run = [[mean([scores["miou"] for scores in run]) for run in pair] for pair in domains]
        values = np.array(of_run, float)[..., None]  # None becomes NaN
        draws = [d.by_draw[..., 0] for d in differences.values() if d.by_draw is not None]
        by_draw = np.stack(draws).mean(0)[..., None] if len(draws) == len(differences) else None
        images = np.array([sum(d.images[0] for d in differences.values())])
        mean_difference = _Differences(["miou"], values, by_draw, images)
        effective_images = images - len(differences) + 1  # minus one degree of freedom for each domain's mean
        return self._entries(
            mean_difference, estimate(mean_difference.by_seed, by_draw, effective_images, generator(0, "report", 2))
        )["miou"]

    def _entries(self, d: _Differences, e: Estimate) -> dict[str, dict[str, Any]]:
        return {
            name: {
                "a": _number(d.values[:, 0, f].mean()),
                "b": _number(d.values[:, 1, f].mean()),
                "difference": _number(e.difference[f]),
                "by_seed": {str(s): _number(v) for s, v in zip(self.seeds, d.by_seed[:, f], strict=True)},
                "interval": _pair(e.interval[f]),
                "bootstrap": _pair(e.bootstrap[f]),
                "p": _number(e.p[f]),
                **({"images": int(d.images[f])} if d.by_draw is not None else {}),
            }
            for f, name in enumerate(d.names)
        }


def _judge(family: list[dict[str, Any]], seeds: int) -> None:
    adjusted = holm(np.array([np.nan if d["p"] is None else d["p"] for d in family]))
    for d, p in zip(family, adjusted, strict=True):
        d["p_holm"] = _number(p)
        if seeds < 2 or d["p_holm"] is None:
            d["verdict"] = "unknown"
        elif p < 1 - LEVEL:
            d["verdict"] = "higher" if d["difference"] > 0 else "lower"
        else:
            d["verdict"] = "within noise"


def _common(first: Scored, second: Scored) -> list[str]:
    a, b = first.summary["domains"], second.summary["domains"]
    if names := [name for name in a if name in b]:
        return names
    raise ValueError(
        f"{first.where} was scored on {_listed(a) or 'nothing'}, {second.where} on {_listed(b) or 'nothing'}: there is "
        "no common domain; compare runs on the same data"
    )


def _check_same_classes(first: Scored, second: Scored, domains: Sequence[str]) -> None:
    a, b = ({name: list(run.summary["domains"][name]["iou"]) for name in domains} for run in (first, second))
    for name in domains:
        if a[name] != b[name]:
            raise ValueError(
                f"{name}: its classes are {_listed(a[name])} in {first.where}, {_listed(b[name])} in {second.where}; "
                "compare runs of the same classes"
            )


def _nested(entries: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """The entries in the form of a summary: means by name, classes under `iou`."""
    classes = {key.removeprefix(CLASS): d for key, d in entries.items() if key.startswith(CLASS)}
    return {key: d for key, d in entries.items() if not key.startswith(CLASS)} | {"iou": classes}


def _listed(values: Any) -> str:
    return ", ".join(map(str, values))


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _pair(ends: Array) -> list[float] | None:
    return None if np.isnan(ends).any() else [float(end) for end in ends]
