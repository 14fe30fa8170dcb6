"""Several networks of one architecture as one network, whose logits are the mean of the members' logits.

Shapes: M members · B images · H×W pixels · C channels of a member's features ·
C_k classes of domain k · h×w feature cells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from fewmask.config import InputSettings, ModelSettings
from fewmask.labels import LabelSpace
from fewmask.models import encoders
from fewmask.models.universal import UniversalSegmenter


class Ensemble(UniversalSegmenter):
    """A network that shares its members' modules, so that it always has their current weights. Its features (B,M·C,h,w)
    are those of the members, concatenated. It has no E, which inference does not need: `embed` averages over cells."""

    def __init__(self, members: Sequence[UniversalSegmenter]) -> None:
        nn.Module.__init__(self)  # the base class's __init__ would build a network
        first = members[0]
        assert all((m.settings, m.spaces) == (first.settings, first.spaces) for m in members), "different members"
        self.settings, self.spaces, self.members = first.settings, first.spaces, len(members)
        self.sizes, self.inputs, self.stems = first.sizes, first.inputs, first.stems
        self.channels, self.stride = self.members * first.channels, first.stride
        self.embedding_stride, self.multiple = first.embedding_stride, first.multiple
        self.register_buffer("mean", first.mean, persistent=False)
        self.register_buffer("std", first.std, persistent=False)
        self.features = _SideBySide([m.features for m in members])
        self.heads = nn.ModuleDict({k: _Mean([m.heads[k] for m in members], first.channels) for k in first.heads})
        self.embedding = nn.Sequential(first.embedding[0])


def networks(
    settings: ModelSettings,
    spaces: Mapping[str, LabelSpace],
    members: int = 1,
    seed: int = 0,
    inputs: Mapping[str, InputSettings] | None = None,
) -> UniversalSegmenter:
    """A network, or an ensemble of `members` networks. Raises ValueError as `UniversalSegmenter` does."""
    made = [UniversalSegmenter(settings, spaces, seed + i, inputs) for i in range(members)]
    return Ensemble(made) if members > 1 else made[0]


class _SideBySide(nn.Module):
    """F of every member: image (B,3,H,W) → (B,M·C,h,w)."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    @property
    def encoder(self) -> nn.Module:
        return nn.ModuleList(encoders.encoder_of(m) for m in self.members)

    def forward(self, image: Tensor) -> Tensor:
        return torch.cat([member(image) for member in self.members], 1)


class _Mean(nn.Module):
    """The mean of the members' heads, each on the C channels of its member: features (B,M·C,h,w) → logits
    (B,C_k,h,w)."""

    def __init__(self, members: Sequence[nn.Module], channels: int) -> None:
        super().__init__()
        self.members, self.channels = nn.ModuleList(members), channels

    def forward(self, features: Tensor) -> Tensor:
        parts = features.split(self.channels, 1)
        return torch.stack([member(part) for member, part in zip(self.members, parts, strict=True)]).mean(0)
