"""Adversarial semi-supervised segmentation (Hung et al., BMVC 2018): a discriminator distinguishes people's label maps
from the network's predictions. The network learns to fool it, and uses its predictions as labels where the
discriminator takes them for real.

    for each step:  x labelled, u pool (after the warm-up); D_k: the discriminator of domain k's maps
        p, q   = softmax(G_k(F(x))), softmax(G_k(F(u)))
        L_ce   = Σ_k CE(y, p)                                  labelled pixels
        L_adv  = Σ_k −log D_k(p)                               labelled pixels; D_k is frozen
        L_advu = Σ_k −log D_k(q)                               the pool's pixels without a label; D_k is frozen
        L_semi = Σ_k CE(argmax q', q) where D_k(q') > T        the pool's pixels without a label; q': q in eval mode
        L_D    = Σ_k ½ (−log(1 − D_k(p)) − log D_k(onehot y))  labelled pixels; p is a constant
        F, G:  L_ce + λ_adv L_adv + λ_advu L_advu + λ_semi L_semi         D: L_D, by an Adam of its own

At pixels of x without a class both maps, p and y, are 0. Void pixels of q are 0 too.

Shapes: B rows of a batch, U of them of the pool · C_k classes of domain k · C feature channels · H×W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fewmask.config.methods import Hung2018Settings
from fewmask.data.batch import Batch, Phase, take
from fewmask.labels import NOT_LABELLED, VOID
from fewmask.losses.adversarial import one_hot, verdict_loss
from fewmask.losses.cross_entropy import cross_entropy
from fewmask.losses.pseudo_label import pseudo_label
from fewmask.methods.common.adversary import frozen
from fewmask.methods.common.base import Method, OwnOptimiser, label_loss, sum_over_domains, supervised_loss
from fewmask.methods.common.pool import encode_for_labels
from fewmask.models.discriminator import Discriminator
from fewmask.models.universal import UniversalSegmenter


class Hung2018(Method):
    Settings = Hung2018Settings
    name = "hung2018"
    settings: Hung2018Settings
    discriminators: nn.ModuleList

    @property
    def learns_from_pool(self) -> bool:
        return self.settings.semi_adversarial > 0 or self.settings.semi > 0

    @property
    def active(self) -> bool:
        """False with weights of 0. The method is then joint training, bit for bit."""
        return self.settings.adversarial > 0 or self.learns_from_pool

    def phases(self, steps: int) -> list[Phase]:
        every = tuple(self.domains)
        if not self.learns_from_pool:
            return [Phase("train", 0, steps, every)]
        change = round(steps * self.settings.warmup)
        return [
            Phase("warm-up", 0, change, every),
            Phase("semi", change, steps, every, every, whole=self.settings.whole),
        ]

    def prepare(self, model: UniversalSegmenter, rng: torch.Generator) -> None:
        classes = [space.num_classes for space in model.spaces.values()] if self.active else []
        self.discriminators = nn.ModuleList(Discriminator(c, self.settings.channels, rng) for c in classes)

    def optimisers(self) -> dict[str, OwnOptimiser]:
        optimiser = OwnOptimiser(list(self.discriminators.parameters()), self.settings.optimiser)
        return {"discriminator": optimiser} if self.active else {}

    def step(self, model: UniversalSegmenter, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        features = model.encode(batch.image)
        if not self.active:
            return {"supervised": supervised_loss(model, features, batch)}
        terms = self._labelled(model, features, batch)
        if batch.phase == "semi":
            terms |= self._pool(model, features[batch.pool :], batch)
        return terms

    def _labelled(self, model: UniversalSegmenter, features: Tensor, batch: Batch) -> dict[str, Tensor]:
        """L_ce, λ_adv L_adv and L_D. features (B,C,·,·)."""

        def terms(k: int, rows: Tensor) -> Tensor:
            judge, label, pixels = self.discriminators[k], take(batch.label, rows), batch.counts[1].labelled[k]
            logits = model.logits(take(features, rows), model.domains[k], batch.size)
            labelled = label < NOT_LABELLED
            guess, truth = logits.float().softmax(1) * labelled[:, None], one_hot(label, logits.shape[1])
            with frozen(judge):
                fooling = verdict_loss(judge(guess), True, labelled, pixels)
            fake, real = judge(torch.cat([guess.detach(), truth])).chunk(2)
            loss = verdict_loss(fake, False, labelled, pixels) + verdict_loss(real, True, labelled, pixels)
            return torch.stack([label_loss(logits, label, batch, k, rows), fooling, loss / 2])

        supervised, fooling, discrimination = sum_over_domains(batch.labelled_rows(), terms, features, 3)
        return {
            "supervised": supervised,
            "adversarial": self.settings.adversarial * fooling,
            "discriminator": discrimination,
        }

    def _pool(self, model: UniversalSegmenter, features: Tensor, batch: Batch) -> dict[str, Tensor]:
        """λ_advu L_advu and λ_semi L_semi. features (U,C,·,·)."""
        labels, in_eval = batch.label[batch.pool :], self.settings.labels_in == "eval"
        labelling = encode_for_labels(model, batch.image[batch.pool :]) if in_eval else features.detach()

        def terms(k: int, rows: Tensor) -> Tensor:
            judge, label, pixels = self.discriminators[k], take(labels, rows), batch.counts[1].pool_unlabelled[k]
            logits = model.logits(take(features, rows), model.domains[k], batch.size)
            unlabelled = label == NOT_LABELLED
            valid = (label != VOID)[:, None]
            with frozen(judge):
                verdict = judge(logits.float().softmax(1) * valid)
            realness, predicted = self._realness(model, take(labelling, rows), valid, k, batch.size)
            sure = unlabelled & (realness > self.settings.threshold)
            fooling = verdict_loss(verdict, True, unlabelled, pixels)
            semi = cross_entropy(logits, predicted.where(sure, VOID), pixels)
            return torch.stack([fooling, semi, sure.sum()])

        fooling, semi, sure = sum_over_domains(batch.pool_rows(), terms, features, 3)
        self.metrics["sure"] = sure.detach() / (labels == NOT_LABELLED).sum().clamp_min(1)
        return {"semi_adversarial": self.settings.semi_adversarial * fooling, "semi": self.settings.semi * semi}

    @torch.no_grad()
    def _realness(
        self, model: UniversalSegmenter, features: Tensor, valid: Tensor, k: int, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """σ(D_k) of the predictions for rows (b,C,·,·) of domain k, and the predicted classes, each (b,H,W)."""
        logits = model.logits(features, model.domains[k], size)
        label, _ = pseudo_label(logits)
        return self.discriminators[k](logits.float().softmax(1) * valid).sigmoid(), label
