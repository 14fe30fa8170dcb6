"""The interface of a method: the images that it draws, the loss of a batch, and the state between steps.

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
from fewmask.losses.dice import dice_loss
from fewmask.models.universal import UniversalSegmenter

RIVAL = "other"
"""An extra module of this name is validated beside the inference model. The better of the two becomes the run's
model."""


class OwnOptimiser(NamedTuple):
    """Settings of an optimiser that a network of the method has instead of the run's optimiser."""

    parameters: Sequence[nn.Parameter]
    settings: NetworkOptimiserSettings


class Method(nn.Module):
    """A training method. It is a module, so its networks, buffers and parameters are moved, optimised, distributed,
    saved and resumed with the model's.

    `step` returns the terms of the loss, named and already weighted. `metrics` holds scalars to be logged beside them.
    The generator of `step` differs between processes. The generator of every other call is equal in all processes.
    """

    Settings: ClassVar[type[MethodSettings]] = MethodSettings
    name: ClassVar[str]
    rgb_alone: ClassVar[bool] = False
    """It makes images of its own, which are RGB: domains with other channels are refused."""
    takes_features: ClassVar[bool] = False
    """It gives the images of a batch to `model.encode` and to nothing else, so that the features of a frozen encoder
    can take their place."""

    def __init__(self, settings: MethodSettings, domains: Mapping[str, Domain]) -> None:
        """Raises ValueError when the settings and the domains do not fit."""
        super().__init__()
        self.settings = settings
        self.domains = dict(domains)
        self.metrics: dict[str, Tensor] = {}

    def phases(self, steps: int) -> list[Phase]:
        """The phases of the training, which say which images are drawn when. The default is one phase over all labelled
        images."""
        return [Phase("train", 0, steps, tuple(self.domains))]

    def prepare(self, model: UniversalSegmenter, rng: torch.Generator) -> None:
        """Called once, on the run's device, before the first step of a run."""

    def begin(self, phase: Phase, model: UniversalSegmenter, rng: torch.Generator) -> None:
        """Called before the first step of every phase."""

    def optimisers(self) -> dict[str, OwnOptimiser]:
        """Optimisers, by name, of the method's parameters that the run's optimiser leaves out. Called once, after
        `prepare`.

        All optimisers step after the single backward pass of a step. So a game between two networks has two terms, and
        the gradient of each reaches one player alone: see `methods.common.adversary`.
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
        """Whether the method trains the embedding head E. Only then is E worth plotting."""
        return False

    def forward_batch_sizes(self, labelled: int, unlabelled: int) -> tuple[int, ...]:
        """The number of images in each forward of F, for a step with these numbers of labelled and unlabelled rows.
        Batch normalisation needs two images in each forward."""
        return (labelled + unlabelled,)

    def step(self, model: UniversalSegmenter, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        raise NotImplementedError

    def after_step(self, model: UniversalSegmenter, rng: torch.Generator) -> None:
        """Called after the optimisers have updated all networks, if the loss was finite."""


def supervised_loss(
    model: UniversalSegmenter,
    features: Tensor,
    batch: Batch,
    *,
    weight: Tensor | None = None,
    gamma: float | None = None,
    epsilon: float = 0.0,
) -> Tensor:
    """L_sup = Σ_k mean over the labelled pixels of domain k of CE(y, G_k(F(x))) (ICCV 2019, eq. 1).
    `Batch.pixel_weight` weighs the pixels of partly labelled images. `Batch.loss` may make the cross-entropy focal and
    add the Dice loss.

    Each head gets only the rows of its domain that have a labelled pixel. weight (B,H,W), γ and ε are those of
    `cross_entropy`; without a γ it is that of `Batch.loss`.
    """

    def term(k: int, rows: Tensor) -> Tensor:
        logits = model.logits(take(features, rows), model.domains[k], batch.size)
        of_pixels = None if weight is None else take(weight, rows)
        label = take(batch.label, rows)
        return label_loss(logits, label, batch, k, rows, weight=of_pixels, gamma=gamma, epsilon=epsilon)

    return sum_over_domains(batch.labelled_rows(), term, features)


def label_loss(
    logits: Tensor,
    label: Tensor,
    batch: Batch,
    k: int,
    rows: Tensor,
    *,
    weight: Tensor | None = None,
    gamma: float | None = None,
    epsilon: float = 0.0,
) -> Tensor:
    """Domain k's part of the supervised loss. logits (b,C_k,h,w), label (b,h,w) and weight (b,h,w) are those of its
    `rows` (b,)."""
    factor, pixels = batch.weighted(k, rows)
    gamma = batch.loss.gamma if gamma is None else gamma
    loss = cross_entropy(logits, label, pixels, weight=_product(weight, factor), gamma=gamma, epsilon=epsilon)
    if batch.loss.dice:
        # The Dice loss balances the classes by itself, so it has no class weights.
        row_weight = _product(weight, batch.row_weight(rows))
        loss = loss + batch.loss.dice * dice_loss(logits, label, pixels, weight=row_weight)
    return loss


def _product(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    return other if one is None else one if other is None else one * other


def sum_over_domains(
    rows: Mapping[int, Tensor], term: Callable[[int, Tensor], Tensor], features: Tensor, terms: int | None = None
) -> Tensor:
    """Σ_k term(k, rows of domain k) over the domains that have rows.

    `term` returns a scalar, or (`terms`,) for several sums at once. Without any row the sum is 0, with a gradient of 0
    for `features`, so that every process has a backward pass.
    """
    losses = [term(k, domain_rows) for k, domain_rows in rows.items()]
    if losses:
        return torch.stack(losses).sum(0)
    zero = features.sum() * 0.0
    return zero if terms is None else zero.expand(terms)


def two_or_more(domains: Mapping[str, Domain], method: str) -> Mapping[str, Domain]:
    """Return the domains. Raises ValueError where there are fewer than the two that the method needs."""
    if len(domains) < 2:
        raise ValueError(
            f"method.name: {method} aligns domains, and there is only one ({', '.join(domains)}); add a second one to "
            "`domains`, or take `joint`, or a method that learns from the pool of one domain, such as `fixmatch`"
        )
    return domains
