"""Batches with prototypes for the methods that share one embedding, and what their terms come to."""

from __future__ import annotations

from collections.abc import Callable

import torch
from helpers import needs, steps, train_settings
from torch import Tensor

from fewmask.data.batch import Batch
from fewmask.data.domain import Domain
from fewmask.methods import SETTINGS, build
from fewmask.methods.common.base import Method
from fewmask.methods.common.prototypes import LivePrototypes
from fewmask.methods.univ import Univ
from fewmask.models.universal import UniversalSegmenter

UNIVERSAL = ["univ-cross", "univ-full"]
MODES = ["anchored", "faithful"]


def method(name: str, of: dict[str, Domain], **options: object) -> Method:
    return build(SETTINGS[name].model_validate({"name": name, **needs(name, of), **options}), of, 100)


def settled(name: str, of: dict[str, Domain], network: UniversalSegmenter, seed: int = 3, **options: object) -> Univ:
    """A method in its second phase: its prototypes exist, every class has been seen."""
    made = method(name, of, **options)
    assert isinstance(made, Univ)
    rng = torch.Generator().manual_seed(seed)
    made.prepare(network, rng)
    made.begin(made.phases(4)[1], network, rng)
    if isinstance(made.prototypes, LivePrototypes):
        made.prototypes.initialised = torch.ones_like(made.prototypes.initialised)
        made.prototypes.boundary = torch.linspace(0.1, 0.3, len(of))
    return made


def aligned_batch(of: dict[str, Domain], network: UniversalSegmenter, made: Method, step: int = 3) -> Batch:
    rows = 2 * len(of)
    (part,) = steps(of, made.phases(4), train_settings(batch_size=rows), network)[step]
    return part


def evaluated(
    made: Method, network: UniversalSegmenter, part: Batch, of: Callable[[dict[str, Tensor]], Tensor] | None = None
) -> dict[str, float]:
    """The terms in eval mode, where rows do not meet in batch normalisation; the backward pass of `of`."""
    network.eval()
    network.zero_grad()
    terms = made.step(network, part, torch.Generator().manual_seed(0))
    if of is not None:
        of(terms).backward()
    return {name: term.item() for name, term in terms.items()}
