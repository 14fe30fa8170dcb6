"""The moving average of the networks of a run, and the choice between the average and the last network.

    after step t = 0, 1, …:  θ' ← d θ' + (1 − d) θ,  d = min(1 − 1/(t + 1), 1 − 1/(lag · steps))

θ are all weights and buffers that validation selects together: those of the network and of the method's extra modules.
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


def average_of(modules: nn.ModuleDict, settings: TrainSettings) -> Average | None:
    """The moving average of the modules, or None if the settings have no average."""
    lag = settings.average.lag * settings.steps
    return Average(modules, momentum(lag)) if lag else None


def candidate_networks(
    modules: nn.ModuleDict, average: Average | None, settings: TrainSettings
) -> dict[str, nn.ModuleDict]:
    """By name, the networks from which validation takes the best one. Without validation it is the first."""
    rival = (
        {RIVAL: nn.ModuleDict({**modules, "model": modules[RIVAL], RIVAL: modules["model"]})}
        if RIVAL in modules
        else {}
    )
    if average is None:
        return {"last": modules, **rival}
    return {"average": average.model, **({"last": modules, **rival} if settings.average.answers == "better" else {})}


def network_of(modules: nn.ModuleDict) -> UniversalSegmenter:
    network = modules["model"]
    assert isinstance(network, UniversalSegmenter)
    return network


def best_evaluation(
    evaluations: Mapping[str, Mapping[str, Any]], domains: Collection[str]
) -> tuple[str, float | None, dict[str, Any]]:
    """Returns the name of the best network by mean mIoU over the domains, that mean, and the scores for the log. The
    first one wins among equals, and if none was scored."""
    means = {
        w: mean([s["miou"] for name, s in r["domains"].items() if name in domains]) for w, r in evaluations.items()
    }
    best = max(means, key=lambda w: means[w] or 0.0)
    notes = {"weights": {w: r["avg_miou"] for w, r in evaluations.items()}} if len(evaluations) > 1 else {}
    return best, means[best], {"avg_miou": evaluations[best]["avg_miou"], **notes}
