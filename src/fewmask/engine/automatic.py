"""What a configuration leaves to fewmask, decided by the data before anything begins: the method and the steps.

A run's configuration holds what was decided, so that it says what was trained; the same data decides the same again.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any

from fewmask.config import SETTINGS, Config
from fewmask.config.choices import choose
from fewmask.config.training import AUTO
from fewmask.data.domain import Domain
from fewmask.data.parts import with_parts
from fewmask.plurals import count

SHORTEST, LONGEST = 1_200, 40_000
"""MSRC-v2, one of three domains with 30 masks each, stops improving after 1,200 steps; who wants more than the longest
says so by a number."""
SHOWN = 12
"""How often each labelled pixel is shown in the mean. All masks of CamVid stop improving after 11 to 12 times, those of
LabelMeFacade after 5 (docs/results.md)."""
PATIENCE = 4
"""Validations without a better one that end a training of `steps: auto`, of ten."""


def settle(config: Config, domains: Mapping[str, Domain]) -> tuple[Config, list[str]]:
    """The configuration without an `auto` in method or steps, and a line about each: which, and why."""
    told = []
    if config.method.name == "auto":
        method, why = chosen_method(domains)
        config = config.model_copy(update={"method": SETTINGS[method["name"]].model_validate(method)})
        told.append(f"method: auto takes {_written(method)}: {why}")
    if config.train.steps == AUTO:
        steps, why = steps_for(config, domains)
        patience = config.train.patience or PATIENCE
        changes = {"steps": steps, "by_data": True, "patience": patience}
        config = config.model_copy(update={"train": config.train.model_copy(update=changes)})
        told.append(f"train.steps: auto takes {steps:,}: {why}; {patience} validations without a better one end it")
    return config, told


def chosen_method(domains: Mapping[str, Domain]) -> tuple[dict[str, Any], str]:
    """The method's settings by `config.choices`, and on what grounds."""
    labelled = [len(domain.labelled) for domain in domains.values()]
    unlabelled = sum(len(domain.unlabelled) for domain in domains.values())
    masks, pool = fmean(labelled), unlabelled / max(1, sum(labelled))
    choice = choose(len(domains), masks, pool)
    has = count(len(domains), "domain"), count(round(masks), "mask"), count(unlabelled, "unlabelled image")
    seen = f"{has[0]}, {has[1]} each, {has[2]}"
    return dict(choice.method), f"{seen}; {choice.why}"


def steps_for(config: Config, domains: Mapping[str, Domain]) -> tuple[int, str]:
    """So many that each labelled pixel is shown `SHOWN` times, by hundreds, and between `SHORTEST` and `LONGEST`."""
    train = config.train
    pixels = sum(labelled_pixels(domain) for domain in with_parts(domains).values())
    a_step = train.batch_size * train.crop[0] * train.crop[1]
    wanted = -(-SHOWN * pixels // a_step)
    steps = min(max(-(-wanted // 100) * 100, SHORTEST), LONGEST)
    shown = steps * a_step / max(pixels, 1)
    return steps, f"{pixels:,} labelled pixels, {a_step:,} a step, show each {shown:.0f} times"


def labelled_pixels(domain: Domain) -> int:
    """Of the masks that training may see, as if all were of the first ten's mean size."""
    sizes = [domain.image(stem).shape for stem in domain.labelled[:10]]
    known = sum(domain.partial.get(stem, 1.0) for stem in domain.labelled)
    return round(known * fmean(height * width for height, width, _ in sizes)) if sizes else 0


def _written(method: Mapping[str, Any]) -> str:
    return str(method["name"]) if len(method) == 1 else ", ".join(f"{key} {value}" for key, value in method.items())
