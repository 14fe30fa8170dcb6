"""Co-training as cross pseudo supervision (Chen et al., CVPR 2021): two networks with different initial weights label
the pool for each other.

    for each step:  x labelled, u pool;  networks i = 1, 2, j the other one
        y_i   = argmax G_k^i(F^i(u))                                  eval mode; an answered pixel is its own
        u, y_1, y_2 ← CutMix of rows of one domain                    the same boxes for images and both labels
        L_s   = Σ_i Σ_k CE(y, G_k^i(F^i(x)))                          labelled pixels
        L_cps = Σ_i Σ_k 1/N_k Σ CE(y_j, G_k^i(F^i(u)))                N_k: all pixels of the pool's rows but void
        L     = L_s + λ L_cps

With `labels_in: train` and without CutMix x and u go through each network in one forward, which gives y_i too.

Shapes: B rows of a batch, U of them of the pool · H×W pixels · C feature channels · h×w feature cells.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fewmask.config.methods import CoTrainingSettings
from fewmask.data.batch import Batch, Phase, take
from fewmask.labels import VOID
from fewmask.losses.divergence import js_divergence
from fewmask.losses.entropy import masked_mean
from fewmask.methods.common.base import Method, supervised_loss
from fewmask.methods.common.consistency import CutMix
from fewmask.methods.common.pool import Targets, encode_for_labels, pool_loss, pool_targets
from fewmask.models.batch_norm import synchronise
from fewmask.models.ensemble import Ensemble
from fewmask.models.universal import UniversalSegmenter, at_stride
from fewmask.views.mixing import box_masks, partners

# The fraction of the image that a box covers. In the paper three boxes together cover this fraction.
BOX = (0.25, 0.5)


class CoTraining(Method):
    Settings = CoTrainingSettings
    name = "co-training"
    settings: CoTrainingSettings
    second: UniversalSegmenter

    def prepare(self, model: UniversalSegmenter, rng: torch.Generator) -> None:
        seed = int(torch.randint(2**62, (), generator=rng, device=rng.device))
        second = UniversalSegmenter(model.settings, model.spaces, seed, model.inputs)
        second = second.to(rng.device).train(model.training)
        self.second = synchronise(second).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def inference_model(self, model: UniversalSegmenter) -> UniversalSegmenter:
        return model if self.settings.answers == "first" else Ensemble([model, self.second])

    def extra_modules(self, model: UniversalSegmenter) -> dict[str, nn.Module]:
        return {"second": self.second} if self.settings.answers == "first" else {}

    @property
    def active(self) -> bool:
        """False with a weight of 0. The first network's training is then joint training, bit for bit."""
        return self.settings.weight > 0

    def phases(self, steps: int) -> list[Phase]:
        every = tuple(self.domains)
        if not self.active:
            return [Phase("train", 0, steps, every)]
        change, whole = round(steps * self.settings.begin), self.settings.whole
        return [Phase("labels", 0, change, every), Phase("train", change, steps, every, every, whole=whole)]

    def forward_batch_sizes(self, labelled: int, unlabelled: int) -> tuple[int, ...]:
        total = labelled + unlabelled
        apart = unlabelled and self.settings.cutmix and self.settings.labels_in == "train"
        return (unlabelled, total) if apart else (total,)

    def step(self, model: UniversalSegmenter, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        networks, labelled = (model, self.second), batch.without_pool()
        if not self.active or batch.phase == "labels":
            losses = [supervised_loss(n, n.encode(batch.image), batch) for n in networks]
            return {"supervised": torch.stack(losses).sum()}
        pool, in_eval = batch.image[batch.pool :], self.settings.labels_in == "eval"
        if self.settings.cutmix or in_eval:
            with torch.no_grad():
                weak = [encode_for_labels(n, pool) if in_eval else n.encode(pool) for n in networks]
            targets = self._targets(networks, weak, batch)
            mix = self._cutmix(batch, rng)
            mixed = torch.cat([labelled.image, mix.image(pool)])
            features = [n.encode(mixed) for n in networks]
            targets = [mix.targets(t) for t in targets]
        else:
            features = [n.encode(batch.image) for n in networks]
            targets = self._targets(networks, [f[batch.pool :] for f in features], batch)
        supervised = [supervised_loss(n, f[: batch.pool], labelled) for n, f in zip(networks, features, strict=True)]
        cross = [
            pool_loss(n, f[batch.pool :], target.label, None, batch)
            for n, f, target in zip(networks, features, reversed(targets), strict=True)
        ]
        return {
            "supervised": torch.stack(supervised).sum(),
            "cross": self.settings.weight * torch.stack(cross).sum(),
        }

    def _cutmix(self, batch: Batch, rng: torch.Generator) -> CutMix:
        owner = batch.domain[batch.pool :]
        return CutMix(box_masks(len(owner), batch.size, rng, self.settings.cutmix, BOX), partners(owner))

    @torch.no_grad()
    def _targets(
        self, networks: Sequence[UniversalSegmenter], features: Sequence[Tensor], batch: Batch
    ) -> list[Targets]:
        """y_1 and y_2 of the pool's rows, from features (U,C,h,w) of each network. The metrics get the fraction of the
        pixels without an answer on which the two agree, and the mean divergence of their softmaxes."""
        targets = [pool_targets(n, f, batch) for n, f in zip(networks, features, strict=True)]
        first, second = targets
        free = ~first.answered
        agreed = (free & (first.label == second.label)).sum() / free.sum().clamp_min(1)
        model = networks[0]
        cells = at_stride(batch.label[batch.pool :], model.stride, model.multiple)
        divergence = torch.zeros(cells.shape, device=cells.device)
        for k, rows in batch.pool_rows().items():
            logits = [n.decode(take(f, rows), n.domains[k]) for n, f in zip(networks, features, strict=True)]
            divergence[rows] = js_divergence(*logits)
        self.metrics |= {"agreement": agreed, "diversity": masked_mean(divergence, cells != VOID)}
        return targets
