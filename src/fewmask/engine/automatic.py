"""The settings that a configuration leaves to fewmask: the method and the steps, chosen from the data.

A run's configuration holds the chosen values. The same data gives the same values again.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any

from fewmask.config import SETTINGS, Config, DomainSettings, TrainSettings
from fewmask.config.choices import Choice, choose_method
from fewmask.config.domains import FilesDomain
from fewmask.config.training import AUTO
from fewmask.data.domain import Domain
from fewmask.data.parts import with_parts
from fewmask.plurals import count

SHORTEST, LONGEST = 1_200, 40_000
"""The limits of the number of steps. MSRC-v2, one of three domains with 30 masks each, stops improving after the
shortest. A longer training than the longest needs a number in the configuration."""
SHOWN = 12
"""How often each labelled pixel is used in the mean. Training on all masks of CamVid stops improving after 11 to 12
times, on those of LabelMeFacade after 5 (docs/results.md)."""
PATIENCE = 4
"""The number of validations without an improvement, of ten, after which a training of `steps: auto` ends."""


def resolve_auto(config: Config, domains: Mapping[str, Domain]) -> tuple[Config, list[str]]:
    """The configuration with values instead of `auto` for method and steps, and a line with the reason of each. It
    has the stretch of each domain too."""
    messages = []
    config = config.model_copy(update={"domains": {n: _settled(d, domains.get(n)) for n, d in config.domains.items()}})
    if config.method.name == "auto":
        choice, why = choice_for(domains)
        method = SETTINGS[choice.method["name"]].model_validate(choice.method)
        train, given = _completed(config.train, choice.train)
        config = config.model_copy(update={"method": method, "train": train})
        messages.append(f"method: auto takes {_written(choice.method)}: {why}")
        if given:
            messages.append(f"train: method auto takes {', '.join(given)}: {choice.why_train}")
    if config.train.steps == AUTO:
        steps, why = steps_for(config, domains)
        patience = config.train.patience or PATIENCE
        counted = {"steps": steps, "by_data": True, "patience": patience}
        config = config.model_copy(update={"train": config.train.model_copy(update=counted)})
        messages.append(f"train.steps: auto takes {steps:,}: {why}; {patience} validations without a better one end it")
    return config, messages


def _settled(settings: DomainSettings, domain: Domain | None) -> DomainSettings:
    """A domain's settings with the stretch that was found in its images."""
    if domain is None or not isinstance(settings, FilesDomain) or not settings.unsettled:
        return settings
    return settings.model_copy(update={"stretch": domain.input.stretch})


def _completed(train: TrainSettings, proposed: Mapping[str, Mapping[str, Any]]) -> tuple[TrainSettings, list[str]]:
    """The training's settings with the proposed ones for keys that the configuration does not have, and the latter as
    text."""
    missing = {room: keys for room, keys in proposed.items() if room not in train.model_fields_set}
    values = TrainSettings.model_validate(missing)
    completed = train.model_copy(update={room: getattr(values, room) for room in missing})
    return completed, [f"{room}.{key} {value}" for room, keys in missing.items() for key, value in keys.items()]


def choice_for(domains: Mapping[str, Domain]) -> tuple[Choice, str]:
    """The method and the training's settings by `config.choices`, and the reason."""
    labelled = [len(domain.labelled) for domain in domains.values()]
    unlabelled = sum(len(domain.unlabelled) for domain in domains.values())
    masks, pool = fmean(labelled), unlabelled / max(1, sum(labelled))
    choice = choose_method(len(domains), masks, pool)
    counts = count(len(domains), "domain"), count(round(masks), "mask"), count(unlabelled, "unlabelled image")
    summary = f"{counts[0]}, {counts[1]} each, {counts[2]}"
    return choice, f"{summary}; {choice.why}"


def steps_for(config: Config, domains: Mapping[str, Domain]) -> tuple[int, str]:
    """The number of steps in which each labelled pixel is used `SHOWN` times, rounded up to hundreds and limited to
    `SHORTEST` and `LONGEST`, and the reason."""
    train = config.train
    pixels = sum(labelled_pixels(domain) for domain in with_parts(domains).values())
    a_step = train.batch_size * train.crop[0] * train.crop[1]
    wanted = -(-SHOWN * pixels // a_step)
    steps = min(max(-(-wanted // 100) * 100, SHORTEST), LONGEST)
    shown = steps * a_step / max(pixels, 1)
    return steps, f"{pixels:,} labelled pixels, {a_step:,} a step, show each {shown:.0f} times"


def labelled_pixels(domain: Domain) -> int:
    """The number of labelled pixels in the masks for training, estimated from the mean size of the first ten images."""
    sizes = [domain.image(stem).shape for stem in domain.labelled[:10]]
    wholly_labelled = sum(domain.partial.get(stem, 1.0) for stem in domain.labelled)
    return round(wholly_labelled * fmean(height * width for height, width, _ in sizes)) if sizes else 0


def _written(method: Mapping[str, Any]) -> str:
    return str(method["name"]) if len(method) == 1 else ", ".join(f"{key} {value}" for key, value in method.items())
