"""Tiny in-memory domains, models and batches for tests.

Shapes: H×W pixels · C classes.
"""

from __future__ import annotations

import copy
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from ondisk import ENCODER, NARROW
from torch import Tensor

from fewmask.config import AugmentSettings, EmbeddingSettings, ModelSettings, OptimiserSettings, TrainSettings
from fewmask.data.batch import Batch, Phase, count_pixels, mean_counts
from fewmask.data.batches import Steps
from fewmask.data.domain import Domain
from fewmask.engine.optimiser import Optimisers
from fewmask.engine.run import save_model
from fewmask.labels import NOT_LABELLED, VOID, LabelSpace, distinct_colour
from fewmask.methods.common.base import Method
from fewmask.models.universal import UniversalSegmenter, at_stride
from fewmask.runs import RunFolder


@dataclass
class ArraySource:
    """Images and masks in memory; `requested` lists the images that were read."""

    images: Mapping[str, np.ndarray]
    masks: Mapping[str, np.ndarray]
    requested: list[str] = field(default_factory=list)

    def image(self, stem: str) -> np.ndarray:
        self.requested.append(stem)
        return self.images[stem]

    def mask(self, stem: str) -> np.ndarray:
        if stem not in self.masks:
            raise ValueError(f"{stem}.png: it has no mask")
        return self.masks[stem]

    def has_mask(self, stem: str) -> bool:
        return stem in self.masks

    def where(self, stem: str) -> str:
        return f"images/{stem}.png"


def space(classes: int, prefix: str = "c") -> LabelSpace:
    return LabelSpace(
        names=tuple(f"{prefix}{i}" for i in range(classes)),
        colours=tuple(distinct_colour(i) for i in range(classes)),
        raw_ids={i: i for i in range(classes)},
    )


def domain(
    name: str,
    classes: int = 3,
    images: int = 6,
    labelled: int = 2,
    size: tuple[int, int] = (40, 52),
    seed: int = 0,
) -> Domain:
    """Random blocks of classes, each class with its own colour, a stripe of void; masks of labelled images only."""
    rng = np.random.default_rng([seed, classes, len(name), *name.encode()])
    stems = tuple(f"{name}-{i}" for i in range(images))
    pictures, masks = {}, {}
    for position, stem in enumerate(stems):
        blocks = rng.integers(0, classes, (-(-size[0] // 8), -(-size[1] // 8)))
        blocks.flat[:classes] = np.arange(classes)
        mask = np.kron(blocks, np.ones((8, 8), int))[: size[0], : size[1]].astype(np.uint8)
        colours = np.array([distinct_colour(i) for i in range(classes)])
        noise = rng.integers(-20, 20, (*size, 3))
        pictures[stem] = np.clip(colours[mask] + noise, 0, 255).astype(np.uint8)
        mask[-3:] = VOID
        if position < labelled:
            masks[stem] = mask
    return Domain(name, space(classes, name), ArraySource(pictures, masks), {"train": stems}, stems[:labelled])


def domains(*classes: int, **options: int) -> dict[str, Domain]:
    """K domains with so many classes each, by the names a, b, c, …"""
    return {n: domain(n, c, **options) for n, c in zip("abcdefgh", classes, strict=False)}


def model_settings(dim: int = 16, **changes: object) -> ModelSettings:
    options = {} if "decoder" in changes else {**NARROW}
    made = ModelSettings(encoder=ENCODER, decoder_options=options, embedding=EmbeddingSettings(dim=dim))
    return made.model_copy(update=changes)


def model(of: Mapping[str, Domain], seed: int = 0, dim: int = 16) -> UniversalSegmenter:
    """A network of its own: the copy of one that was built once, since timm takes longer to build it."""
    spaces = {n: d.space for n, d in of.items()}
    key = repr((spaces, seed, dim))
    if key not in _BUILT:
        _BUILT[key] = UniversalSegmenter(model_settings(dim), spaces, seed)
    return copy.deepcopy(_BUILT[key])


_BUILT: dict[str, UniversalSegmenter] = {}


def saved(network: UniversalSegmenter, folder: Path | None = None) -> Path:
    """The folder of a run that ended with this network; one of its own by default."""
    folder = folder or Path(tempfile.mkdtemp(dir=_SAVED.name))
    save_model(RunFolder(folder), network)
    return folder


_SAVED = tempfile.TemporaryDirectory()


def needs(name: str, of: Mapping[str, Domain]) -> dict[str, object]:
    """What a method cannot be without on these domains."""
    if name == "distill":
        return {"teachers": [saved(model(of, seed=7))]}
    if name == "cycada":
        return to_last(of)
    return {"domain": next(iter(of))} if name == "supervised" else {}


def to_last(of: Mapping[str, Domain]) -> dict[str, object]:
    """For adaptation: the last domain is the target, and class i of a source is its class i; the last class of the
    first one is none."""
    *sources, target = of.values()
    classes: dict[str, dict[str, str | None]] = {}
    for source in sources:
        to = dict(zip(source.space.names, target.space.names, strict=False))
        classes[source.name] = {name: to.get(name) for name in source.space.names}
    classes[sources[0].name][sources[0].space.names[-1]] = None
    return {"target": target.name, "classes": classes}


def train_settings(**changes: object) -> TrainSettings:
    plain = {"batch_size": 4, "crop": (32, 32), "augment": AugmentSettings(scale=(0.8, 1.25))}
    return TrainSettings.model_validate({**plain, **changes})


def steps(
    of: Mapping[str, Domain],
    phases: Sequence[Phase],
    settings: TrainSettings | None = None,
    network: UniversalSegmenter | None = None,
    seed: int = 0,
    **options: int,
) -> Steps:
    strides = {1} if network is None else {1, network.stride, network.embedding_stride}
    multiple = 16 if network is None else network.multiple
    return Steps(of, settings or train_settings(), phases, sorted(strides), multiple, seed, **options)


def batch(
    rows: Sequence[tuple[int, Tensor]],
    image: Tensor,
    network: UniversalSegmenter,
    domains: int,
    step: int = 0,
    of: int = 1,
    pool: int | None = None,
    phase: str = "train",
) -> Batch:
    """A batch by hand: rows of (domain, label (h,w)) and their images (B,3,h,w); those from `pool` on are the pool's,
    by default as many as have not a single known pixel."""
    label = torch.stack([v for _, v in rows])
    owner = torch.tensor([k for k, _ in rows])
    strides = sorted({1, network.stride, network.embedding_stride})
    first = sum(bool((v != NOT_LABELLED).any()) for _, v in rows) if pool is None else pool
    return Batch(
        image=image,
        label=label,
        domain=owner,
        has_label=(label < NOT_LABELLED).flatten(1).any(1),
        has_unlabelled=(label == NOT_LABELLED).flatten(1).any(1),
        names=tuple(f"row {i}" for i in range(len(rows))),
        pool=first,
        counts={s: count_pixels(at_stride(label, s, network.multiple), owner, domains, first) for s in strides},
        step=step,
        steps=of,
        phase=phase,
    )


def in_parts(made: Method, network: UniversalSegmenter, whole: Batch, parts: int) -> dict[str, float]:
    """The terms of a batch of as many labelled rows as of the pool, taken in micro-batches that deal out its rows."""
    labelled, cut = whole.pool, []
    for part in range(parts):
        rows = [*range(part, labelled, parts), *range(labelled + part, 2 * labelled, parts)]
        owned = list(zip(whole.domain[rows].tolist(), whole.label[rows], strict=True))
        pool = labelled // parts
        images, k = whole.image[rows], len(network.domains)
        cut.append(batch(owned, images, network, k, whole.step, whole.steps, pool, whole.phase))
    counts, terms = mean_counts(cut), defaultdict[str, float](float)
    for one in cut:
        for name, term in made.step(network, replace(one, counts=counts), torch.Generator().manual_seed(0)).items():
            terms[name] += term.item() / parts
    return dict(terms)


def run(
    method: Method,
    network: UniversalSegmenter,
    of: Mapping[str, Domain],
    count: int,
    settings: TrainSettings | None = None,
    rate: float = 1e-3,
    seed: int = 0,
) -> list[dict[str, float]]:
    """The training loop at its barest, one micro-batch a step: the method's terms of every step."""
    rng = torch.Generator().manual_seed(seed)
    network.train()
    method.prepare(network, rng)
    phases = [p for p in method.phases(count) if p.stop > p.start]
    data = steps(of, phases, settings, network, seed)
    optimisers = Optimisers(OptimiserSettings(lr=rate, head_lr=rate), network, method)
    history = []
    for step in range(count):
        phase = next(p for p in phases if p.start <= step < p.stop)
        if step == phase.start:
            method.begin(phase, network, rng)
        (part,) = data[step]
        torch.manual_seed(step)  # dropout knows no generator but the global one
        terms = method.step(network, part, rng)
        optimisers.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        optimisers.step()
        method.after_step(network, rng)
        history.append({name: term.item() for name, term in terms.items()})
    return history


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def relabelled(part: Batch, label: Tensor, network: UniversalSegmenter) -> Batch:
    """The batch with other labels and all that follows from them."""
    rows = list(zip(part.domain.tolist(), label, strict=True))
    made = batch(rows, part.image, network, len(network.domains), part.step, part.steps, part.pool, part.phase)
    return replace(made, names=part.names, strong=part.strong)
