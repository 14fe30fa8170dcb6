"""The moving average of the networks of a run, and which of the two answers.

    after step t = 0, 1, …:  θ' ← d θ' + (1 − d) θ,  d = min(1 − 1/(t + 1), 1 − 1/(lag · steps))

θ are all weights and buffers that validation selects together: the network's and, where the method has more, theirs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from torch import nn

from fewmask.config import TrainSettings
from fewmask.config.self_labelling import momentum
from fewmask.engine.metrics import mean
from fewmask.methods.common.base import RIVAL
from fewmask.methods.common.teacher import Teacher
from fewmask.models.universal import UniversalSegmenter

Average = Teacher[nn.ModuleDict]


def average_of(kept: nn.ModuleDict, settings: TrainSettings) -> Average | None:
    """None where the settings want no average."""
    behind = settings.average.lag * settings.steps
    return Average(kept, momentum(behind)) if behind else None


def answering(kept: nn.ModuleDict, average: Average | None, settings: TrainSettings) -> dict[str, nn.ModuleDict]:
    """By name, the networks of which validation takes the better one, and without it the first."""
    rival = {RIVAL: nn.ModuleDict({**kept, "model": kept[RIVAL], RIVAL: kept["model"]})} if RIVAL in kept else {}
    if average is None:
        return {"last": kept, **rival}
    return {"average": average.model, **({"last": kept, **rival} if settings.average.answers == "better" else {})}


def network_of(kept: nn.ModuleDict) -> UniversalSegmenter:
    network = kept["model"]
    assert isinstance(network, UniversalSegmenter)
    return network


def better(
    found: Mapping[str, Mapping[str, Any]], domains: Collection[str]
) -> tuple[str, float | None, dict[str, Any]]:
    """Returns the best evaluation of the networks by mean mIoU over the domains, that mean, and what to note of all. Of
    equal ones, and where none was scored, it is the first."""
    means = {w: mean([s["miou"] for name, s in r["domains"].items() if name in domains]) for w, r in found.items()}
    which = max(means, key=lambda w: means[w] or 0.0)
    every = {"weights": {w: r["avg_miou"] for w, r in found.items()}} if len(found) > 1 else {}
    return which, means[which], {"avg_miou": found[which]["avg_miou"], **every}
