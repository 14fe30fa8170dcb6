"""Weak-to-strong consistency, the common part of FixMatch and UniMatch. A network labels the weak view of an image of
the pool. The student learns these labels on the strong views, which are mixed by CutMix.

Sohn et al. (FixMatch), NeurIPS 2020, as Yang et al. (UniMatch, CVPR 2023) run it for segmentation in their code.

Shapes: B rows of a batch, U of them of the pool · S strong views · H×W pixels · C feature channels · h×w feature cells.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from fewmask.config.self_labelling import ConsistencySettings
from fewmask.data.batch import Batch, Phase
from fewmask.labels import VOID
from fewmask.methods.common.base import supervised_loss
from fewmask.methods.common.pool import Targets, encode, encode_for_labels, pool_loss, pool_targets
from fewmask.methods.common.teacher import MeanTeacherMethod
from fewmask.models.universal import UniversalSegmenter
from fewmask.views.mixing import box_masks, partners, paste


class CutMix(NamedTuple):
    """The pixels (U,H,W) bool of each row that come from another row, and the index (U,) of that row."""

    mask: Tensor
    source: Tensor

    def image(self, image: Tensor) -> Tensor:
        return paste(self.mask, image, image[self.source])

    def targets(self, targets: Targets) -> Targets:
        return targets.pasted(self.mask, targets.rows(self.source))


class Consistency(MeanTeacherMethod):
    """The parts of a step, in the order in which the methods use them."""

    settings: ConsistencySettings
    views: ClassVar[int]

    @property
    @abstractmethod
    def active(self) -> bool:
        """False with weights of 0. The method is then joint training, bit for bit."""

    @property
    def sees_weak(self) -> bool:
        """Whether the student's forward pass includes the weak views. It need not where a teacher labels them, or the
        student in eval mode."""
        return self.teacher is None and self.settings.labels_in == "train"

    def phases(self, steps: int) -> list[Phase]:
        every = tuple(self.domains)
        if not self.active:
            return [Phase("train", 0, steps, every)]
        view, change = (self.settings.view,) * self.views, round(steps * self.settings.begin)
        train = Phase("train", change, steps, every, every, whole=self.settings.whole, strong=view)
        return [Phase("labels", 0, change, every), train]

    def forward_batch_sizes(self, labelled: int, unlabelled: int) -> tuple[int, ...]:
        plain, strong = labelled + self.sees_weak * unlabelled, self.views * unlabelled
        return (plain, strong) if strong and self.settings.forward == "separate" else (plain + strong,)

    def cutmix(self, batch: Batch, rng: torch.Generator) -> list[CutMix]:
        """Draw a CutMix for each strong view."""
        owner = batch.domain[batch.pool :]
        source = partners(owner)
        return [CutMix(box_masks(len(owner), batch.size, rng, self.settings.cutmix), source) for _ in range(self.views)]

    def encode(
        self, model: UniversalSegmenter, batch: Batch, strong: Sequence[Tensor]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """F of the plain images, and F of each strong view. Plain images are the labelled ones and, if `sees_weak`, the
        weak views."""
        plain = batch.image if self.sees_weak else batch.image[: batch.pool]
        plain_features, mixed = encode(model, [plain, torch.cat(list(strong))], self.settings.forward == "joint")
        return plain_features, mixed.chunk(self.views)

    def supervised(self, model: UniversalSegmenter, plain: Tensor, batch: Batch) -> Tensor:
        """The supervised term over all labels of the plain images. If `sees_weak`, answers in the pool are among
        them."""
        subset = batch if len(plain) == len(batch.label) else batch.without_pool()
        return self.settings.supervised_weight * supervised_loss(model, plain, subset)

    def targets(self, model: UniversalSegmenter, plain: Tensor, batch: Batch) -> Targets:
        """Labels of the weak views, without a gradient. They come from the teacher, from the student in eval mode, or
        from this forward pass of the student."""
        labeller = model if self.teacher is None else self.teacher.model
        from_forward = self.teacher is None and self.settings.labels_in == "train"
        features = plain[batch.pool :] if from_forward else encode_for_labels(labeller, batch.image[batch.pool :])
        targets = pool_targets(labeller, features, batch)
        valid = targets.label != VOID
        self.metrics["sure"] = (valid & (targets.confidence >= self.settings.threshold)).sum() / valid.sum().clamp_min(
            1
        )
        return targets

    def agreement(self, model: UniversalSegmenter, features: Tensor, targets: Targets, batch: Batch) -> Tensor:
        """Σ_k 1/N_k Σ_{confidence ≥ threshold} CE(label, G_k(features)), N_k the pool's pixels that are not void."""
        sure = (targets.confidence >= self.settings.threshold).float()
        return pool_loss(model, features, targets.label, sure, batch)
