"""CyCADA (Hoffman et al., ICML 2018): translators make images of labelled sources look like images of an unlabelled
target. A network learns from the translated images, with features from which source and target cannot be told apart.

    "source":  x of source s
        F, G_s:  Σ_s CE(y, G_s(F(x)))                      labelled pixels; f_S = G_s∘F at the end, a copy
    "translator":  x of A, on both ways A→B of every pair s⇄t;  T: translators, D: discriminators of images
        v       = T_AB(x)
        L_gan   = (D_B(v) − 1)²                            D_B is frozen
        L_cycle = |T_BA(v) − x|
        L_id    = |T_BA(x) − x|
        L_sem   = CE(argmax f_S(x), f_S(v))                f_S is frozen
        L_D     = ½ ((D_A(x) − 1)² + D_B(v')²)             v' is v or an earlier one, a constant
        T:  λ_gan L_gan + λ_cycle L_cycle + λ_id L_id + λ_sem L_sem        D: L_D
    "adapt":  x of source s, u of the target, v = T_st(x) a constant;  m: classes of s → classes of t
        L_task  = Σ_s CE(m(y), G_t(F(v)))                  labelled pixels
        L_feat  = −log D_f(F(u))                           D_f is frozen
        L_Df    = ½ (Σ_s −log D_f(F(v)) − log(1 − D_f(F(u))))              F(v), F(u) are constants
        F, G_t:  L_task + λ_feat L_feat        D_f: L_Df        G_s: CE(y, G_s(F(v))), F(v) a constant

Every mean leaves void out. Labels of the target are never used.

Shapes: B rows of a batch · C feature channels · H×W pixels · h×w feature cells.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fewmask.config.methods import CycadaSettings
from fewmask.data.batch import Batch, Phase, take
from fewmask.data.domain import Domain
from fewmask.labels import VOID
from fewmask.losses.adversarial import verdict_loss
from fewmask.losses.translation import image_distance, least_squares, semantic_consistency
from fewmask.methods.common.adaptation import begin_as_sources, class_mappings, target_of, target_values
from fewmask.methods.common.adversary import frozen
from fewmask.methods.common.base import Method, OwnOptimiser, label_loss, sum_over_domains, supervised_loss
from fewmask.methods.common.teacher import Teacher
from fewmask.models.discriminator import cell_classifier
from fewmask.models.translation import Translation, Way
from fewmask.models.universal import UniversalSegmenter, at_stride


class Cycada(Method):
    Settings = CycadaSettings
    name = "cycada"
    rgb_alone = True
    settings: CycadaSettings
    translations: nn.ModuleList

    def __init__(self, settings: CycadaSettings, domains: Mapping[str, Domain]) -> None:
        super().__init__(settings, domains)
        self.target = target_of(settings.target, domains)
        self.mappings = class_mappings(settings.classes, domains, self.target)
        self.sources = {k: name for k, name in enumerate(domains) if name != self.target}
        self.owner = list(domains).index(self.target)
        self.register_buffer("values", target_values(self.mappings, domains), persistent=False)
        self.values: Tensor
        self.frozen: Teacher | None = None
        self.judge: nn.Module | None = None

    def phases(self, steps: int) -> list[Phase]:
        labelled, pool = tuple(self.mappings), (self.target,)
        translator, adapt = self._changes(steps)
        return [
            Phase("source", 0, translator, labelled),
            Phase("translator", translator, adapt, labelled, pool, trains_for=(), restart=True),
            Phase("adapt", adapt, steps, labelled, pool, trains_for=pool, restart=True),
        ]

    def _changes(self, steps: int) -> tuple[int, int]:
        """The first steps of the translators and of the adaptation."""
        s = self.settings
        adapt = min(round(steps * (s.pretrain + s.translate)), steps - 1)
        return min(round(steps * s.pretrain), adapt), adapt

    def prepare(self, model: UniversalSegmenter, rng: torch.Generator) -> None:
        s = self.settings
        sources = self.sources if s.translate else ()
        self.translations = nn.ModuleList(Translation(s.translator, rng) for _ in sources)
        if s.semantic and s.translate:
            self.frozen = Teacher(model, momentum=0)
        if s.features:
            self.judge = cell_classifier(model.channels, s.channels, rng)

    def optimisers(self) -> dict[str, OwnOptimiser]:
        networks = {"translation": self.translations, "discriminator": self.judge}
        parameters = {name: list(network.parameters()) for name, network in networks.items() if network is not None}
        return {name: OwnOptimiser(p, self.settings.optimiser) for name, p in parameters.items() if p}

    def extra_modules(self, model: UniversalSegmenter) -> dict[str, nn.Module]:
        return {"translator": nn.ModuleList(t.to_target for t in self._pairs())} if self.translations else {}

    def begin(self, phase: Phase, model: UniversalSegmenter, rng: torch.Generator) -> None:
        if phase.name == "translator" and self.frozen is not None:
            self.frozen.follow(model)
        if phase.name == "adapt":
            begin_as_sources(model, self.mappings, self.target)
            for pair in self._pairs():
                pair.forget()

    def step(self, model: UniversalSegmenter, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        if batch.phase == "source":
            return {"supervised": supervised_loss(model, model.encode(batch.image), batch)}
        return self._translate(batch, rng) if batch.phase == "translator" else self._adapt(model, batch)

    def _translate(self, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        """The terms of all ways of all pairs."""
        losses: dict[str, list[Tensor]] = {}
        for (k, source), pair in zip(self.sources.items(), self._pairs(), strict=True):
            for domain, way in zip((k, self.owner), pair.ways(), strict=True):
                rows, pixels = torch.nonzero(batch.domain == domain).flatten(), batch.counts[1].valid[domain]
                image, valid = take(batch.image, rows), take(batch.label, rows) != VOID
                for name, term in self._one_way(way, source, image, valid, pixels, rng).items():
                    losses.setdefault(name, []).append(term)
        return {name: torch.stack(terms).sum() for name, terms in losses.items()}

    def _one_way(
        self, way: Way, source: str, image: Tensor, valid: Tensor, pixels: Tensor, rng: torch.Generator
    ) -> dict[str, Tensor]:
        """The terms of images x (B,3,H,W); valid (B,H,W) where they are not void. Without an image there is no term."""
        s = self.settings
        translation = way.translator(image) if len(image) else image.float()
        remembered = way.history.swap(translation, rng)  # all processes together
        if not len(image):
            return {}
        with frozen(way.other_judge):
            fooling = least_squares(way.other_judge(translation), True, valid, pixels)
        real = least_squares(way.own_judge(image), True, valid, pixels)
        fake = least_squares(way.other_judge(remembered), False, valid, pixels)
        terms = {
            "adversarial": s.adversarial * fooling,
            "cycle": s.cycle * image_distance(way.inverse(translation), image, valid, pixels),
            "translation": (real + fake) / 2,
        }
        if s.identity:
            terms["identity"] = s.identity * image_distance(way.inverse(image), image, valid, pixels)
        if self.frozen is not None:
            network = self.frozen.model
            with torch.no_grad():
                original = network(image, source)
            translated = network(translation, source)
            terms["semantic"] = s.semantic * semantic_consistency(translated, original, valid, pixels)
        return terms

    @torch.no_grad()
    def translated(self, batch: Batch) -> Tensor:
        """The images (B,3,H,W) of a batch, with those of sources translated to the target: fp32 in 0–255."""
        image = batch.image.float()
        by_domain = batch.rows()
        for k, pair in zip(self.sources, self._pairs(), strict=False):
            if k in by_domain:
                image[by_domain[k]] = pair.to_target(take(image, by_domain[k]))
        return image

    def _adapt(self, model: UniversalSegmenter, batch: Batch) -> dict[str, Tensor]:
        features = model.encode(self.translated(batch))
        labelled, of_sources = batch.without_pool(), features[: batch.pool]
        owner = labelled.domain.to(features.device, non_blocking=True)
        label = self.values[owner[:, None, None], labelled.label.long()]

        def task(k: int, rows: Tensor) -> Tensor:
            logits = model.logits(take(of_sources, rows), self.target, batch.size)
            return label_loss(logits, take(label, rows), labelled, k, rows)

        follow = supervised_loss(model, of_sources.detach(), labelled)
        terms = {"task": sum_over_domains(labelled.labelled_rows(), task, features), "source": follow}
        return terms if self.judge is None else terms | self._align(self.judge, model, features, batch)

    def _align(self, judge: nn.Module, model: UniversalSegmenter, features: Tensor, batch: Batch) -> dict[str, Tensor]:
        """λ_feat L_feat and L_Df. features (B,C,h,w)."""
        valid = at_stride(batch.label, model.stride, model.multiple) != VOID
        cells = batch.counts[model.stride].valid
        with frozen(judge):
            verdict = judge(features[batch.pool :])[:, 0]
        fooling = verdict_loss(verdict, True, valid[batch.pool :], cells[self.owner])
        verdict = judge(features.detach())[:, 0]

        def loss_and_correct(k: int, rows: Tensor) -> Tensor:
            of_source = k != self.owner
            verdicts, mask = take(verdict, rows), take(valid, rows)
            correct = (((verdicts > 0) == of_source) & mask).sum()
            return torch.stack([verdict_loss(verdicts, of_source, mask, cells[k]), correct])

        discrimination, correct = sum_over_domains(batch.rows(), loss_and_correct, features, 2)
        self.metrics["domain_accuracy"] = correct.detach() / valid.sum().clamp_min(1)
        return {"features": self.settings.features * fooling, "discriminator": discrimination / 2}

    def _pairs(self) -> list[Translation]:
        return [pair for pair in self.translations if isinstance(pair, Translation)]
