"""Prototypes of the classes of all domains in the embedding space of E: fixed as published, or live ones that follow
the labelled cells.

Fixed prototypes: Kalluri et al., ICCV 2019, §3.3. Live prototypes: docs/decisions/0003-entropy-module.md.

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
from fewmask.losses.prototypes import draw_per_class, pca_prototypes, update_prototypes
from fewmask.methods.common.base import sum_over_domains
from fewmask.models.universal import UniversalSegmenter, at_stride

# Softmax turns this similarity into probability 0. It is finite, so that the entropy's gradient is finite.
NEVER = -1e4


@dataclass(frozen=True)
class Cells:
    """The embedding of a micro-batch and the labels of its cells."""

    embedding: Tensor
    """(B,D,h,w)."""
    label: Tensor
    """(B,h,w): the label of the pixel at each cell's centre."""
    batch: Batch
    count: PixelCounts
    """The numbers of cells by which sums are divided."""

    def unlabelled(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Yield each domain i, its rows' embedding (b_i,D,h,w), and the mask (b_i,h,w) of its unlabelled cells."""
        for i, rows in self.batch.unlabelled_rows().items():
            yield i, take(self.embedding, rows), take(self.label, rows) == NOT_LABELLED

    def zero(self) -> Tensor:
        """0 with a gradient of 0."""
        return self.embedding.sum() * 0.0


class Prototypes(nn.Module):
    """Prototypes (G,P,D) of the classes of all domains, in the domains' order."""

    def __init__(self, domains: Mapping[str, Domain], per_class: int) -> None:
        super().__init__()
        self.domains = dict(domains)
        self.classes = [d.space.num_classes for d in domains.values()]
        self.first = [sum(self.classes[:k]) for k in range(len(self.classes))]
        # `prepare` fills them when D is known.
        self.register_buffer("vectors", torch.zeros(sum(self.classes), per_class, 0))
        self.register_buffer("initialised", torch.zeros(sum(self.classes), dtype=torch.bool))
        self.vectors: Tensor
        self.initialised: Tensor
        """(G,) bool: the classes with a labelled cell so far. The other rows of `vectors` hold random vectors."""

    def prepare(self, model: UniversalSegmenter, rng: torch.Generator) -> None:
        """Called before the first step: draw random unit vectors, which labelled cells will replace."""
        shape = (*self.vectors.shape[:2], model.settings.embedding.dim)
        self.vectors = F.normalize(torch.randn(shape, generator=rng, device=rng.device), dim=-1)

    def settle(self, model: UniversalSegmenter) -> None:
        """Called at the end of the pretraining."""

    @abstractmethod
    def align(self, cells: Cells) -> Alignment:
        """L_cross and L_within of the unlabelled cells."""

    def follow(self, rng: torch.Generator) -> None:
        """Called after the optimiser's step."""

    def without_absent(self, similarity: Tensor) -> Tensor:
        """Similarities (b,G,h,w) to the classes. Classes without a prototype get `NEVER`, which leaves them out of
        every softmax."""
        return similarity.masked_fill(~self.initialised[:, None, None], NEVER)

    def domain_vectors(self, k: int) -> Tensor:
        """The prototypes (C_k,P,D) of domain k."""
        return self.vectors[self.first[k] : self.first[k] + self.classes[k]]


class FixedPrototypes(Prototypes):
    """The published prototypes: centroids of F's features after a pretraining on the labels, reduced by PCA and fixed
    from then on. Similarity is the dot product."""

    def __init__(self, domains: Mapping[str, Domain], start_embedding_from_pca: bool, needs_every_class: bool) -> None:
        super().__init__(domains, per_class=1)
        self.start_embedding_from_pca, self.needs_every_class = start_embedding_from_pca, needs_every_class

    def prepare(self, model: UniversalSegmenter, rng: torch.Generator) -> None:
        """Raises ValueError for a class without a labelled cell, unless it may be left out, and for an embedding with
        more dimensions than PCA can give. The check runs before the pretraining."""
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
                f"mode: faithful makes a prototype of every class from labelled pixels; there is no labelled pixel of "
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
        self.initialised = torch.bincount(label, minlength=sum(self.classes)) > 0
        if self.start_embedding_from_pca:
            project = _projection(model)
            assert project.bias is not None
            project.weight.copy_(components[:, :, None, None])
            project.bias.copy_(-(components @ mean))

    def align(self, cells: Cells) -> Alignment:
        similarity, unlabelled = {}, {}
        for i, embedding, mask in cells.unlabelled():
            similarity[i], unlabelled[i] = self.without_absent(dot_similarity(embedding, self.vectors)), mask
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
                features = pool(model.encode(image, domain.name)).float().permute(0, 2, 3, 1).flatten(0, 2)
                label = at_stride(mask, model.embedding_stride, model.multiple).flatten()
                has_class = label < NOT_LABELLED
                yield features[has_class], label[has_class].long() + first


class LivePrototypes(Prototypes):
    """Several prototypes a class, which are moving averages of the labelled cells. The anchor loss pulls E towards
    them. Similarity is the cosine over a temperature."""

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
        domain_of = torch.repeat_interleave(torch.arange(len(self.classes)), torch.tensor(self.classes))
        self.register_buffer("domain_of", domain_of, persistent=False)
        self.register_buffer("boundary", torch.zeros(len(self.classes)))
        self.domain_of: Tensor
        self.boundary: Tensor
        self._cells: list[tuple[Tensor, Tensor]] = []

    def anchor(self, cells: Cells) -> Tensor:
        """CE of every labelled cell to the prototypes of its domain's classes. The cells are kept for `follow`."""

        def term(k: int, rows: Tensor) -> Tensor:
            embedding, target = take(cells.embedding, rows), take(cells.label, rows)
            # Selecting the labelled cells would wait for the device. Class G marks the others, which are never drawn.
            label = torch.where(target < NOT_LABELLED, target.long() + self.first[k], len(self.initialised))
            self._cells.append((embedding.detach().float().permute(0, 2, 3, 1).flatten(0, 2), label.flatten()))
            # A class without a prototype is left out of the softmax, and so are its cells, until `follow` makes one.
            has_prototype = self.initialised[self.first[k] :][: self.classes[k]]
            similarity = cosine_similarity(embedding, self.domain_vectors(k)) / self.temperature
            similarity = similarity.masked_fill(~has_prototype[:, None, None], NEVER)
            comparable = (target < NOT_LABELLED) & has_prototype[target.long().clamp_max(len(has_prototype) - 1)]
            return cross_entropy(similarity, torch.where(comparable, target, VOID), cells.count.labelled[k])

        return sum_over_domains(cells.batch.labelled_rows(), term, cells.embedding)

    def align(self, cells: Cells) -> Alignment:
        similarity, unlabelled = {}, {}
        for i, embedding, mask in cells.unlabelled():
            similarity[i], unlabelled[i] = self.without_absent(cosine_similarity(embedding, self.vectors)), mask
        return _alignment(
            cells,
            {i: s / self.temperature for i, s in similarity.items()},
            unlabelled,
            self.classes,
            unknown=self.boundary / self.temperature if self.private == "unknown" else None,
            gate={i: self._inside(s) for i, s in similarity.items()} if self.private == "gate" else None,
        )

    def follow(self, rng: torch.Generator) -> None:
        """Update the prototypes with the labelled cells of this step, of all processes."""
        # Every process takes part in the gather, even without a labelled cell, since the others wait for it.
        empty = self.vectors.new_zeros(0, self.vectors.shape[-1]), self.domain_of.new_zeros(0)
        embedding, label = (distributed.all_gather(torch.cat(c)) for c in zip(empty, *self._cells, strict=True))
        self._cells.clear()
        if not len(label):
            return
        index, present = draw_per_class(label, len(self.initialised), self.drawn, rng)
        cells = embedding[index]
        # A class that occurs for the first time starts from its cells, not from the random vectors.
        fresh = present & ~self.initialised
        first = F.normalize(cells[:, : self.vectors.shape[1]], dim=-1)
        start = torch.where(fresh[:, None, None], first, self.vectors)
        self.vectors = update_prototypes(start, cells, present, self.momentum)
        self.initialised = self.initialised | present
        self._move_boundary(cells, present)

    def _move_boundary(self, cells: Tensor, present: Tensor) -> None:
        """Update each domain's boundary: the mean similarity halfway between a labelled cell's own class and the next
        best class of its domain. cells (G,M,D) of each class, present (G,)."""
        scores = cosine_similarity(cells.permute(0, 2, 1).unsqueeze(-1), self.vectors).squeeze(-1)  # (G,G,M)
        same = torch.eye(len(cells), dtype=torch.bool, device=cells.device)
        rival = (self.domain_of[:, None] == self.domain_of) & ~same
        own_class = scores.diagonal().mean(0)
        next_class = scores.masked_fill(~rival[:, :, None], -1).amax(1).mean(1)
        weight = F.one_hot(self.domain_of, len(self.boundary)).float() * present[:, None]
        midpoint = weight.T @ ((own_class + next_class) / 2) / weight.sum(0).clamp_min(1)
        moved = torch.lerp(midpoint, self.boundary, torch.where(self.boundary == 0, 0.0, self.momentum))
        self.boundary = torch.where(weight.sum(0) > 0, moved, self.boundary)

    def _inside(self, similarity: Tensor) -> Tensor:
        """(b,K,h,w) bool: whether the cell's largest similarity to a class of domain j reaches j's boundary."""
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
        return Alignment(cells.zero(), cells.zero(), cells.zero().detach())
    return alignment(logits, unlabelled, classes, list(cells.count.unlabelled), unknown, gate)


def _projection(model: UniversalSegmenter) -> nn.Conv2d:
    project = model.embedding[-1]
    assert isinstance(project, nn.Conv2d)
    return project
