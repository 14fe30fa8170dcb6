"""The entropy module of universal semi-supervised segmentation: prototypes of every domain's classes in one space,
and the terms that ask each unlabelled pixel to be sure of its class, in its own domain and in every other.

Kalluri et al., ICCV 2019, §3.3; what is mended in the anchored mode: docs/decisions/0003-entropy-module.md.

Shapes: B rows · K domains, C_k classes of domain k, G = Σ_k C_k · P prototypes a class · D embedding size ·
h×w cells of the embedding.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from fewmask import distributed
from fewmask.config import Fraction
from fewmask.data.batches import Batch, Phase, take
from fewmask.data.domain import Domain
from fewmask.labels import NOT_LABELLED
from fewmask.losses.alignment import Alignment, alignment, cosine_similarity, dot_similarity
from fewmask.losses.cross_entropy import cross_entropy
from fewmask.losses.prototypes import draw_per_class, pca_prototypes, updated
from fewmask.methods.base import Method, MethodSettings, supervised_loss
from fewmask.models.universal import UniversalSegmenter, at_stride

# A similarity that softmax turns into probability 0, yet finite, as the entropy's gradient must be.
_NEVER = -1e4


class EntropyModuleSettings(MethodSettings):
    mode: Literal["anchored", "faithful"] = "anchored"
    pretrain: Fraction = 0.25
    """Part of the steps that sees labels alone: faithful prototypes come from the end of it, live ones settle in it."""
    initial_embedding: Literal["random", "pca"] = "random"
    """faithful: where E starts once the prototypes are fixed; "pca" is the projection that made them."""
    anchor: NonNegativeFloat = 0.5
    """anchored: weight of the cross-entropy of labelled cells to their own domain's prototypes."""
    temperature: PositiveFloat = 0.1
    prototypes: PositiveInt = 3
    momentum: Fraction = 0.99
    drawn: PositiveInt = 64
    """anchored: labelled cells of each class that move its prototypes in a step."""
    private: Literal["unknown", "gate", "none"] = "unknown"
    """anchored: the answer to classes that the other domain lacks."""


class EntropyModule(Method):
    """What univ-cross and univ-full share. α and β are the weights of L_cross and L_within."""

    settings: EntropyModuleSettings

    def __init__(self, settings: EntropyModuleSettings, domains: Mapping[str, Domain]) -> None:
        super().__init__(settings, domains)
        self.classes = [d.space.num_classes for d in domains.values()]
        self.first = [sum(self.classes[:k]) for k in range(len(self.classes))]
        # Filled by `prepare` or `begin`, which know D.
        self.register_buffer("prototypes", torch.zeros(sum(self.classes), self._per_class, 0))
        self.register_buffer("seen", torch.zeros(sum(self.classes), dtype=torch.bool))
        self.register_buffer("boundary", torch.zeros(len(domains)))
        of = torch.repeat_interleave(torch.arange(len(domains)), torch.tensor(self.classes))
        self.register_buffer("domain_of", of, persistent=False)
        self.prototypes: Tensor
        self.seen: Tensor
        self.boundary: Tensor
        self.domain_of: Tensor
        self._labelled_cells: list[tuple[Tensor, Tensor]] = []

    @property
    @abstractmethod
    def weights(self) -> tuple[float, float]:
        """α, β."""

    @property
    def anchored(self) -> bool:
        return self.settings.mode == "anchored"

    @property
    def _per_class(self) -> int:
        return self.settings.prototypes if self.anchored else 1

    def phases(self, steps: int) -> list[Phase]:
        every = tuple(self.domains)
        if self.weights == (0, 0):  # joint training, bit for bit
            return [Phase("joint", 0, steps, every)]
        change = self._change(steps)
        return [Phase("pretrain", 0, change, every), Phase("align", change, steps, every, every)]

    def _change(self, steps: int) -> int:
        """The first step that sees unlabelled pixels."""
        return round(steps * self.settings.pretrain)

    def prepare(self, model: UniversalSegmenter, rng: torch.Generator) -> None:
        """Raises ValueError when a faithful run could not make its prototypes: before the pretraining, not after."""
        dim = model.settings.embedding.dim
        if not self.anchored and self.weights != (0, 0):
            self._check_prototypes(model)
        drawn = torch.randn(sum(self.classes), self._per_class, dim, generator=rng, device=rng.device)
        self.prototypes = F.normalize(drawn, dim=-1)

    def begin(self, phase: Phase, model: UniversalSegmenter, rng: torch.Generator) -> None:
        """faithful: fix the prototypes at the end of the pretraining."""
        if phase.name != "align" or self.anchored:
            return
        features, label = self._labelled_features(model)
        self.prototypes, components, mean = pca_prototypes(
            features, label, sum(self.classes), model.settings.embedding.dim
        )
        if self.settings.initial_embedding == "pca":
            project = self._projection(model)
            assert project.bias is not None
            with torch.no_grad():
                project.weight.copy_(components[:, :, None, None])
                project.bias.copy_(-(components @ mean))

    def step(self, model: UniversalSegmenter, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        features = model.encode(batch.image)
        terms = {"supervised": supervised_loss(model, features, batch)}
        if self.weights == (0, 0):
            return terms
        # Pixels without a label occur in labelled images too, but during the pretraining nothing is known of them.
        aligning = batch.step >= self._change(batch.steps)
        if not aligning and not self.anchored:
            return terms
        embedding = model.embed(features)
        label = at_stride(batch.label, model.embedding_stride, model.multiple)
        cells = batch.cells[model.embedding_stride]
        if self.anchored:
            terms["anchor"] = self.settings.anchor * self._anchor(embedding, label, batch, cells)
        if aligning:
            aligned = self._alignment(embedding, label, batch, cells)
            alpha, beta = self.weights
            terms["cross"] = alpha * aligned.cross
            if beta:
                terms["within"] = beta * aligned.within
            self.watch["marginal_entropy"] = aligned.marginal
        return terms

    def after_step(self, model: UniversalSegmenter, rng: torch.Generator) -> None:
        """anchored: prototypes follow the labelled cells of this step, of all processes."""
        if not self.anchored or self.weights == (0, 0):
            return
        # All processes gather, also one whose rows have no labelled cell in this step: the others wait for it.
        none = self.prototypes.new_zeros(0, self.prototypes.shape[-1]), self.domain_of.new_zeros(0)
        embedding, label = (distributed.gather(torch.cat(c)) for c in zip(none, *self._labelled_cells, strict=True))
        self._labelled_cells.clear()
        if not len(label):
            return
        drawn = max(self.settings.drawn, self._per_class)
        index, present = draw_per_class(label, sum(self.classes), drawn, rng)
        # A class that is seen for the first time takes its prototypes from its cells, not from where they were drawn.
        fresh = present & ~self.seen
        first = F.normalize(embedding[index[:, : self._per_class]], dim=-1)
        start = torch.where(fresh[:, None, None], first, self.prototypes)
        self.prototypes = updated(start, embedding[index], present, self.settings.momentum)
        self.seen = self.seen | present
        self._move_boundary(embedding[index], present)

    def _anchor(self, embedding: Tensor, label: Tensor, batch: Batch, cells: Tensor) -> Tensor:
        """CE of every labelled cell to the prototypes of its own domain's classes; remembers the cells for them."""
        losses = []
        for k, rows in batch.labelled_rows().items():
            own = take(embedding, rows)
            target = take(label, rows)
            logits = cosine_similarity(own, self._of(k)) / self.settings.temperature
            losses.append(cross_entropy(logits, target, cells[k, 0]))
            flat = own.detach().float().permute(0, 2, 3, 1).flatten(0, 2)
            known = target.flatten() < NOT_LABELLED
            # Selecting the known cells would wait for the device; as class G they are never drawn.
            label_of = torch.where(known, target.flatten().long() + self.first[k], sum(self.classes))
            self._labelled_cells.append((flat, label_of))
        return torch.stack(losses).sum() if losses else embedding.sum() * 0.0

    def _alignment(self, embedding: Tensor, label: Tensor, batch: Batch, cells: Tensor) -> Alignment:
        similarity, unlabelled = {}, {}
        for i, rows in batch.unlabelled_rows().items():
            like = cosine_similarity if self.anchored else dot_similarity
            similarity[i] = like(take(embedding, rows), self.prototypes)
            if self.anchored:  # a class that no step has seen yet has no prototype, only where one was drawn
                similarity[i] = similarity[i].masked_fill(~self.seen[:, None, None], _NEVER)
            unlabelled[i] = take(label, rows) == NOT_LABELLED
        if not similarity:
            nothing = embedding.sum() * 0.0
            return Alignment(nothing, nothing, nothing.detach())
        count = list(cells[:, 1])
        if not self.anchored:
            return alignment(similarity, unlabelled, self.classes, count)
        logits = {i: s / self.settings.temperature for i, s in similarity.items()}
        private = self.settings.private
        return alignment(
            logits,
            unlabelled,
            self.classes,
            count,
            unknown=self.boundary / self.settings.temperature if private == "unknown" else None,
            gate={i: self._inside(s) for i, s in similarity.items()} if private == "gate" else None,
        )

    def _inside(self, similarity: Tensor) -> Tensor:
        """(b,K,h,w): is a cell as near to some class of domain j as j's own labelled cells are to theirs?"""
        best = torch.stack([v.amax(1) for v in similarity.detach().split(self.classes, dim=1)], dim=1)
        return best >= self.boundary[:, None, None]

    def _move_boundary(self, cells: Tensor, present: Tensor) -> None:
        """Follow, for each domain, the similarity halfway between a labelled cell's own class and the next best one of
        its domain. cells (G,M,D) of each class, present (G,)."""
        scores = cosine_similarity(cells.permute(0, 2, 1).unsqueeze(-1), self.prototypes).squeeze(-1)  # (G,G,M)
        rival = (self.domain_of[:, None] == self.domain_of) & ~torch.eye(
            len(cells), dtype=torch.bool, device=cells.device
        )
        own = scores.diagonal().mean(0)
        other = scores.masked_fill(~rival[:, :, None], -1).amax(1).mean(1)
        weight = F.one_hot(self.domain_of, len(self.boundary)).float() * present[:, None]
        midpoint = weight.T @ ((own + other) / 2) / weight.sum(0).clamp_min(1)
        moved = torch.lerp(midpoint, self.boundary, torch.where(self.boundary == 0, 0.0, self.settings.momentum))
        self.boundary = torch.where(weight.sum(0) > 0, moved, self.boundary)

    def _of(self, k: int) -> Tensor:
        return self.prototypes[self.first[k] : self.first[k] + self.classes[k]]

    @staticmethod
    def _projection(model: UniversalSegmenter) -> nn.Conv2d:
        project = model.embedding[-1]
        assert isinstance(project, nn.Conv2d)
        return project

    def _check_prototypes(self, model: UniversalSegmenter) -> None:
        """Raises ValueError that names every class without a labelled cell, or an embedding that PCA cannot fill."""
        absent, cells = [], 0
        for name, domain in self.domains.items():
            labels = (torch.from_numpy(domain.mask(stem))[None] for stem in domain.labelled)
            at = [at_stride(mask, model.embedding_stride, model.multiple).flatten() for mask in labels]
            counts = torch.bincount(torch.cat([torch.zeros(0, dtype=torch.uint8), *at]), minlength=256)
            counts = counts[: domain.space.num_classes]
            cells += int(counts.sum())
            absent += [f"{name}: {c}" for c, n in zip(domain.space.names, counts.tolist(), strict=True) if not n]
        if absent:
            raise ValueError(
                f"mode: faithful makes a prototype of every class from labelled pixels; none is labelled of "
                f"{', '.join(absent)}; label one, or use mode: anchored"
            )
        channels, dim = self._projection(model).in_channels, model.settings.embedding.dim
        if dim > min(channels, cells):
            raise ValueError(
                f"model.embedding.dim: {dim} exceeds the {channels} feature channels or the {cells} labelled cells "
                "that mode: faithful reduces to it; lower it"
            )

    @torch.no_grad()
    def _labelled_features(self, model: UniversalSegmenter) -> tuple[Tensor, Tensor]:
        """Features (N,C) of every labelled cell of every domain and their classes (N,) in 0 … G−1, in eval mode."""
        was_training, device = model.training, model.mean.device
        model.eval()
        features, labels = zip(*self._each_labelled(model, device), strict=True)
        model.train(was_training)
        return torch.cat(features), torch.cat(labels)

    def _each_labelled(self, model: UniversalSegmenter, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        pool = model.embedding[0]
        for first, domain in zip(self.first, self.domains.values(), strict=True):
            for stem in domain.labelled:
                image = torch.from_numpy(domain.image(stem)).to(device).permute(2, 0, 1)[None]
                mask = torch.from_numpy(domain.mask(stem)).to(device)[None]
                cells = pool(model.encode(image)).float().permute(0, 2, 3, 1).flatten(0, 2)
                label = at_stride(mask, model.embedding_stride, model.multiple).flatten()
                known = label < NOT_LABELLED
                yield cells[known], label[known].long() + first
