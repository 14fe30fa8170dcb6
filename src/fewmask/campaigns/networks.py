"""The networks of finished rounds, as the committee that scores the pool."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from fewmask.config import Config
from fewmask.data.domain import Domain
from fewmask.engine.checkpoint import load_weights
from fewmask.engine.committee import Committee, Member
from fewmask.engine.run import load_model
from fewmask.methods import build
from fewmask.models.universal import UniversalSegmenter, know_classes
from fewmask.randomness import torch_generator
from fewmask.runs import RunFolder


def committee(
    config: Config, domains: Mapping[str, Domain], rounds: Sequence[RunFolder], device: torch.device
) -> Committee:
    """The networks of these rounds, each with the difficulty branch that was trained with it, if there is one."""
    assert config.campaign is not None
    pool = config.campaign.pool
    members = [_member(config, domains, run, name, device) for run in rounds for name in pool.networks]
    return Committee(members, pool, config.train.precision)


def _member(config: Config, domains: Mapping[str, Domain], run: RunFolder, name: str, device: torch.device) -> Member:
    network = load_model(run.folder, device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    branch = _branch(config, domains, run, network)
    if name != "model":
        if not run.module_weights(name).exists():
            raise ValueError(f"{run.module_weights(name)}: missing; the method keeps no network of that name")
        network.load_state_dict(_weights(run, name))
    know_classes(network, {name: domain.space for name, domain in domains.items()})
    return Member(network, branch)


def _branch(
    config: Config, domains: Mapping[str, Domain], run: RunFolder, network: UniversalSegmenter
) -> Callable[[Tensor], Tensor] | None:
    if not run.module_weights("difficulty").exists():
        return None
    method = build(config.method, domains, config.train.steps)
    method.prepare(network, torch_generator(config.seed, "method", device=str(network.mean.device)))
    branch = method.extra_modules(network)["difficulty"].eval()
    branch.load_state_dict(_weights(run, "difficulty"))
    return branch


def _weights(run: RunFolder, name: str) -> dict[str, Tensor]:
    return load_weights(run.module_weights(name), run.digest_of(run.module_weights(name)))
