"""A memory of images with rare classes. The class counts of the training decide which classes are rare.

Rangnekar, Kanan and Hoffman (S4AL), WACV 2023. The paper lists head and tail classes by hand; here they are computed.

Shapes: B rows of a batch · H×W pixels · C classes of the domain · N places.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fewmask import distributed
from fewmask.views.mixing import ReplayBuffer, adaptive_class_masks, head_and_tail, recall, remember


class Replay(nn.Module):
    """The memory of one domain, equal in all processes."""

    def __init__(self, classes: int, places: int, tail_share: float, heads: int, tails: int) -> None:
        super().__init__()
        self.places, self.tail_share, self.heads, self.tails = places, tail_share, heads, tails
        self.register_buffer("counts", torch.zeros(classes, dtype=torch.int64))
        for name, values in ReplayBuffer.empty(places, (0, 0))._asdict().items():
            self.register_buffer(name, values)
        self.counts: Tensor
        self.image: Tensor
        self.label: Tensor
        self.remembered: Tensor

    def fit(self, image: Tensor) -> None:
        """Make room for images (B,3,H,W) of this size, which is known from the first batch on."""
        if self.image.shape[1:] != image.shape[1:]:
            planes, height, width = image.shape[1:]
            self._keep(ReplayBuffer.empty(self.places, (height, width), image.device, planes))

    def observe(self, image: Tensor, label: Tensor) -> None:
        """Count the classes of the rows (B,3,H,W), (B,H,W) of all processes, and remember the rows with a rare
        class."""
        image, label = distributed.all_gather(image), distributed.all_gather(label)
        values = label.flatten().long()
        self.counts += torch.zeros(256, dtype=torch.int64, device=label.device).scatter_add_(
            0, values, torch.ones_like(values)
        )[: len(self.counts)]
        _, tail = head_and_tail(self.counts, self.tail_share)
        buffer = ReplayBuffer(self.image, self.label, self.remembered)
        self._keep(remember(buffer, image[-self.places :], label[-self.places :], tail))

    def draw(self, rows: int, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Draw remembered images (B,3,H,W), their labels (B,H,W), and the pixels (B,H,W) of some of their head and tail
        classes. The mask is empty while nothing is remembered."""
        image, label = recall(ReplayBuffer(self.image, self.label, self.remembered), rows, rng)
        head, tail = head_and_tail(self.counts, self.tail_share)
        return image, label, adaptive_class_masks(label, head, tail, rng, self.heads, self.tails)

    def _keep(self, buffer: ReplayBuffer) -> None:
        self.image, self.label, self.remembered = buffer

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *arguments: Any) -> None:
        # A resumed run has not had a batch yet, so the size comes from the stored images.
        if prefix + "image" in state_dict:
            self.fit(torch.empty_like(state_dict[prefix + "image"], device=self.image.device))
        super()._load_from_state_dict(state_dict, prefix, *arguments)
