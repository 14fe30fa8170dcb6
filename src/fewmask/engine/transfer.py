"""Evaluation of a network trained on X on a domain Y with other classes.

There are two ways. A checked mapping translates X's classes to Y's. Or a head for Y's classes is trained on X's frozen
network, as in the tables of Kalluri et al. (ICCV 2019).

Shapes: B rows of a batch · C feature channels · C_y classes of Y · H×W pixels · h×w feature cells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fewmask.config import Precision, TrainSettings
from fewmask.config.scale import Scale, in_words
from fewmask.data.batch import Phase
from fewmask.data.batches import Steps, loader
from fewmask.data.domain import Domain, FileSource
from fewmask.engine.device import autocast
from fewmask.engine.evaluation import Progress, count_predictions
from fewmask.engine.fit import NonFiniteError
from fewmask.engine.metrics import mean, scores
from fewmask.engine.optimiser import build_optimiser, rate_factor, set_rate
from fewmask.labels import ClassMapping
from fewmask.losses.cross_entropy import cross_entropy
from fewmask.models.ensemble import Ensemble, networks
from fewmask.models.universal import UniversalSegmenter


def common_size(model: UniversalSegmenter, heads: Sequence[str]) -> Scale:
    """The common size at which these heads were trained. Raises ValueError where the sizes differ."""
    sizes = {head: model.sizes[head] for head in heads}
    if len(set(sizes.values())) > 1:
        each = ", ".join(f"{head} {in_words(size)}" for head, size in sizes.items())
        raise ValueError(
            f"the heads were trained at different sizes ({each}) and cannot predict one image together; choose one of "
            "them (--head, or --domain of `predict`)"
        )
    return next(iter(sizes.values()))


def as_trained(model: UniversalSegmenter, target: Domain, heads: Sequence[str]) -> Domain:
    """The target at the size at which these heads were trained, unless its settings state another size. Scenes keep the
    size of their settings. Raises ValueError where its images have other channels than those of the heads."""
    for head in heads:
        if (trained_on := model.inputs[head].channels) != target.input.channels:
            raise ValueError(
                f"domain {target.name}: its images have the channels {', '.join(target.input.channels)}, and the head "
                f"of {head} was trained on {', '.join(trained_on)}; score it on such images"
            )
    if target.size is not None or not isinstance(target.source, FileSource):
        return target
    return target.at(common_size(model, heads))


def through_mapping(
    model: UniversalSegmenter,
    source: str,
    target: Domain,
    names: Mapping[str, str | None] | None = None,
    split: str = "val",
    *,
    batch_size: int = 4,
    workers: int = 2,
    precision: Precision = "auto",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Score the head of `source` on another domain, with its classes mapped to the target's.

    `names` maps source classes to target classes, or to None where the target lacks them. Classes of equal name need no
    entry. A pixel predicted as a class without a counterpart counts as an error.

    Returns `{"domains": {target: scores}, "avg_miou": …}`. A target class to which no source class is mapped is
    *unreachable*: the source cannot predict it. Such classes are listed, have no IoU and do not enter `miou`.
    `miou_present` is the mean over all classes that occur, with 0 for the unreachable ones. The pixel accuracy counts
    their pixels as errors. Raises ValueError for a head that the model lacks, and for a mapping that leaves a class
    open or names one that does not exist.
    """
    if source not in model.spaces:
        raise ValueError(f"no domain {source!r} in the model; its heads are {', '.join(model.domains)}")
    target = as_trained(model, target, [source])
    mapping = ClassMapping.by_name(model.spaces[source], target.space, names)
    if not mapping.reachable:
        raise ValueError(
            f"class mapping: no class of {source} is mapped to {target.name}; map at least one, or train a head"
        )
    counts = count_predictions(
        model, target, split,
        head=source, mapping=mapping, batch_size=batch_size, workers=workers, precision=precision, progress=progress,
    )  # fmt: skip
    result = mapped_scores(counts.confusion, mapping) | {
        "head": source,
        "split": split,
        "images": len(target.splits[split]),
    }
    return {"way": "mapping", "domains": {target.name: result}, "avg_miou": result["miou"], "size": target.size}


def mapped_scores(confusion: Tensor, mapping: ClassMapping) -> dict[str, Any]:
    """Scores of a confusion matrix (C,C + 1) under a mapping, see `through_mapping`."""
    target = mapping.target.names
    result = scores(confusion, target, mapping.reachable)
    iou: dict[str, float | None] = result["iou"]
    unreachable = [n for i, n in enumerate(target) if i not in mapping.reachable]
    pairs = list(zip(mapping.source.names, mapping.table, strict=True))
    return result | {
        "miou_present": mean(list(iou.values())),
        "iou": {n: None if n in unreachable else value for n, value in iou.items()},
        "unreachable": unreachable,
        "without_counterpart": [n for n, t in pairs if t < 0],
        "classes": {n: target[t] for n, t in pairs if t >= 0},
    }


def with_new_head(
    model: UniversalSegmenter,
    target: Domain,
    *,
    steps: int,
    settings: TrainSettings | None = None,
    seed: int = 0,
    split: str = "val",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train a head G_y for the target's classes on the frozen F, with the target's labelled images, and score it.

        for each step:  L = CE(y, G_y(F(x)))  over the labelled pixels; only G_y is updated

    F runs in eval mode without a gradient. Neither its parameters nor the statistics of its batch normalisation change,
    and the model stays unchanged. Of `settings`, batch size, crop, augmentation, accumulation and the optimiser (the
    head at `head_lr`) are used. Every draw is a function of (seed, step, row).

    Returns `{"domains": {target: scores}, "avg_miou": …, "loss": [first, last]}`. Raises ValueError for a target
    without labelled images or without the split, and NonFiniteError when training breaks down.
    """
    target = as_trained(model, target, model.domains)
    images = len(target.stems(split))
    settings = settings or TrainSettings()
    # Loaders draw a seed for their processes from the global generator, which belongs to the caller.
    with torch.random.fork_rng(devices=[]):
        probe = _with_head(model, target, seed)
        losses = _train_head(probe, target, steps, settings, seed, progress)
        counts = count_predictions(
            probe, target, split, workers=settings.workers, precision=settings.precision, progress=progress
        )
    result = scores(counts.confusion, target.space.names) | {
        "split": split,
        "images": images,
        "labelled": len(target.labelled),
        "steps": steps,
        "seed": seed,
    }
    return {
        "way": "new head",
        "domains": {target.name: result},
        "avg_miou": result["miou"],
        "size": target.size,
        "loss": [losses[0].item(), losses[-1].item()],
    }


def _train_head(
    probe: UniversalSegmenter, target: Domain, steps: int, settings: TrainSettings, seed: int, progress: Progress | None
) -> list[Tensor]:
    """Train the only head of a frozen model, and return the loss () of every step."""
    device = probe.mean.device
    phases = [Phase("new head", 0, steps, (target.name,))]
    drawn = Steps({target.name: target}, settings, phases, (1,), probe.multiple, seed)
    optimiser = build_optimiser(settings.optimiser, [], list(probe.heads.parameters()))
    losses = []
    for step, batches in enumerate(loader(drawn, 0, settings.workers, pin_memory=device.type == "cuda")):
        set_rate(optimiser, rate_factor(settings.optimiser, step, phases))
        optimiser.zero_grad()
        pixels = torch.stack([b.counts[1].weighted[0] for b in batches]).mean()
        parts = []
        for batch in batches:
            moved = batch.to(device)
            with autocast(device, settings.precision):
                with torch.no_grad():
                    features = probe.encode(moved.image)
                logits = probe.logits(features, target.name, moved.size)
                weight, _ = moved.weighted(0, moved.rows()[0])
                loss = cross_entropy(logits, moved.label, pixels.to(device), weight=weight)
            (loss / len(batches)).backward()
            parts.append(loss.detach())
        losses.append(torch.stack(parts).mean())
        if not torch.isfinite(losses[-1]):
            raise NonFiniteError(f"new head, step {step}: the loss is {losses[-1]}; lower train.optimiser.head_lr")
        if settings.optimiser.clip_norm is not None:
            nn.utils.clip_grad_norm_(probe.heads.parameters(), settings.optimiser.clip_norm)
        optimiser.step()
        if progress:
            progress(step + 1, steps)
    return losses


def _with_head(model: UniversalSegmenter, target: Domain, seed: int) -> UniversalSegmenter:
    """A frozen model in eval mode with the model's F and a new trainable head for the target."""
    settings = model.settings.model_copy(update={"weights": None})  # the model's weights replace the pretrained ones
    members = model.members if isinstance(model, Ensemble) else 1
    probe = networks(settings, {target.name: target.space}, members, seed, {target.name: target.input})
    probe.features.load_state_dict(model.features.state_dict())
    probe.eval().requires_grad_(False)
    probe.heads.requires_grad_(True)
    return probe.to(model.mean.device)
