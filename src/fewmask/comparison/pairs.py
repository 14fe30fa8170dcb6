"""Methods against the first one named, seed by seed: plain data for tables, pages and scripts.

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
    """Compare the methods among the runs at `places` (see `runs.groups`) with the first of them, paired by seed.

    Returns `{"schema", "level", "draws", "methods": [{"name", "runs", "seconds", "avg_miou": {"mean", "sd"}, "domains":
    …}], "comparisons": [{"a", "b", "seeds", "basis", "images", "avg_miou": D, "domains": {name: {"miou": D, …, "iou":
    {class: D}}}, "warnings"}], "warnings"}`; `basis` says which luck is counted: "seeds and images", "seeds", "images"
    or "nothing". D is a mean over the common seeds, in fractions: `{"a", "b", "difference", "by_seed", "interval",
    "bootstrap", "p", "p_holm", "verdict"}` with the difference b − a and intervals of 95 %, null where nothing is
    known, and `images`, how many show the class, where images are counted. The verdict is "higher", "lower",
    "within noise", or "unknown" of a single seed, which cannot tell a method from its luck. It goes by `p_holm`: the
    mean over domains is one question; domains, parts of their classes, and all classes are a family each.

    Methods are compared on the domains that both have, and on the means of shared and of private classes where these
    are the same for both: a network of other domains shares other classes. Raises ValueError for fewer than two
    methods, no domain or no seed in common, and classes that differ.
    """
    named = [Path(place) for place in ([places] if isinstance(places, str | os.PathLike) else places)]
    found, warnings = groups(named)
    if len(found) < 2:
        raise ValueError(
            f"{', '.join(map(str, named))}: runs of one method only ({found[0].name}); name at least two methods"
        )
    if len(found) > 2:
        warnings.append(
            f"{len(found) - 1} methods are each compared with {found[0].name} as if alone: of twenty that are no "
            "better or worse, one passes for it by luck"
        )
    return {
        "schema": SCHEMA,
        "level": LEVEL,
        "draws": draws,
        "methods": [summarise(group) for group in found],
        "comparisons": [_Pair(found[0], other, draws).compared() for other in found[1:]],
        "warnings": warnings,
    }


def summarise(group: Group) -> dict[str, Any]:
    """Mean and sample standard deviation (null of one run) of a method's figures over its seeds."""
    summaries = [run.summary for _, run in sorted(group.runs.items())]
    some = summaries[0]["domains"]
    return {
        "name": group.name,
        "runs": {str(seed): run.where for seed, run in sorted(group.runs.items())},
        "seconds": spread([s.get("seconds") for s in summaries]),
        "avg_miou": spread([s["avg_miou"] for s in summaries]),
        "domains": {
            name: {key: spread([s["domains"][name][key] for s in summaries]) for key in MEANS if key in scores}
            | {"iou": {c: spread([s["domains"][name]["iou"].get(c) for s in summaries]) for c in scores["iou"]}}
            for name, scores in some.items()
        },
    }


def spread(values: Sequence[float | None]) -> dict[str, float | None] | None:
    """Mean and sample standard deviation; None where a value is missing."""
    known = [v for v in values if v is not None]
    if len(known) < len(values) or not known:
        return None
    return {"mean": float(np.mean(known)), "sd": float(np.std(known, ddof=1)) if len(known) > 1 else None}


@dataclass(frozen=True)
class _Differences:
    """Of a domain: each figure's name, a's and b's values by seed (S,2,F), differences by draw (S,R,F), and how many
    images are behind a figure (F,)."""

    names: list[str]
    values: Array
    by_draw: Array | None
    images: np.ndarray

    @property
    def by_seed(self) -> Array:
        found: Array = self.values[:, 1] - self.values[:, 0]
        return found


class _Pair:
    def __init__(self, a: Group, b: Group, draws: int) -> None:
        self.a, self.b, self.draws = a, b, draws
        self.seeds = sorted(a.runs.keys() & b.runs.keys())
        if not self.seeds:
            raise ValueError(
                f"{a.name} has seeds {_listed(a.runs)}, {b.name} has {_listed(b.runs)}: none in common. The seed also "
                "chooses the labelled images; train both with the same ones"
            )
        self.runs = [(a.runs[seed], b.runs[seed]) for seed in self.seeds]
        self.domains = _common(a.some, b.some)
        for one, other in self.runs:
            _check_same_classes(one, other, self.domains)
        # Shared is what other domains of the network have too: of networks for other domains it is another question.
        divided = [
            name for name in self.domains if any("miou_shared" in r.summary["domains"][name] for r in (a.some, b.some))
        ]
        self.alike = {name for name in divided if a.some.parts(name) == b.some.parts(name)}
        self.warnings = self._warnings()
        if apart := [name for name in divided if name not in self.alike]:
            self.warnings.append(
                f"{_listed(apart)}: the classes that other domains share are not known to be the same for {a.name} "
                f"and {b.name}; means of shared and of private classes are left out"
            )
        self.images = {name: self._images(name) for name in self.domains}

    def compared(self) -> dict[str, Any]:
        found = {name: self._domain(row, name) for row, name in enumerate(self.domains)}
        estimates = {
            name: estimate(d.by_seed, d.by_draw, d.images, generator(0, "report", 1, row))
            for row, (name, d) in enumerate(found.items())
        }
        told = {name: self._tell(found[name], estimates[name]) for name in self.domains}
        overall = self._mean(found)
        everything = {key: [told[name][key] for name in told if key in told[name]] for key in MEANS}
        classes = [d for name in told for key, d in told[name].items() if key.startswith(CLASS)]
        for family in ([overall], everything["miou"], everything["miou_shared"] + everything["miou_private"], classes):
            _judge(family, len(self.seeds))
        return {
            "a": self.a.name,
            "b": self.b.name,
            "seeds": self.seeds,
            "basis": self._basis(),
            "images": {name: None if n is None else len(n) for name, n in self.images.items()},
            "avg_miou": overall,
            "domains": {name: _nested(told[name]) for name in self.domains},
            "warnings": self.warnings,
        }

    def _basis(self) -> str:
        known = all(stems is not None for stems in self.images.values())
        return " and ".join(["seeds"] * (len(self.seeds) > 1) + ["images"] * known) or "nothing"

    def _images(self, name: str) -> list[str] | None:
        """The images that all runs were scored on; None where that is not known of each."""
        runs = [run for pair in self.runs for run in pair]
        known = [run.counts[name].stems.tolist() for run in runs if name in run.counts]
        if any(stems != known[0] for stems in known):
            self.warnings.append(f"{name}: the runs were scored on different images; the difference is theirs too")
            return None
        return known[0] if len(known) == len(runs) else None

    def _warnings(self) -> list[str]:
        told: list[str] = []
        for group in (self.a, self.b):
            if more := [name for name in group.some.summary["domains"] if name not in self.domains]:
                told.append(f"{group.name} also has {_listed(more)}; compared on {_listed(self.domains)} alone")
            if alone := sorted(group.runs.keys() - set(self.seeds)):
                told.append(f"{group.name}: seeds {_listed(alone)} have no partner and are left out")
        differences = [line for one, other in self.runs for line in differing(one.comparable, other.comparable)]
        told += [f"beside the method differs {line}" for line in dict.fromkeys(differences)]
        if without := [run.where for pair in self.runs for run in pair if not run.counts]:
            told.append(
                f"{len(without)} of {2 * len(self.runs)} runs have no scores.npz, so that the luck of the images is "
                f"not counted: {without[0]}{', …' if without[1:] else ''}; `fewmask evaluate RUN --split …` with the "
                "split that was scored adds it to a run's folder"
            )
        return told

    def _domain(self, row: int, name: str) -> _Differences:
        scores = [[run.summary["domains"][name] for run in pair] for pair in self.runs]
        classes = list(scores[0][0]["iou"])
        known = MEANS if name in self.alike else MEANS[:1]
        keys = [key for key in known if all(key in s for pair in scores for s in pair)]
        values = np.array([[[*(s[k] for k in keys), *s["iou"].values()] for s in pair] for pair in scores], float)
        names = [*keys, *(f"{CLASS}{c}" for c in classes)]
        stems = self.images[name]
        if stems is None:
            return _Differences(names, values, None, np.zeros(len(names)))
        counts = np.stack([np.stack([run.counts[name].counts for run in pair]) for pair in self.runs])  # (S,2,N,C,3)
        shared = np.array([name in self.alike and c in self.a.some.shared[name] for c in classes])
        parts = np.stack([{"miou": shared | True, "miou_shared": shared, "miou_private": ~shared}[k] for k in keys])
        iou = redrawn(counts, self.draws, generator(0, "report", 0, row))
        again = np.concatenate([means(iou, parts.astype(float)), iou], -1)
        shown = (counts[0, 0, :, :, 1] > 0).sum(0)  # images with the class, (C,)
        images = np.array([len(stems)] * len(keys) + shown.tolist())
        return _Differences(names, values, again[:, 1] - again[:, 0], images)

    def _mean(self, found: Mapping[str, _Differences]) -> dict[str, Any]:
        """The mean over domains, each with draws of its own images."""
        domains = [[[run.summary["domains"][name] for name in self.domains] for run in pair] for pair in self.runs]
        of_run = [[mean([scores["miou"] for scores in run]) for run in pair] for pair in domains]
        values = np.array(of_run, float)[..., None]  # None becomes NaN
        draws = [d.by_draw[..., 0] for d in found.values() if d.by_draw is not None]
        by_draw = np.stack(draws).mean(0)[..., None] if len(draws) == len(found) else None
        images = np.array([sum(d.images[0] for d in found.values())])
        made = _Differences(["miou"], values, by_draw, images)
        free = images - len(found) + 1  # each domain's images have a mean of their own
        return self._tell(made, estimate(made.by_seed, by_draw, free, generator(0, "report", 2)))["miou"]

    def _tell(self, d: _Differences, e: Estimate) -> dict[str, dict[str, Any]]:
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


def _common(one: Scored, other: Scored) -> list[str]:
    a, b = one.summary["domains"], other.summary["domains"]
    if found := [name for name in a if name in b]:
        return found
    raise ValueError(
        f"{one.where} was scored on {_listed(a) or 'nothing'}, {other.where} on {_listed(b) or 'nothing'}: no domain "
        "in common; compare runs on the same data"
    )


def _check_same_classes(one: Scored, other: Scored, domains: Sequence[str]) -> None:
    a, b = ({name: list(run.summary["domains"][name]["iou"]) for name in domains} for run in (one, other))
    for name in domains:
        if a[name] != b[name]:
            raise ValueError(
                f"{name}: its classes are {_listed(a[name])} in {one.where}, {_listed(b[name])} in {other.where}; "
                "compare runs of the same classes"
            )


def _nested(told: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """As a summary has them: means by name, classes under `iou`."""
    classes = {key.removeprefix(CLASS): d for key, d in told.items() if key.startswith(CLASS)}
    return {key: d for key, d in told.items() if not key.startswith(CLASS)} | {"iou": classes}


def _listed(values: Any) -> str:
    return ", ".join(map(str, values))


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _pair(ends: Array) -> list[float] | None:
    return None if np.isnan(ends).any() else [float(end) for end in ends]
