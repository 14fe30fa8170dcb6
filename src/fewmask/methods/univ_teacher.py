"""Universal training with a mean teacher: every head learns from the images of all domains.

    for each step:  x labelled, u pool of domain i, w = weak(u), s = strong(u); G'_j(F'(·)): the teacher, in eval mode
        L_sup    = Σ_k CE(y, G_k(F(x)))                            labelled pixels
        L_anchor = Σ_k CE(y, ⟨E(F(x)), c^(k)⟩ / τ)                 labelled cells; trains E alone
        y_j, p_j = argmax, max of softmax(G'_j(F'(w)))             for every domain j; answered cells are their own in i
        L_within = Σ_i 1/N_i Σ_{p_i ≥ t} CE(y_i, G_i(F(s)))        N_i: all cells of the pool's rows but void
        M        = pairs of classes of two domains each of which is the other's nearest, by the prototypes c
        L_across = Σ_i 1/(K−1) Σ_{j≠i} 1/N_i Σ_{p_i, p_j ≥ t, (y_i, y_j) ∈ M} CE(y_j, G_j(F(s)))
        L        = L_sup + anchor · L_anchor + within · L_within + across · L_across
        F', G' follow F, G; the prototypes c follow E(F(x))

In univ-full prototypes and heads learn from the same labels, so that its entropy terms add no information. Here a
teacher assigns the classes. Its weights are an average over steps, and it gets another view of the image. The method
learns from the images which classes of two domains mean the same; names are not compared. A class without a
counterpart is left out of L_across.

Shapes: B rows of a batch, U of them of the pool, b of one domain · K domains, C_k classes of domain k, G = Σ_k C_k ·
C feature channels · h×w feature cells, at which labels are compared.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fewmask.config.methods import UnivTeacherSettings
from fewmask.data.batch import Batch, Phase, take
from fewmask.data.domain import Domain
from fewmask.labels import NOT_LABELLED, VOID
from fewmask.losses.cross_entropy import cross_entropy
from fewmask.losses.prototypes import counterparts
from fewmask.losses.pseudo_label import carried_over, pseudo_label
from fewmask.methods.common.base import sum_over_domains, supervised_loss
from fewmask.methods.common.pool import encode, encode_for_labels
from fewmask.methods.common.prototypes import Cells, LivePrototypes
from fewmask.methods.common.teacher import MeanTeacherMethod
from fewmask.models.universal import UniversalSegmenter, at_stride


class UnivTeacher(MeanTeacherMethod):
    Settings = UnivTeacherSettings
    name = "univ-teacher"
    settings: UnivTeacherSettings

    def __init__(self, settings: UnivTeacherSettings, domains: Mapping[str, Domain]) -> None:
        super().__init__(settings, domains)
        s = settings
        self.prototypes = LivePrototypes(domains, s.prototypes, s.temperature, s.momentum, s.drawn, private="none")

    @property
    def active(self) -> bool:
        """False with weights of 0. The method is then joint training, bit for bit."""
        return self.settings.within > 0 or self.trains_embedding

    @property
    def trains_embedding(self) -> bool:
        return self.settings.across > 0 and len(self.domains) > 1

    def phases(self, steps: int) -> list[Phase]:
        every = tuple(self.domains)
        if not self.active:
            return [Phase("joint", 0, steps, every)]
        change = round(steps * self.settings.pretrain)
        taught = Phase("taught", change, steps, every, every, strong=(self.settings.view,))
        return [Phase("pretrain", 0, change, every), taught]

    def prepare(self, model: UniversalSegmenter, rng: torch.Generator) -> None:
        super().prepare(model, rng)
        if self.trains_embedding:
            self.prototypes.prepare(model, rng)

    def forward_batch_sizes(self, labelled: int, unlabelled: int) -> tuple[int, ...]:
        apart = unlabelled and self.settings.forward == "separate"
        return (labelled, unlabelled) if apart else (labelled + unlabelled,)

    def step(self, model: UniversalSegmenter, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        labelled = batch.without_pool()
        images = [labelled.image] if batch.strong is None else [labelled.image, *batch.strong]
        features, *strong = encode(model, images, together=self.settings.forward == "joint")
        terms = {"supervised": supervised_loss(model, features, labelled)}
        if self.trains_embedding:
            label = at_stride(labelled.label, model.embedding_stride, model.multiple)
            cells = Cells(model.embed(features.detach()), label, labelled, labelled.counts[model.embedding_stride])
            terms["anchor"] = self.settings.anchor * self.prototypes.anchor(cells)
        return terms if batch.phase != "taught" else terms | self._taught(model, strong[0], batch)

    def after_step(self, model: UniversalSegmenter, rng: torch.Generator) -> None:
        super().after_step(model, rng)
        if self.trains_embedding:
            self.prototypes.follow(rng)

    def _taught(self, model: UniversalSegmenter, features: Tensor, batch: Batch) -> dict[str, Tensor]:
        """L_within and L_across, weighted. features (U,C,h,w) of the strong views."""
        assert self.teacher is not None
        s, teacher = self.settings, self.teacher.model
        weak = encode_for_labels(teacher, batch.image[batch.pool :])
        answers = at_stride(batch.label[batch.pool :], model.stride, model.multiple)
        count = batch.counts[model.stride].pool
        p = self.prototypes
        blocks = counterparts(p.vectors, p.initialised, p.boundary, p.classes).split(p.classes)
        carried = torch.zeros((), dtype=torch.int64, device=features.device)

        def terms(i: int, rows: Tensor) -> Tensor:
            nonlocal carried
            views, answer = take(weak, rows), take(answers, rows)
            label, confidence = pseudo_label(teacher.decode(views, model.domains[i]))
            label = torch.where(confidence >= s.threshold, label, VOID)
            label = torch.where(answer == NOT_LABELLED, label, answer)
            student = take(features, rows)
            within = cross_entropy(model.decode(student, model.domains[i]), label, count[i])
            across = features.sum() * 0.0
            others = [j for j in range(len(p.classes)) if j != i] if self.trains_embedding else []
            for j in others:
                other_label, sure = pseudo_label(teacher.decode(views, model.domains[j]))
                same = blocks[i].split(p.classes, dim=1)[j]
                target = carried_over(label, other_label, sure >= s.threshold, same)
                carried = carried + (target != VOID).sum()
                across = across + cross_entropy(model.decode(student, model.domains[j]), target, count[i]) / len(others)
            return torch.stack([within, across])

        within, across = sum_over_domains(batch.pool_rows(), terms, features, 2)
        pairs = max(1, len(p.classes) - 1) * (answers != VOID).sum().clamp_min(1)
        self.metrics["carried"] = carried / pairs
        return {"within": s.within * within, "across": s.across * across}
