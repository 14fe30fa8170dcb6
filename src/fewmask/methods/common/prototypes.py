"""Where the classes of all domains lie in the space of E: fixed as published, or live beside the labelled cells.

Fixed: Kalluri et al., ICCV 2019, §3.3. Live, and why: docs/decisions/0003-entropy-module.md.

Shapes: B rows · K domains, C_k classes of domain k, G = Σ_k C_k · P prototypes a class · D embedding size ·
h×w cells of the embedding · N cells of a step · M of them drawn a class.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewmask import distributed
from fewmask.data.batch import Batch, PixelCounts, take
from fewmask.data.domain import Domain
from fewmask.labels import NOT_LABELLED, VOID
from fewmask.losses.alignment import Alignment, alignment, cosine_similarity, dot_similarity
from fewmask.losses.cross_entropy import cross_entropy
from fewmask.losses.prototypes import draw_per_class, pca_prototypes, updated
from fewmask.methods.common.base import sum_over_domains
from fewmask.models.universal import UniversalSegmenter, at_stride

# A similarity that softmax turns into probability 0, yet finite, as the entropy's gradient must be.
NEVER = -1e4


@dataclass(frozen=True)
class Cells:
    """A micro-batch as E sees it."""

    embedding: Tensor
    """(B,D,h,w)."""
    label: Tensor
    """(B,h,w): the label of the pixel at each cell's centre."""
    batch: Batch
    count: PixelCounts
    """Of the cells, to divide by."""

    def unlabelled(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Domain i, its rows' embedding (b_i,D,h,w), and which of their cells are unlabelled (b_i,h,w)."""
        for i, rows in self.batch.unlabelled_rows().items():
            yield i, take(self.embedding, rows), take(self.label, rows) == NOT_LABELLED

    def nothing(self) -> Tensor:
        """0 with a gradient of 0."""
        return self.embedding.sum() * 0.0


class Prototypes(nn.Module):
    """Prototypes (G,P,D) of the classes of all domains, in the domains' order."""

    def __init__(self, domains: Mapping[str, Domain], per_class: int) -> None:
        super().__init__()
        self.domains = dict(domains)
        self.classes = [d.space.num_classes for d in domains.values()]
        self.first = [sum(self.classes[:k]) for k in range(len(self.classes))]
        # `prepare` fills them, knowing D.
        self.register_buffer("vectors", torch.zeros(sum(self.classes), per_class, 0))
        self.register_buffer("seen", torch.zeros(sum(self.classes), dtype=torch.bool))
        self.vectors: Tensor
        self.seen: Tensor
        """(G,): those with a labelled cell so far. The others have no prototype, only where one was drawn."""

    def prepare(self, model: UniversalSegmenter, rng: torch.Generator) -> None:
        """Before the first step: unit vectors at random, to be replaced by what is learnt from labels."""
        shape = (*self.vectors.shape[:2], model.settings.embedding.dim)
        self.vectors = F.normalize(torch.randn(shape, generator=rng, device=rng.device), dim=-1)

    def settle(self, model: UniversalSegmenter) -> None:
        """At the end of the pretraining."""

    @abstractmethod
    def align(self, cells: Cells) -> Alignment:
        """L_cross and L_within of the unlabelled cells."""

    def follow(self, rng: torch.Generator) -> None:
        """After the optimiser's step."""

    def known(self, similarity: Tensor) -> Tensor:
        """Similarities (b,G,h,w) to the classes, with those that have no prototype left out of every softmax."""
        return similarity.masked_fill(~self.seen[:, None, None], NEVER)

    def of(self, k: int) -> Tensor:
        """The prototypes (C_k,P,D) of domain k."""
        return self.vectors[self.first[k] : self.first[k] + self.classes[k]]


class FixedPrototypes(Prototypes):
    """As published: centroids of F's features after a pretraining on the labels, reduced by PCA, and never moved again.
    Similarity is the dot product."""

    def __init__(self, domains: Mapping[str, Domain], start_embedding_from_pca: bool, needs_every_class: bool) -> None:
        super().__init__(domains, per_class=1)
        self.start_embedding_from_pca, self.needs_every_class = start_embedding_from_pca, needs_every_class

    def prepare(self, model: UniversalSegmenter, rng: torch.Generator) -> None:
        """Raises ValueError for a class without a labelled cell, unless it may be left out, or an embedding that PCA
        cannot fill: now, and not after the pretraining."""
        super().prepare(model, rng)
        counts = [torch.bincount(self._labels(model, k), minlength=c) for k, c in enumerate(self.classes)]
        absent = [
            f"{domain.name}: {name}"
            for domain, count in zip(self.domains.values(), counts, strict=True)
            for name, n in zip(domain.space.names, count.tolist(), strict=True)
            if not n
        ]
        if absent and self.needs_every_class:
            raise ValueError(
                f"mode: faithful makes a prototype of every class from labelled pixels; none is labelled of "
                f"{', '.join(absent)}; label one, or use absent: left-out, or mode: anchored"
            )
        channels, dim = _projection(model).in_channels, model.settings.embedding.dim
        cells = int(torch.cat(counts).sum())
        if dim > min(channels, cells):
            raise ValueError(
                f"model.embedding.dim: {dim} exceeds the {channels} feature channels or the {cells} labelled cells "
                "that mode: faithful reduces to it; lower it"
            )

    @torch.no_grad()
    def settle(self, model: UniversalSegmenter) -> None:
        """Fix the prototypes from the features of all labelled cells."""
        features, label = self.labelled_features(model)
        dim = model.settings.embedding.dim
        self.vectors, components, mean = pca_prototypes(features, label, sum(self.classes), dim)
        self.seen = torch.bincount(label, minlength=sum(self.classes)) > 0
        if self.start_embedding_from_pca:
            project = _projection(model)
            assert project.bias is not None
            project.weight.copy_(components[:, :, None, None])
            project.bias.copy_(-(components @ mean))

    def align(self, cells: Cells) -> Alignment:
        similarity, unlabelled = {}, {}
        for i, embedding, mask in cells.unlabelled():
            similarity[i], unlabelled[i] = self.known(dot_similarity(embedding, self.vectors)), mask
        return _alignment(cells, similarity, unlabelled, self.classes)

    def _labels(self, model: UniversalSegmenter, k: int) -> Tensor:
        """Classes (N,) int64 of the labelled cells of domain k."""
        domain = list(self.domains.values())[k]
        masks = (torch.from_numpy(domain.mask(stem))[None] for stem in domain.labelled)
        label = torch.cat([at_stride(m, model.embedding_stride, model.multiple).flatten() for m in masks])
        return label[label < NOT_LABELLED].long()

    @torch.no_grad()
    def labelled_features(self, model: UniversalSegmenter) -> tuple[Tensor, Tensor]:
        """Features (N,C) of all labelled cells, in eval mode, and their classes (N,) in 0 … G−1."""
        was_training = model.training
        model.eval()
        features, labels = zip(*self._each_labelled_image(model), strict=True)
        model.train(was_training)
        return torch.cat(features), torch.cat(labels)

    def _each_labelled_image(self, model: UniversalSegmenter) -> Iterator[tuple[Tensor, Tensor]]:
        pool, device = model.embedding[0], model.mean.device
        for first, domain in zip(self.first, self.domains.values(), strict=True):
            for stem in domain.labelled:
                image = torch.from_numpy(domain.image(stem)).to(device).permute(2, 0, 1)[None]
                mask = torch.from_numpy(domain.mask(stem)).to(device)[None]
                features = pool(model.encode(image)).float().permute(0, 2, 3, 1).flatten(0, 2)
                label = at_stride(mask, model.embedding_stride, model.multiple).flatten()
                known = label < NOT_LABELLED
                yield features[known], label[known].long() + first


class LivePrototypes(Prototypes):
    """Several prototypes a class, kept by moving average among the labelled cells, to which the anchor draws E in turn.
    Similarity is the cosine over a temperature."""

    def __init__(
        self,
        domains: Mapping[str, Domain],
        per_class: int,
        temperature: float,
        momentum: float,
        drawn: int,
        private: str,
    ) -> None:
        super().__init__(domains, per_class)
        self.temperature, self.momentum, self.private = temperature, momentum, private
        self.drawn = max(drawn, per_class)
        of = torch.repeat_interleave(torch.arange(len(self.classes)), torch.tensor(self.classes))
        self.register_buffer("domain_of", of, persistent=False)
        self.register_buffer("boundary", torch.zeros(len(self.classes)))
        self.domain_of: Tensor
        self.boundary: Tensor
        self._cells: list[tuple[Tensor, Tensor]] = []

    def anchor(self, cells: Cells) -> Tensor:
        """CE of every labelled cell to the prototypes of its own domain's classes; keeps the cells for `follow`."""

        def term(k: int, rows: Tensor) -> Tensor:
            own, target = take(cells.embedding, rows), take(cells.label, rows)
            # Selecting the labelled cells would wait for the device; as class G the others are never drawn.
            label = torch.where(target < NOT_LABELLED, target.long() + self.first[k], len(self.seen))
            self._cells.append((own.detach().float().permute(0, 2, 3, 1).flatten(0, 2), label.flatten()))
            # A class without a prototype is in no softmax, nor is a cell of it, until the step has made its prototypes.
            there = self.seen[self.first[k] :][: self.classes[k]]
            similarity = cosine_similarity(own, self.of(k)) / self.temperature
            similarity = similarity.masked_fill(~there[:, None, None], NEVER)
            known = (target < NOT_LABELLED) & there[target.long().clamp_max(len(there) - 1)]
            return cross_entropy(similarity, torch.where(known, target, VOID), cells.count.labelled[k])

        return sum_over_domains(cells.batch.labelled_rows(), term, cells.embedding)

    def align(self, cells: Cells) -> Alignment:
        similarity, unlabelled = {}, {}
        for i, embedding, mask in cells.unlabelled():
            similarity[i], unlabelled[i] = self.known(cosine_similarity(embedding, self.vectors)), mask
        return _alignment(
            cells,
            {i: s / self.temperature for i, s in similarity.items()},
            unlabelled,
            self.classes,
            unknown=self.boundary / self.temperature if self.private == "unknown" else None,
            gate={i: self._inside(s) for i, s in similarity.items()} if self.private == "gate" else None,
        )

    def follow(self, rng: torch.Generator) -> None:
        """Move the prototypes with the labelled cells of this step, of all processes."""
        # All processes gather, also one whose rows have no labelled cell in this step: the others wait for it.
        none = self.vectors.new_zeros(0, self.vectors.shape[-1]), self.domain_of.new_zeros(0)
        embedding, label = (distributed.all_gather(torch.cat(c)) for c in zip(none, *self._cells, strict=True))
        self._cells.clear()
        if not len(label):
            return
        index, present = draw_per_class(label, len(self.seen), self.drawn, rng)
        cells = embedding[index]
        # A class that is seen for the first time takes its prototypes from its cells, not from where they were drawn.
        fresh = present & ~self.seen
        first = F.normalize(cells[:, : self.vectors.shape[1]], dim=-1)
        start = torch.where(fresh[:, None, None], first, self.vectors)
        self.vectors = updated(start, cells, present, self.momentum)
        self.seen = self.seen | present
        self._move_boundary(cells, present)

    def _move_boundary(self, cells: Tensor, present: Tensor) -> None:
        """Follow, for each domain, the similarity halfway between a labelled cell's own class and the next best one of
        its domain. cells (G,M,D) of each class, present (G,)."""
        scores = cosine_similarity(cells.permute(0, 2, 1).unsqueeze(-1), self.vectors).squeeze(-1)  # (G,G,M)
        itself = torch.eye(len(cells), dtype=torch.bool, device=cells.device)
        rival = (self.domain_of[:, None] == self.domain_of) & ~itself
        own = scores.diagonal().mean(0)
        other = scores.masked_fill(~rival[:, :, None], -1).amax(1).mean(1)
        weight = F.one_hot(self.domain_of, len(self.boundary)).float() * present[:, None]
        midpoint = weight.T @ ((own + other) / 2) / weight.sum(0).clamp_min(1)
        moved = torch.lerp(midpoint, self.boundary, torch.where(self.boundary == 0, 0.0, self.momentum))
        self.boundary = torch.where(weight.sum(0) > 0, moved, self.boundary)

    def _inside(self, similarity: Tensor) -> Tensor:
        """(b,K,h,w): is a cell as near to some class of domain j as j's own labelled cells are to theirs?"""
        best = torch.stack([v.amax(1) for v in similarity.detach().split(self.classes, dim=1)], dim=1)
        return best >= self.boundary[:, None, None]


def _alignment(
    cells: Cells,
    logits: Mapping[int, Tensor],
    unlabelled: Mapping[int, Tensor],
    classes: list[int],
    unknown: Tensor | None = None,
    gate: Mapping[int, Tensor] | None = None,
) -> Alignment:
    if not logits:
        return Alignment(cells.nothing(), cells.nothing(), cells.nothing().detach())
    return alignment(logits, unlabelled, classes, list(cells.count.unlabelled), unknown, gate)


def _projection(model: UniversalSegmenter) -> nn.Conv2d:
    project = model.embedding[-1]
    assert isinstance(project, nn.Conv2d)
    return project
