"""Measure the effect of the entropy module on a toy of Gaussian classes.

    python experiments/toy_entropy.py [--out results/toy-entropy] [--seeds 3]

The script answers three questions of docs/decisions/0003-entropy-module.md, each with one file of results:

collapse   Does a falling entropy mean right classes? E alone is trained, on fixed features with correct prototypes.
scale      Can the loss fall by a larger embedding alone, without a change of the assignment?
private    What happens to classes that the other domain lacks? `fewmask.methods.univ` trains F, heads and E on two
           domains with shared and private classes, few labelled cells and many unlabelled ones.

It takes about ten minutes on one core of a busy machine. The losses are those of `fewmask.losses`. Only unbalanced
transport, which fewmask does not have, is implemented here.

Shapes: N cells · V values of a raw cell · F features · D embedding size · C_k classes of domain k.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from statistics import mean, stdev
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewmask.data.batch import Batch, count_pixels
from fewmask.data.domain import Domain
from fewmask.labels import NOT_LABELLED, LabelSpace, distinct_colour
from fewmask.losses.alignment import Alignment, alignment, cosine_similarity, dot_similarity
from fewmask.losses.entropy import entropy
from fewmask.losses.prototypes import pca_prototypes
from fewmask.methods.common.prototypes import Cells as SeenByE
from fewmask.methods.common.prototypes import LivePrototypes
from fewmask.methods.univ import UnivFull, UnivFullSettings

# ── collapse, scale: E on fixed features ─────────────────────────────────────────────────────────────────────────────

CLASSES, FEATURES, EMBEDDING = 19, 64, 32


def clusters(seed: int, cells: int = 760) -> tuple[Tensor, Tensor, Tensor]:
    """Features (N,F) of 19 well separated classes, their classes (N,), and the correct prototypes (19,1,D)."""
    rng = torch.Generator().manual_seed(seed)
    centres = torch.randn(CLASSES, FEATURES, generator=rng)
    label = torch.arange(cells) % CLASSES
    features = centres[label] + 0.4 * torch.randn(cells, FEATURES, generator=rng)
    return features, label, pca_prototypes(features, label, CLASSES, EMBEDDING)[0]


def collapse(seed: int, start: str, anchored: bool, steps: int = 300) -> dict[str, float]:
    """Train E (1×1) by the entropy of the dot product, or of the cosine with an anchor on a tenth of the cells."""
    features, label, prototypes = clusters(seed)
    torch.manual_seed(seed)
    embed = nn.Conv2d(FEATURES, EMBEDDING, 1)
    if start == "pca":
        _, components, centre = pca_prototypes(features, label, CLASSES, EMBEDDING)
        embed.weight.data, embed.bias.data = components[:, :, None, None].contiguous(), -(components @ centre)  # type: ignore[union-attr]
    grid = features.T.reshape(1, FEATURES, -1, 1)
    known = torch.arange(len(label)) < len(label) // 10
    mask = {0: ~known.view(1, -1, 1)}
    optimiser = torch.optim.Adam(embed.parameters(), lr=1e-2)

    def look() -> tuple[Tensor, float, float]:
        like = cosine_similarity if anchored else dot_similarity
        similarity = like(embed(grid), prototypes) / (0.1 if anchored else 1)
        hit = (cosine_similarity(embed(grid), prototypes).argmax(1).flatten() == label).float().mean()
        return similarity, entropy(similarity).mean().item(), hit.item()

    _, entropy_before, accuracy_before = look()
    for _ in range(steps):
        similarity, *_ = look()
        loss = alignment({0: similarity}, mask, [CLASSES]).within
        if anchored:
            anchor = F.cross_entropy(similarity[0, :, known, 0].T, label[known])
            loss = 0.1 * loss + 0.5 * anchor
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    _, entropy_after, accuracy_after = look()
    return {
        "entropy_before": entropy_before,
        "entropy_after": entropy_after,
        "accuracy_before": accuracy_before,
        "accuracy_after": accuracy_after,
    }


def scale(seed: int) -> dict[str, float]:
    """The loss when only the length of the embedding changes."""
    features, _, prototypes = clusters(seed)
    torch.manual_seed(seed)
    embedding = nn.Conv2d(FEATURES, EMBEDDING, 1)(features.T.reshape(1, FEATURES, -1, 1)).detach()
    found = {}
    for by in (0.1, 1.0, 5.0, 20.0):
        found[f"dot ×{by:g}"] = entropy(dot_similarity(by * embedding, prototypes)).mean().item()
        found[f"cosine ×{by:g}"] = entropy(cosine_similarity(by * embedding, prototypes) / 0.1).mean().item()
    return found


# ── private: fewmask's method on two domains of cells ────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class World:
    """Two domains. Class centres are drawn from N(0, 1) in V values. A domain's class lies at its centre plus an
    offset of the domain and an offset of its own. Cells scatter around it."""

    shared: int = 5
    private: int = 5
    values: int = 16
    offset: float = 0.5
    class_offset: float = 0.5
    noise: float = 1.0
    side: int = 16
    labelled_images: int = 1
    labelled_per_class: int = 5
    unlabelled_images: int = 8
    test_per_class: int = 200


class Cells:
    """Cells of one domain as images (side,side,V) and masks; `labelled_per_class` cells of each class are labelled."""

    def __init__(self, world: World, k: int, seed: int) -> None:
        rng = np.random.default_rng([seed, 0])
        every = rng.normal(size=(world.shared + 2 * world.private, world.values))
        rng = np.random.default_rng([seed, 1, k])
        own = [*range(world.shared), *range(world.shared + k * world.private, world.shared + (k + 1) * world.private)]
        shift = world.offset * rng.normal(size=world.values)
        self.centres = every[own] + shift + world.class_offset * rng.normal(size=(len(own), world.values))
        self.world, self.classes = world, len(own)
        stems = [f"l{i}" for i in range(world.labelled_images)] + [f"u{i}" for i in range(world.unlabelled_images)]
        drawn = {s: self.draw(rng.integers(0, self.classes, (world.side, world.side)), rng) for s in stems}
        self.images = {s: cells for s, (cells, _) in drawn.items()}
        self.masks = {s: self._few(drawn[s][1], rng) for s in stems if s.startswith("l")}
        self.test = self.draw(np.repeat(np.arange(self.classes), world.test_per_class)[:, None], rng)

    def draw(self, label: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        cells = self.centres[label] + self.world.noise * rng.normal(size=(*label.shape, self.world.values))
        return cells.astype(np.float32), label.astype(np.uint8)

    def _few(self, label: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        mask = np.full_like(label, NOT_LABELLED)
        for c in range(self.classes):
            place = rng.permutation(np.flatnonzero(label == c))[: self.world.labelled_per_class]
            mask.flat[place] = c
        return mask

    def image(self, stem: str) -> np.ndarray:
        return self.images[stem]

    def mask(self, stem: str) -> np.ndarray:
        return self.masks[stem]

    def has_mask(self, stem: str) -> bool:
        return stem in self.masks

    def where(self, stem: str) -> str:
        return stem


def domain(name: str, cells: Cells) -> Domain:
    names = tuple(f"c{i}" for i in range(cells.classes))
    colours = tuple(distinct_colour(i) for i in range(cells.classes))
    space = LabelSpace(names, colours, {i: i for i in range(cells.classes)})
    return Domain(name, space, cells, {"train": tuple(cells.images)}, tuple(cells.masks))


class CellNetwork(nn.Module):
    """The interface of `UniversalSegmenter` on cells: F is a 1×1 network of two layers, every stride is 1."""

    stride = embedding_stride = multiple = 1

    def __init__(self, of: dict[str, Domain], values: int, features: int = 48, dim: int = 16) -> None:
        super().__init__()
        self.domains = tuple(of)
        self.settings = SimpleNamespace(embedding=SimpleNamespace(dim=dim))
        self.register_buffer("mean", torch.zeros(1))
        self.channels = features
        self.layers = nn.Sequential(
            nn.Conv2d(values, features, 1), nn.ReLU(), nn.Conv2d(features, features, 1), nn.ReLU()
        )
        self.heads = nn.ModuleList(nn.Conv2d(features, d.space.num_classes, 1) for d in of.values())
        self.embedding = nn.Sequential(nn.AvgPool2d(1), nn.Conv2d(features, dim, 1))

    def encode(self, image: Tensor) -> Tensor:
        return self.layers(image)

    def decode(self, features: Tensor, name: str) -> Tensor:
        return self.heads[self.domains.index(name)](features)

    def embed(self, features: Tensor) -> Tensor:
        return self.embedding(features)

    def logits(self, features: Tensor, name: str, size: tuple[int, int]) -> Tensor:
        return self.decode(features, name)


class Transport(LivePrototypes):
    """Unbalanced optimal transport as the treatment of private classes. Cells of domain i are transported to the
    prototypes of domain j. A cell too far from all of them keeps its mass. The plan is the target of σ(v_ij)."""

    reach = 0.1

    def align(self, cells: SeenByE) -> Alignment:
        cross = []
        for i, embedding, unlabelled in cells.unlabelled():
            similarity = cosine_similarity(embedding, self.vectors)
            for j, v in enumerate(similarity.split(self.classes, dim=1)):
                if j != i:
                    v = v.permute(0, 2, 3, 1).flatten(0, 2)[unlabelled.flatten()]
                    plan = unbalanced_plan(v.detach(), self.reach)
                    cross.append(-(plan * (v / self.temperature).log_softmax(1)).sum(1).mean())
        return super().align(cells)._replace(cross=torch.stack(cross).sum())


def unbalanced_plan(similarity: Tensor, reach: float, epsilon: float = 0.05, iterations: int = 20) -> Tensor:
    """Entropic transport (N,C) between N cells and C classes of equal mass, both marginals relaxed by a KL penalty of
    weight `reach`; rows are fractions of a cell's mass, at most 1 (Chizat et al. 2018, algorithm 1)."""
    n, c = similarity.shape
    kernel = ((similarity - 1) / epsilon).double().exp()
    u, v, power = torch.ones(n).double(), torch.ones(c).double(), reach / (reach + epsilon)
    for _ in range(iterations):
        u = (1 / n / (kernel @ v)) ** power
        v = (1 / c / (kernel.T @ u)) ** power
    plan = n * u[:, None] * kernel * v
    return (plan / plan.sum(1, keepdim=True).clamp_min(1)).float()


ANCHOR: dict[str, Any] = {"anchor": 0.5, "anchor_trains": "encoder"}  # the defaults when the records were made
CASES: dict[str, dict[str, Any]] = {
    "joint": {"alpha": 0, "beta": 0},
    "anchor alone": {"alpha": 0, "beta": 1e-12},
    "faithful": {"mode": "faithful"},
    "faithful, E from PCA": {"mode": "faithful", "initial_embedding": "pca"},
    "anchored, none": {"private": "none"},
    "anchored, unknown": {"private": "unknown"},
    "anchored, gate": {"private": "gate"},
    "anchored, transport .1": {"private": "none", "reach": 0.1},
    "anchored, transport .3": {"private": "none", "reach": 0.3},
}


def train(world: World, case: dict[str, Any], seed: int, steps: int) -> tuple[UnivFull, CellNetwork, list[Cells]]:
    """Train F, heads and E. Every step has all labelled images and two unlabelled ones of each domain."""
    torch.manual_seed(seed)
    cells = [Cells(world, k, seed) for k in range(2)]
    of = {n: domain(n, c) for n, c in zip("ab", cells, strict=True)}
    options = {k: v for k, v in case.items() if k != "reach"}
    method = UnivFull(UnivFullSettings(**options), of)
    if "reach" in case:
        settings = method.settings
        method.prototypes = Transport(
            of, settings.prototypes, settings.temperature, settings.momentum, settings.drawn, settings.private
        )
        method.prototypes.reach = case["reach"]
    network: Any = CellNetwork(of, world.values)
    rng = torch.Generator().manual_seed(seed)
    method.prepare(network, rng)
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.01)
    order = np.random.default_rng([seed, 2])
    for phase in method.phases(steps):
        method.begin(phase, network, rng)
        for step in range(phase.start, phase.stop):
            rows = [(k, s) for k, c in enumerate(cells) for s in c.masks]
            if phase.unlabelled:
                rows += [(k, f"u{i}") for k in range(2) for i in order.integers(0, world.unlabelled_images, 2)]
            terms = method.step(network, make_batch(rows, cells, step, steps, phase.name), rng)
            optimiser.zero_grad()
            torch.stack(list(terms.values())).sum().backward()
            optimiser.step()
            method.after_step(network, rng)
    return method, network, cells


def make_batch(rows: list[tuple[int, str]], cells: list[Cells], step: int, steps: int, phase: str) -> Batch:
    side = cells[0].world.side
    blank = np.full((side, side), NOT_LABELLED, np.uint8)
    label = torch.from_numpy(np.stack([cells[k].masks.get(s, blank) for k, s in rows]))
    owner = torch.tensor([k for k, _ in rows])
    first = sum(stem in cells[k].masks for k, stem in rows)
    return Batch(
        image=torch.from_numpy(np.stack([cells[k].images[s] for k, s in rows])).permute(0, 3, 1, 2),
        label=label,
        domain=owner,
        has_label=(label < NOT_LABELLED).flatten(1).any(1),
        has_unlabelled=(label == NOT_LABELLED).flatten(1).any(1),
        names=tuple(s for _, s in rows),
        pool=first,
        counts={1: count_pixels(label, owner, 2, first)},
        step=step,
        steps=steps,
        phase=phase,
    )


@torch.no_grad()
def measure(world: World, method: UnivFull, network: CellNetwork, cells: list[Cells]) -> dict[str, float]:
    """Measures on new cells, as means over both domains.

    Of the heads: the accuracy on shared and on private classes. Of the embedding, for private cells: the probability of
    their most probable class of the other domain, the fraction of cells where it is above .9, and their similarity to
    it. For shared cells: the fraction whose most probable class of the other domain is the right one.
    """
    found: dict[str, list[float]] = {}

    def note(name: str, value: Tensor) -> None:
        found.setdefault(name, []).append(value.float().mean().item())

    for i, own in enumerate(cells):
        j = 1 - i
        image, label = torch.from_numpy(own.test[0]).permute(2, 0, 1)[None], torch.from_numpy(own.test[1]).flatten()
        features = network.encode(image)
        shared = label < world.shared
        right = network.decode(features, network.domains[i]).argmax(1).flatten() == label
        note("head_accuracy_shared", right[shared])
        note("head_accuracy_private", right[~shared])
        if method.weights == (0, 0):
            continue
        first, count = method.first[j], method.classes[j]
        similarity = cosine_similarity(network.embed(features), method.prototypes.vectors)
        other = similarity[:, first : first + count]
        hit = other.argmax(1).flatten() == label
        note("cross_accuracy_shared", hit[shared])
        raw = (
            similarity
            if isinstance(method.prototypes, LivePrototypes)
            else dot_similarity(network.embed(features), method.prototypes.vectors)
        )
        logits = raw[:, first : first + count] / (
            method.settings.temperature if isinstance(method.prototypes, LivePrototypes) else 1
        )
        classes_alone = logits.softmax(1).amax(1).flatten()
        if isinstance(method.prototypes, LivePrototypes) and method.settings.private == "unknown":
            column = (method.prototypes.boundary[j] / method.settings.temperature).expand_as(logits[:, :1])
            with_unknown = torch.cat([logits, column], 1).softmax(1)[:, :-1].amax(1).flatten()
            note("private_wrong_probability_beside_unknown", with_unknown[~shared])
            note("private_wrong_surely_beside_unknown", with_unknown[~shared] > 0.9)
            note("shared_probability_beside_unknown", with_unknown[shared])
        note("private_wrong_probability", classes_alone[~shared])
        note("private_wrong_surely", classes_alone[~shared] > 0.9)
        note("private_similarity", other.amax(1).flatten()[~shared])
        note("shared_similarity", other.amax(1).flatten()[shared])
        within = similarity[:, method.first[i] : method.first[i] + method.classes[i]].argmax(1).flatten() == label
        note("embedding_accuracy_shared", within[shared])
        note("embedding_accuracy_private", within[~shared])
    return {name: mean(values) for name, values in found.items()}


# ── Results ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def summary(runs: Sequence[dict[str, float]]) -> dict[str, Any]:
    spread = {k: stdev(r[k] for r in runs) if len(runs) > 1 else 0.0 for k in runs[0]}
    return {
        "mean": {k: round(mean(r[k] for r in runs), 4) for k in runs[0]},
        "stdev": {k: round(v, 4) for k, v in spread.items()},
        "runs": [{k: round(v, 4) for k, v in r.items()} for r in runs],
    }


def write(folder: Path, name: str, settings: dict[str, Any], seeds: range, cases: dict[str, Any], began: float) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        "experiment": name,
        "settings": settings,
        "seeds": list(seeds),
        "seconds": round(time.monotonic() - began, 1),
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), **{p: version(p) for p in ("torch", "numpy", "fewmask")}},
        "cases": cases,
    }
    (folder / f"{name}.json").write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    for case, result in cases.items():
        print(f"{name}: {case}: " + ", ".join(f"{k} {v:.3f}" for k, v in result["mean"].items()), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/toy-entropy"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--only", choices=["collapse", "scale", "private"])
    args = parser.parse_args()
    seeds = range(args.seeds)
    torch.set_num_threads(1)  # the tensors are small
    if args.only in (None, "collapse"):
        began = time.monotonic()
        cases = {
            f"{'anchored' if anchored else 'faithful'}, E from {start}": summary(
                [collapse(s, start, anchored) for s in seeds]
            )
            for anchored in (False, True)
            for start in ("random", "pca")
        }
        settings = {"classes": CLASSES, "features": FEATURES, "embedding": EMBEDDING, "noise": 0.4, "steps": 300}
        write(args.out, "collapse", settings, seeds, cases, began)
    if args.only in (None, "scale"):
        began = time.monotonic()
        settings = {"classes": CLASSES, "features": FEATURES, "embedding": EMBEDDING, "temperature": 0.1}
        write(args.out, "scale", settings, seeds, {"entropy": summary([scale(s) for s in seeds])}, began)
    if args.only in (None, "private"):
        for shared, weight in ((5, 0.1), (5, 1.0), (2, 1.0)):
            world = replace(World(), shared=shared, private=10 - shared)
            began, cases = time.monotonic(), {}
            for name, case in CASES.items():
                options = {"alpha": weight, "beta": weight, **ANCHOR, **case}
                cases[name] = summary([measure(world, *train(world, options, s, args.steps)) for s in seeds])
            method = UnivFullSettings(alpha=weight, beta=weight, **ANCHOR).model_dump()
            settings = {"world": asdict(world), "method": method, "changed_by_case": CASES, "steps": args.steps}
            write(args.out, f"private-{shared}-of-10-shared-weight-{weight:g}", settings, seeds, cases, began)


if __name__ == "__main__":
    main()
