"""Fusion of several heads: their joint prediction over the union of their label spaces, and the choice of the head that
fits an image best.

Prototypes are the mean features of all classes of all domains. A cell's similarities to them give a distribution over
the union. Its mass on the classes of a head is the head's *known mass* M_k. The head distributes this mass:

    π_u = softmax_u( max over the prototypes c of u  cos(f − o, c) / τ + log w_k(c) )
    M_k = Σ of π_u over the classes u that head k has
    s_u = Σ_k w_k M_k q_k(u) / Σ_k w_k                         both sums over the heads k that have u

where q_k is head k's softmax and w_k the weight of its domain for the image. A head does not count in the sums of a
class that it lacks. A single head, or heads of one label space, give their (weighted) mean.

The weight compares the shares r of an image that lie near each prototype with the mean shares r̄_k of the domain's
labelled images,

    r_g = mean over the cells of softmax_g( cos(f − o, c_g) / τ )
    e_k = ( ‖r − r̄_k‖ − its mean over the domain's own images ) / their standard deviation        w_k = exp(−e_k)

Shapes: B images · C feature channels · h×w feature cells · K heads, C_k classes of head k, G = Σ_k C_k ·
U classes of the union.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewmask.labels import LabelUnion
from fewmask.models.stems import Stems
from fewmask.models.universal import UniversalSegmenter

FUSED, AUTO = "fused", "auto"
"""Names for `decode`: the fused prediction of all heads, and the prediction of the head that fits the image best."""
TEMPERATURE = 0.1
ABSENT = -2.0
"""The similarity to a class without a prototype: below every cosine."""


@dataclass(frozen=True)
class Prototypes:
    """The prototypes of the classes among F's features, and the usual distances of a domain's images from them."""

    vectors: Mapping[str, Tensor]
    """By domain, its classes' mean features around `origin` as unit vectors (C_k,C); 0 for a class without a pixel."""
    origin: Tensor
    """(C,): the mean of the means of all classes of all domains."""
    usual: Tensor
    """(K,G): the mean shares of each domain's labelled images, see `shares`."""
    typical: Tensor
    """(K,): the mean distance of these images from `usual`."""
    spread: Tensor
    """(): the standard deviation of these distances, of all domains together."""


def similarity(features: Tensor, vectors: Tensor, origin: Tensor) -> Tensor:
    """cos(f − o, c): features (B,C,h,w), vectors (G,C), origin (C,) → (B,G,h,w) float32."""
    with torch.autocast(features.device.type, enabled=False):
        direction = F.normalize(features.float() - origin[:, None, None], dim=1)
        cosine = F.conv2d(direction, vectors[:, :, None, None])
    return cosine.masked_fill(~vectors.any(1)[:, None, None], ABSENT)


def shares(likeness: Tensor) -> Tensor:
    """The share of an image that lies near each prototype: likeness (B,G,h,w) → (B,G), which sum to 1."""
    return (likeness / TEMPERATURE).softmax(1).mean((2, 3))


def distance(image_shares: Tensor, usual: Tensor) -> Tensor:
    """The Euclidean distance (B,K) between an image's shares (B,G) and those of each domain (K,G)."""
    return torch.linalg.vector_norm(image_shares[:, None] - usual, dim=2)


def fuse(logits: Sequence[Tensor], likeness: Tensor, tables: Sequence[Tensor], log_weight: Tensor) -> Tensor:
    """log s, see above: logits (B,C_k,h,w) of K heads, likeness (B,G,h,w), tables (C_k,) of each head's classes in the
    union, log w (B,K) up to a constant → (B,U,h,w). Every class of the union is some head's."""
    size = int(max(int(t.max()) for t in tables)) + 1
    shape = (len(likeness), size, *likeness.shape[2:])
    fit = torch.repeat_interleave(log_weight, torch.tensor([len(t) for t in tables], device=likeness.device), 1)
    union_class = torch.cat(list(tables))[:, None, None].expand_as(likeness)
    near = likeness / TEMPERATURE + fit[:, :, None, None]
    mass = torch.full(shape, -torch.inf, device=near.device).scatter_reduce_(1, union_class, near, "amax").softmax(1)
    has_class = torch.stack([torch.zeros(size, device=likeness.device).index_fill_(0, t, 1.0) for t in tables])
    # Logarithms keep the share of a head that fits badly and is the only one with a class.
    share = log_weight[:, :, None].masked_fill(has_class == 0, -torch.inf).softmax(1)
    scores = torch.zeros_like(mass)
    for k, table in enumerate(tables):
        known_mass = torch.einsum("buhw,u->bhw", mass, has_class[k])[:, None]
        scores += share[:, k, :, None, None] * known_mass * in_union(logits[k], table, size)
    return scores.clamp_min(torch.finfo(scores.dtype).tiny).log()


def in_union(logits: Tensor, table: Tensor, size: int) -> Tensor:
    """q_k: logits (B,C_k,h,w) and the union's class (C_k,) of each → (B,U,h,w) float32; classes that are one add up."""
    probability = logits.float().softmax(1)
    shape = (len(logits), size, *logits.shape[2:])
    return torch.zeros(shape, device=logits.device).index_add_(1, table, probability)


class Fused(UniversalSegmenter):
    """A trained network with two more predictions, `decode(features, FUSED)` and `decode(features, AUTO)`. Both are
    over the union of the classes of all domains that have prototypes. It shares the network's modules."""

    def __init__(self, model: UniversalSegmenter, prototypes: Prototypes, synonyms: Iterable[Iterable[str]] = ()):
        """Raises ValueError for a domain with the name FUSED or AUTO, and for a union of too many classes."""
        nn.Module.__init__(self)  # the base class's __init__ would build a network
        if taken := {FUSED, AUTO} & set(model.spaces):
            raise ValueError(f"a domain is called {', '.join(taken)}, which means all heads together; rename it")
        self.fused = tuple(prototypes.vectors)
        self.union = LabelUnion.build({n: model.spaces[n] for n in self.fused}, synonyms)
        self.settings, self.spaces = model.settings, {**model.spaces, FUSED: self.union.space, AUTO: self.union.space}
        if any(model.inputs[n] != model.inputs[self.fused[0]] for n in self.fused):
            raise ValueError(
                f"the domains {', '.join(self.fused)} differ in `channels`, `depth` or `stretch`, so that an image is "
                "read as one of them alone; name it by `domain` (--domain)"
            )
        self.sizes = model.sizes
        first = model.inputs[self.fused[0]]
        self.inputs = {**model.inputs, FUSED: first, AUTO: first}
        both = dict.fromkeys((FUSED, AUTO), model.stems.of[self.fused[0]])
        self.stems = Stems(model.stems.kinds, {**model.stems.of, **both})
        self.channels, self.stride = model.channels, model.stride
        self.embedding_stride, self.multiple = model.embedding_stride, model.multiple
        self.features, self.heads, self.embedding = model.features, model.heads, model.embedding
        buffers = {
            "mean": model.mean,
            "std": model.std,
            "vectors": torch.cat(list(prototypes.vectors.values())),
            "origin": prototypes.origin,
            "usual": prototypes.usual,
            "typical": prototypes.typical,
            "spread": prototypes.spread,
            **{f"table_{k}": torch.tensor(self.union.tables[n]) for k, n in enumerate(self.fused)},
        }
        for name, value in buffers.items():
            self.register_buffer(name, value.to(model.mean.device), persistent=False)
        self.vectors: Tensor
        self.origin: Tensor
        self.usual: Tensor
        self.typical: Tensor
        self.spread: Tensor
        self.train(model.training)

    @property
    def tables(self) -> list[Tensor]:
        return [self.get_buffer(f"table_{k}") for k in range(len(self.fused))]

    def similarity(self, features: Tensor) -> Tensor:
        """Features (B,C,h,w) → (B,G,h,w), for the classes of the domains in `fused`, in that order."""
        return similarity(features, self.vectors, self.origin)

    def excess(self, likeness: Tensor) -> Tensor:
        """e, the number of standard deviations by which an image is farther from each domain than the domain's labelled
        images. likeness (B,G,h,w) → (B,K), in the order of `fused`. The least value fits best."""
        return self.excess_of(shares(likeness))

    def excess_of(self, shares_of_image: Tensor) -> Tensor:
        """As `excess`, of the shares (B,G) themselves."""
        return (distance(shares_of_image, self.usual) - self.typical) / self.spread

    def decode(self, features: Tensor, domain: str) -> Tensor:
        """The network's logits; for FUSED and AUTO log scores (B,U,h,w)."""
        if domain not in (FUSED, AUTO):
            return super().decode(features, domain)
        likeness = self.similarity(features)
        excess = self.excess(likeness)
        logits = [super(Fused, self).decode(features, n) for n in self.fused]
        if domain == FUSED:
            return fuse(logits, likeness, self.tables, -excess)
        each = [
            in_union(head_logits, t, self.union.space.num_classes)
            for head_logits, t in zip(logits, self.tables, strict=True)
        ]
        chosen = torch.stack(each, 1)[torch.arange(len(excess)), excess.argmin(1)]
        return chosen.clamp_min(torch.finfo(chosen.dtype).tiny).log()
