"""The contract of a method: which images it wants, what it makes of a batch, and what it keeps between steps.

Shapes: B rows of a batch · H×W pixels · C feature channels · h×w feature cells · C_k classes of domain k.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from fewmask.config import NetworkOptimiserSettings
from fewmask.config.base import MethodSettings
from fewmask.data.batch import Batch, Phase, take
from fewmask.data.domain import Domain
from fewmask.losses.cross_entropy import cross_entropy
from fewmask.models.universal import UniversalSegmenter

RIVAL = "other"
"""A network that a method keeps by this name is validated beside the one that answers, and the better one answers."""


class OwnOptimiser(NamedTuple):
    """What a network of the method is moved by, instead of the run's optimiser."""

    parameters: Sequence[nn.Parameter]
    settings: NetworkOptimiserSettings


class Method(nn.Module):
    """One training method. Being a module, the networks, buffers and parameters that it owns are moved, optimised,
    spread over processes, saved and resumed with the model's.

    `step` returns the terms of the loss, named and already weighted; `metrics` holds scalars to be logged beside them.
    What `step` draws from its generator is its process's own; that of every other call is equal in all processes.
    """

    Settings: ClassVar[type[MethodSettings]] = MethodSettings
    name: ClassVar[str]

    def __init__(self, settings: MethodSettings, domains: Mapping[str, Domain]) -> None:
        """Raises ValueError when the settings and the domains do not fit."""
        super().__init__()
        self.settings = settings
        self.domains = dict(domains)
        self.metrics: dict[str, Tensor] = {}

    def phases(self, steps: int) -> list[Phase]:
        """Who is drawn from when; one phase over all labelled images by default."""
        return [Phase("train", 0, steps, tuple(self.domains))]

    def prepare(self, model: UniversalSegmenter, rng: torch.Generator) -> None:
        """Called once, on the run's device, before the first step of a run."""

    def begin(self, phase: Phase, model: UniversalSegmenter, rng: torch.Generator) -> None:
        """Called before the first step of every phase."""

    def optimisers(self) -> dict[str, OwnOptimiser]:
        """Of those of the method's parameters that are not to be the run's optimiser's, by name; asked once, after
        `prepare`.

        All optimisers step after the one backward pass of a step. A game between two networks is therefore two terms,
        each of which reaches one player alone: see `methods.common.adversary`.
        """
        return {}

    def inference_model(self, model: UniversalSegmenter) -> UniversalSegmenter:
        """The network that predicts. It is validated, selected and saved as the run's model. Some methods return a
        teacher."""
        return model

    def extra_modules(self, model: UniversalSegmenter) -> dict[str, nn.Module]:
        """Further modules to save as `<name>.safetensors`, such as the student of a teacher."""
        return {}

    @property
    def trains_embedding(self) -> bool:
        """Whether it trains the embedding head E, so that a picture of E shows something."""
        return False

    def forward_batch_sizes(self, labelled: int, unlabelled: int) -> tuple[int, ...]:
        """The number of images in each forward of F, in a step with so many labelled and unlabelled rows. Batch
        normalisation needs two in each."""
        return (labelled + unlabelled,)

    def step(self, model: UniversalSegmenter, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        raise NotImplementedError

    def after_step(self, model: UniversalSegmenter, rng: torch.Generator) -> None:
        """Called when the optimisers have moved all networks, after the loss was found finite."""


def supervised_loss(
    model: UniversalSegmenter,
    features: Tensor,
    batch: Batch,
    *,
    weight: Tensor | None = None,
    gamma: float = 0.0,
    epsilon: float = 0.0,
) -> Tensor:
    """L_sup = Σ_k mean over the labelled pixels of domain k of CE(y, G_k(F(x))) (ICCV 2019, eq. 1), weighed by
    `Batch.pixel_weight` where rows show images of which only a part is labelled.

    Each head sees only its own rows, and of these only rows with a labelled pixel. weight (B,H,W), γ and ε are those of
    `cross_entropy`.
    """

    def term(k: int, rows: Tensor) -> Tensor:
        factor, pixels = batch.weighted(k, rows)
        if weight is not None:
            factor = take(weight, rows) if factor is None else take(weight, rows) * factor
        logits, label = model.logits(take(features, rows), model.domains[k], batch.size), take(batch.label, rows)
        return cross_entropy(logits, label, pixels, weight=factor, gamma=gamma, epsilon=epsilon)

    return sum_over_domains(batch.labelled_rows(), term, features)


def sum_over_domains(
    rows: Mapping[int, Tensor], term: Callable[[int, Tensor], Tensor], features: Tensor, terms: int | None = None
) -> Tensor:
    """Σ_k term(k, rows of domain k) over the domains that have rows.

    `term` returns a scalar, or (`terms`,) for several sums at once. Without any row the sum is 0, with a gradient of 0
    for `features`, so that every process has a backward pass.
    """
    losses = [term(k, of_domain) for k, of_domain in rows.items()]
    if losses:
        return torch.stack(losses).sum(0)
    nothing = features.sum() * 0.0
    return nothing if terms is None else nothing.expand(terms)


def two_or_more(domains: Mapping[str, Domain], method: str) -> Mapping[str, Domain]:
    """The domains, of which the method needs two. Raises ValueError where there is one."""
    if len(domains) < 2:
        raise ValueError(
            f"method.name: {method} aligns domains, and there is but one ({', '.join(domains)}); add a second to "
            "`domains`, or take `joint`, or a method that learns from the pool of one domain, such as `fixmatch`"
        )
    return domains
