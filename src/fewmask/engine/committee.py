"""The committee that scores the pool: networks of one or more rounds, dropout draws, and scales.

Shapes: B images of one size · M members · H×W pixels · C classes · D feature channels, h×w cells.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewmask.acquisition.regions import parse_regions
from fewmask.acquisition.scores import known_scores
from fewmask.config import AskSettings, PoolSettings, Precision
from fewmask.engine.device import autocast
from fewmask.models.universal import UniversalSegmenter
from fewmask.randomness import torch_seed

ALONE = "entropy"  # the score for a single network, which has no other to disagree with


class Member(NamedTuple):
    """A network, and its branch that predicts where it is wrong: features (B,D,h,w) → logits (B,1,h,w)."""

    network: UniversalSegmenter
    difficulty: Callable[[Tensor], Tensor] | None = None


class Opinions(NamedTuple):
    """The outputs of all members for a batch."""

    logits: Tensor
    """(M,B,C,H,W)."""
    difficulty: Tensor | None
    """Logits of being wrong (M,B,1,H,W), if the members have a branch for it."""
    features: Tensor
    """Features (B,D,h,w) of the first network at the scale nearest to 1, without the padding."""
    cell: tuple[float, float]
    """Height and width of a feature's cell, in pixels of the images."""

    def of_image(self, image: int) -> Opinions:
        """The outputs for one image of the batch."""
        position = slice(image, image + 1)
        difficulty = None if self.difficulty is None else self.difficulty[:, position]
        return Opinions(self.logits[:, position], difficulty, self.features[position], self.cell)


@dataclass(frozen=True)
class Committee:
    """Networks in eval mode, each with dropout drawn several times, each at several scales."""

    members: Sequence[Member]
    settings: PoolSettings
    precision: Precision = "auto"

    @torch.inference_mode()
    def __call__(self, image: Tensor, domain: str, seed: int) -> Opinions:
        """image (B,3,H,W) uint8; `seed` is the seed of the dropout draws."""
        drawn, scales = self.settings.dropout, self.settings.scales
        nearest = min(range(len(scales)), key=lambda i: abs(math.log(scales[i])))
        image = image.to(self.members[0].network.mean.device, non_blocking=True)
        outputs: list[Opinions] = []
        for member in self.members:
            for draw in range(max(drawn, 1)):
                with dropout(member.network, drawn > 0, torch_seed(seed, "pool", draw)):
                    by_scale = [self._predict_scale(member, image, domain, scale) for scale in scales]
                logits, difficulties = self._combined([o.logits for o in by_scale]), [o.difficulty for o in by_scale]
                difficulty = (
                    self._combined([w for w in difficulties if w is not None]) if None not in difficulties else None
                )
                outputs.append(Opinions(logits, difficulty, by_scale[nearest].features, by_scale[nearest].cell))
        difficulties = [o.difficulty for o in outputs]
        difficulty = _join([w for w in difficulties if w is not None]) if None not in difficulties else None
        return Opinions(_join([o.logits for o in outputs]), difficulty, outputs[0].features, outputs[0].cell)

    def _predict_scale(self, member: Member, image: Tensor, domain: str, scale: float) -> Opinions:
        network, branch = member
        size = (image.shape[2], image.shape[3])
        view = image if scale == 1 else resized(image, scale)
        height, width = view.shape[2:]

        def pixels(cells: Tensor) -> Tensor:
            logits = network.upsample(cells, (height, width))
            return (logits if scale == 1 else F.interpolate(logits, size, mode="bilinear", align_corners=False))[None]

        with autocast(image.device, self.precision):
            features = network.encode(view, domain)
            logits = pixels(network.decode(features, domain))
            difficulty = None if branch is None else pixels(branch(features))
        cells = features[..., : -(-height // network.stride), : -(-width // network.stride)]
        return Opinions(
            logits, difficulty, cells, (network.stride * size[0] / height, network.stride * size[1] / width)
        )

    def _combined(self, by_scale: Sequence[Tensor]) -> Tensor:
        """The scales' logits as a member for each scale, or as one member with their mean."""
        joined = _join(by_scale)
        if self.settings.combine == "softmax" or len(joined) == 1:
            return joined
        return joined.float().mean(0, keepdim=True)


def _join(members: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(members)) if len(members) > 1 else members[0]


def resized(image: Tensor, scale: float) -> Tensor:
    """Images (B,3,H,W) uint8 at another scale, at least one pixel wide, as float in 0–255."""
    size = [max(1, round(n * scale)) for n in image.shape[2:]]
    return F.interpolate(image.float(), size, mode="bilinear", align_corners=False, antialias=scale < 1)


def dropout_layers(network: nn.Module) -> list[nn.Module]:
    return [m for m in network.modules() if isinstance(m, nn.modules.dropout._DropoutNd) and m.p > 0]


@contextmanager
def dropout(network: UniversalSegmenter, on: bool, seed: int) -> Iterator[None]:
    """Turn dropout on, drawn from a seed, with all other layers in eval mode; or, without `on`, change nothing."""
    device, layers = network.mean.device, dropout_layers(network) if on else []
    # Dropout draws from the global generator alone.
    with torch.random.fork_rng([device] if device.type == "cuda" else [], enabled=on):
        if on:
            torch.manual_seed(seed)
        try:
            for layer in layers:
                layer.train()
            yield
        finally:
            for layer in layers:
                layer.eval()


def opinion_count(pool: PoolSettings, networks: int) -> int:
    """The number of opinions of an image that can be compared, for a number of networks."""
    return networks * max(pool.dropout, 1) * (len(pool.scales) if pool.combine == "softmax" else 1)


def possible_request(pool: PoolSettings, ask: AskSettings, networks: int) -> AskSettings:
    """The questions' settings for a number of networks, at least one. The score is the entropy until there are enough
    generations for a score that compares opinions."""
    enough = opinion_count(pool, networks) >= known_scores()[ask.score].members
    return ask if enough else ask.model_copy(update={"score": ALONE})


def scoring_problems(pool: PoolSettings, ask: AskSettings, networks: int, difficulty: bool) -> list[str]:
    """The problems of asking with a number of networks, with or without a branch for difficulty. Each is a line `key:
    the reason and the fix`."""
    problems = []
    try:
        parse_regions(ask.regions).tile(np.zeros((2, 2, 3), np.uint8))  # superpixels may lack their library
    except ValueError as error:
        problems.append(f"regions: {error}")
    if ask.balance != "none" and not networks:
        problems.append(f"balance: {ask.balance} needs a network, and there is none yet; set none")
    scorer = known_scores().get(ask.score)
    if scorer is None:
        return [*problems, f"score: no score {ask.score!r}; there are {', '.join(known_scores())}"]
    if not networks:
        return (
            problems
            if scorer.needs_rng
            else [*problems, f"score: {ask.score} needs a network, there is none; set random"]
        )
    members = opinion_count(pool, networks)
    if members < scorer.members:
        problems.append(
            f"score: {ask.score} compares {scorer.members} opinions or more, and {networks} network"
            f"{'s have' if networks > 1 else ' has'} {members} here; set more campaign.pool.scales or .dropout, "
            "name several in campaign.pool.network where the method keeps more than one, or "
            f"campaign.pool.generations={scorer.members} with {scorer.members + 1} campaign.rounds or more"
        )
    if scorer.reads == "difficulty" and not difficulty:
        problems.append(f"score: {ask.score} reads a branch that the method does not train; set method=deal")
    return problems
