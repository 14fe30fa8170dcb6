"""The measurements of run.py, each in rounds of A B A B …, so that a noisy machine disturbs both sides alike.

Shapes: B images · H×W pixels of a crop · h×w cells of the embedding · C classes · D embedding size · P prototypes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from reading import decoded, fewmask_batches, pairs_of, peers, rate
from steps import step_of
from torch import Tensor

from fewmask import config as configuration
from fewmask.acquisition.budget import Budget
from fewmask.acquisition.selection import Candidates, select
from fewmask.config import AskSettings, PoolSettings
from fewmask.data.batches import read_batches
from fewmask.data.domain import Domain
from fewmask.data.pseudo import PseudoFolder
from fewmask.engine.committee import Committee, Member
from fewmask.engine.device import autocast, choose_device, memory_mib
from fewmask.engine.evaluation import count_predictions
from fewmask.engine.fit import ProgressEvent, train
from fewmask.engine.pool import Pieces, ScoringRequest, score_pool
from fewmask.engine.run import hardware, load_domains, versions
from fewmask.labels import VOID, LabelSpace, distinct_colour
from fewmask.losses.alignment import alignment, cosine_similarity
from fewmask.losses.cross_entropy import cross_entropy
from fewmask.losses.regional_contrast import regional_contrast
from fewmask.methods import SETTINGS
from fewmask.models.universal import UniversalSegmenter


@dataclass(frozen=True)
class Sizes:
    image: tuple[int, int] = (360, 480)
    images: int = 160
    crop: tuple[int, int] = (240, 320)
    classes: int = 11
    batch: int = 8
    workers: int = 2
    step_rounds: int = 5
    steps: int = 5
    unmeasured: int = 5
    """Steps of each round before those that are measured: more than the loader has prefetched during the pause."""
    entropy_domains: int = 3
    entropy_rounds: int = 4
    evaluate_rounds: int = 3
    evaluate_batch: int = 4
    score_rounds: int = 5
    score_images: int = 64
    score_scales: tuple[float, ...] = (1.0,)
    score_regions: str = "squares:30"
    loader_rounds: int = 5
    loader_steps: int = 24
    photograph: tuple[int, int] = (966, 1296)
    photographs: int = 32
    memory_steps: int = 4
    contrast_rounds: int = 5
    contrast_batch: int = 4
    contrast_crop: tuple[int, int] = (256, 256)
    contrast_classes: int = 19
    contrast_dim: int = 256
    contrast_queries: int = 256
    contrast_negatives: int = 512
    select_rounds: int = 7
    select_images: int = 3000
    select_regions: int = 256
    select_classes: int = 19


TINY = Sizes(
    image=(48, 64), images=4, crop=(32, 48), classes=3, batch=2, workers=1, step_rounds=1, steps=1, unmeasured=1,
    entropy_domains=2, entropy_rounds=1, evaluate_rounds=1, evaluate_batch=2, score_rounds=1, score_images=4,
    loader_rounds=1, loader_steps=4, photograph=(192, 256), photographs=4,
    memory_steps=2, contrast_rounds=1, contrast_batch=2, contrast_crop=(32, 48), contrast_classes=3,
    contrast_dim=8, contrast_queries=8, contrast_negatives=4, select_rounds=2, select_images=20, select_regions=16,
    select_classes=3,
)  # fmt: skip


def compare(rounds: int, ours: Callable[[], float], theirs: Callable[[], float]) -> tuple[list[float], list[float]]:
    pairs = [(ours(), theirs()) for _ in range(rounds)]
    return [a for a, _ in pairs], [b for _, b in pairs]


def summary(values: Sequence[float], **more: Any) -> dict[str, Any]:
    """Median and quartiles of a ratio's values in the rounds."""
    low, high = np.quantile(values, [0.25, 0.75])
    return {"median": statistics.median(values), "quartiles": [float(low), float(high)], "rounds": len(values), **more}


def timed(run: Callable[[], object], times: int, unmeasured: int = 1) -> float:
    """Seconds of one call, as the mean of `times` calls after some that are not measured."""
    for _ in range(unmeasured):
        run()
    began = _now()
    for _ in range(times):
        run()
    return (_now() - began) / times


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


# ── Data and networks ────────────────────────────────────────────────────────────────────────────────────────────────


def write_dataset(root: Path, sizes: Sizes) -> None:
    """JPEG images of smooth shapes with fine texture and PNG masks, in the layout `folder`."""
    for name in ("images", "labels", "splits"):
        (root / name).mkdir(parents=True)
    size = sizes.image[::-1]
    for i in range(sizes.images):
        rng = np.random.default_rng(i)
        smooth = sum(cv2.resize(rng.normal(0, 30, (n, n, 3)), size, interpolation=cv2.INTER_CUBIC) for n in (4, 16, 64))
        image = np.clip(smooth + rng.normal(128, 6, (*sizes.image, 3)), 0, 255).astype(np.uint8)
        cv2.imwrite(str(root / f"images/{i}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 92])
        field = cv2.resize(rng.normal(size=(12, 16, sizes.classes + 1)), size, interpolation=cv2.INTER_CUBIC)
        label = field.argmax(-1).astype(np.uint8)
        cv2.imwrite(str(root / f"labels/{i}.png"), np.where(label == sizes.classes, VOID, label))
    classes = "".join(f"  {c}: c{c}\n" for c in range(sizes.classes))
    (root / "classes.yaml").write_text(f"classes:\n{classes}")
    (root / "splits/train.txt").write_text("".join(f"{i}\n" for i in range(sizes.images)))


def settings(root: Path, sizes: Sizes, steps: int) -> configuration.Config:
    data = {
        "name": "bench",
        "domains": {"bench": {"layout": "folder", "root": str(root)}},
        "model": {"encoder": "tu-mobilenetv2_100", "encoder_options": {"pad_type": "same"}, "output_stride": 16},
        "method": "joint",
        "train": {
            "steps": steps, "batch_size": sizes.batch, "crop": sizes.crop, "workers": sizes.workers,
            "checkpoint_every": steps, "evaluate_every": 0,
        },
    }  # fmt: skip
    return configuration.parse(data, methods=SETTINGS)


def network(config: configuration.Config, domain: Domain) -> UniversalSegmenter:
    model = UniversalSegmenter(config.model, {domain.name: domain.space})
    return model.to(choose_device()).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def bare_step(config: configuration.Config, domain: Domain) -> Callable[[], None]:
    """Forward to logits of the images' size, and backward from a given gradient, on one batch in memory."""
    model = network(config, domain).train()
    device, size = model.mean.device, config.train.crop
    rng = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (config.train.batch_size, *size, 3), dtype=torch.uint8, generator=rng)
    image = image.permute(0, 3, 1, 2).to(device)
    with torch.no_grad(), autocast(device, "auto"):
        gradient = torch.full_like(model(image, domain.name), 1e-6)

    def step() -> None:
        model.zero_grad()
        with autocast(device, "auto"):
            logits = model(image, domain.name)
        logits.backward(gradient)

    return step


# ── The measurements ─────────────────────────────────────────────────────────────────────────────────────────────────


def training_step(root: Path, sizes: Sizes) -> dict[str, Any]:
    """Seconds of a step of `train`, over those of the bare model, which runs in pauses of the same run."""
    cycle = sizes.unmeasured + sizes.steps
    config = settings(root, sizes, sizes.step_rounds * cycle + 1)  # the last step, with its checkpoint, is not measured
    bare = bare_step(config, load_domains(config)["bench"])
    ours: list[float] = []
    theirs: list[float] = []
    began = 0.0

    def observe(event: ProgressEvent) -> None:
        nonlocal began
        if event.step % cycle == 0:
            ours.append((_now() - began) / sizes.steps)
            theirs.append(timed(bare, sizes.steps))
        if event.step % cycle == sizes.unmeasured:
            began = _now()

    train(config, root.parent / "run", observe)
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return summary(ratios, step_seconds=statistics.median(ours), model_seconds=statistics.median(theirs))


def entropy_terms(root: Path, sizes: Sizes) -> dict[str, Any]:
    """Seconds of the entropy terms and their gradient, from F's features on: at the embedding's stride, over the same
    with the embedding computed at the features' stride and upsampled to the image's size."""
    config = settings(root, sizes, 1)
    domain = load_domains(config)["bench"]
    model = network(config, domain)
    device = model.mean.device
    with torch.no_grad(), autocast(device, "auto"):
        features = model.encode(torch.zeros(sizes.batch, 3, *sizes.crop, device=device))
    classes = [sizes.classes] * sizes.entropy_domains
    rng = torch.Generator().manual_seed(0)
    prototypes = torch.randn(sum(classes), 3, config.model.embedding.dim, generator=rng).to(device)
    boundary = torch.zeros(len(classes), device=device)
    project = model.embedding[-1]

    def terms(embed: Callable[[Tensor], Tensor]) -> None:
        leaf = features.detach().requires_grad_()
        with autocast(device, "auto"):
            embedding = embed(leaf)
            logits = cosine_similarity(embedding, prototypes) / 0.1
            everywhere = torch.ones_like(logits[:, 0], dtype=torch.bool)
            found = alignment({0: logits}, {0: everywhere}, classes, unknown=boundary)
        (found.cross + found.within).backward()

    def upsampled(leaf: Tensor) -> Tensor:
        return F.interpolate(project(leaf), size=sizes.crop, mode="bilinear", align_corners=False)

    at_stride, full = compare(
        sizes.entropy_rounds,
        lambda: timed(lambda: terms(model.embed), 4),
        lambda: timed(lambda: terms(upsampled), 1, 0),
    )
    ratios = [a / b for a, b in zip(at_stride, full, strict=True)]
    return summary(ratios, stride_seconds=statistics.median(at_stride), full_seconds=statistics.median(full))


def contrast(sizes: Sizes) -> dict[str, Any]:
    """Seconds of regional contrast and its gradient, from the representation on, with every class present and every
    pixel hard, over those of a supervised step on as many images of DeepLabV3+ with ResNet-18."""
    names = tuple(f"c{c}" for c in range(sizes.contrast_classes))
    colours = tuple(distinct_colour(c) for c in range(len(names)))
    space = LabelSpace(names, colours, {c: c for c in range(len(names))})
    model = UniversalSegmenter(configuration.ModelSettings(encoder="resnet18"), {"bench": space}).train()
    device, (height, width) = choose_device(), sizes.contrast_crop
    model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    batch, cells = sizes.contrast_batch, (height // 4, width // 4)
    rng = torch.Generator(device).manual_seed(0)
    drawn: dict[str, Any] = {"generator": rng, "device": device}
    image = torch.randint(0, 256, (batch, height, width, 3), dtype=torch.uint8, **drawn).permute(0, 3, 1, 2)
    label, coarse = (torch.randint(0, len(names), (batch, *size), **drawn) for size in (sizes.contrast_crop, cells))
    confidence = torch.zeros(batch, *cells, device=device)
    features = torch.randn(batch, *cells, 304, **drawn).permute(0, 3, 1, 2)
    with torch.no_grad(), autocast(device, "auto"):  # for the precision and memory format that the head's output has
        representation = F.conv2d(features, torch.randn(sizes.contrast_dim, 304, 1, 1, **drawn)).requires_grad_()

    def step() -> None:
        optimiser.zero_grad()
        with autocast(device, "auto"):
            logits = model(image, "bench")
        cross_entropy(logits, label).backward()
        optimiser.step()

    def loss() -> None:
        representation.grad = None
        regional_contrast(
            representation, coarse, confidence, rng, classes=len(names), queries=sizes.contrast_queries,
            negatives=sizes.contrast_negatives,
        ).backward()  # fmt: skip

    ours, theirs = compare(sizes.contrast_rounds, lambda: timed(loss, 4), lambda: timed(step, 4))
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    more = {"contrast_seconds": statistics.median(ours), "step_seconds": statistics.median(theirs)}
    return summary(ratios, precision=str(representation.dtype).removeprefix("torch."), **more)


def generations(root: Path, sizes: Sizes) -> dict[str, Any]:
    """Seconds of a step of S4AL, with its teacher in every mini-batch, over those of S4AL+'s student, whose teacher
    predicted before. Both have as many rows from the loader, and answered regions, as from the second round on."""
    config = settings(root, sizes, 10)
    labelled = max(sizes.batch // 4, 2)
    train_settings = config.train.model_copy(update={"batch_size": labelled, "unlabelled_batch_size": 2 * labelled})
    config = config.model_copy(update={"train": train_settings})
    domain = load_domains(config)["bench"]
    stems = domain.splits["train"]
    domain = replace(domain, labelled=stems[: len(stems) // 2])
    asked = len(stems) // 4
    domains = {domain.name: domain}
    s4al, student = (step_of(name, config, domains, network(config, domain), asked) for name in ("s4al", "s4al-plus"))
    ours, theirs = compare(sizes.contrast_rounds, lambda: timed(s4al, 2), lambda: timed(student, 2))
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return summary(ratios, s4al_seconds=statistics.median(ours), student_seconds=statistics.median(theirs))


def selection(sizes: Sizes) -> dict[str, Any]:
    """Seconds from the pool's candidates to the questions: class balance, a budget of 5 % of the pool's pixels."""
    N = sizes.select_images * sizes.select_regions
    rng = np.random.default_rng(0)
    pool = Candidates(
        image=np.repeat(np.arange(sizes.select_images, dtype=np.int32), sizes.select_regions),
        region=np.tile(np.arange(sizes.select_regions, dtype=np.int32), sizes.select_images),
        score=rng.random(N, dtype=np.float32),
        cost=rng.integers(300, 900, N).astype(np.float64),
        group=rng.integers(0, sizes.select_classes, N).astype(np.int16),
    )
    budget = Budget(0.05 * pool.cost.sum(), "pixels")
    asked = len(select(pool, budget, "class", rng=rng))
    times = [timed(lambda: select(pool, budget, "class", rng=rng), 1, 0) for _ in range(sizes.select_rounds)]
    return summary(times, candidates=N, asked=asked)


def evaluation(root: Path, sizes: Sizes) -> dict[str, Any]:
    """Images a second of `count`, from files to the confusion matrix, over those of forward and argmax."""
    config = settings(root, sizes, 1)
    domain = load_domains(config)["bench"]
    model = network(config, domain).eval()
    device, size = model.mean.device, sizes.evaluate_batch
    image = torch.from_numpy(np.stack([domain.image(stem) for stem in domain.splits["train"][:size]]))
    image = image.permute(0, 3, 1, 2).to(device)

    @torch.inference_mode()
    def bare() -> None:
        for _ in range(sizes.images // size):
            with autocast(device, "auto"):
                model(image, domain.name).argmax(1)

    def whole() -> None:
        count_predictions(model, domain, "train", batch_size=size, workers=sizes.workers)

    bare()
    ours, theirs = compare(sizes.evaluate_rounds, lambda: timed(whole, 1, 0), lambda: timed(bare, 1, 0))
    ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
    per_second = {
        "evaluate": sizes.images / statistics.median(ours),
        "inference": sizes.images / statistics.median(theirs),
    }
    return summary(ratios, images_per_second=per_second)


def scoring(root: Path, sizes: Sizes) -> dict[str, Any]:
    """Seconds of a campaign's pass over the pool (entropy of squares, candidates and pseudo-labels on the disk), over
    those of forward and argmax on the same images from the same loader."""
    config = settings(root, sizes, 1)
    domain = load_domains(config)["bench"]
    domain = replace(domain, splits={"train": domain.splits["train"][: sizes.score_images]}, labelled=())
    model = network(config, domain).eval()
    pool = PoolSettings(scales=sizes.score_scales)
    asked = ScoringRequest(AskSettings.model_validate({"budget": {"amount": 1}, "regions": sizes.score_regions}), 1)
    folder = root.parent / "pool"

    @torch.inference_mode()
    def bare() -> None:
        pieces = Pieces(domain, sizes.evaluate_batch, asked, folder)
        for piece in read_batches(pieces, range(len(pieces)), sizes.workers, ahead=1):
            for batch in piece:
                image = torch.stack([seen.image for seen in batch]).permute(0, 3, 1, 2).to(model.mean.device)
                with autocast(model.mean.device, "auto"):
                    model(image, domain.name).argmax(1)

    def whole() -> None:
        with tempfile.TemporaryDirectory(dir=root.parent) as own:
            score_pool(
                Committee([Member(model)], pool), domain, Path(own) / "scores", cache=folder, request=asked,
                pseudo=PseudoFolder(Path(own) / "pseudo"), batch_size=sizes.evaluate_batch, workers=sizes.workers,
            )  # fmt: skip

    bare()
    ours, theirs = compare(sizes.score_rounds, lambda: timed(whole, 1, 0), lambda: timed(bare, 1, 0))
    images = len(domain.splits["train"])
    per_second = {"score_pool": images / statistics.median(ours), "inference": images / statistics.median(theirs)}
    return summary([a / b for a, b in zip(ours, theirs, strict=True)], images_per_second=per_second)


def loading(root: Path, sizes: Sizes) -> dict[str, Any]:
    """Images a second of one worker process (reading, decoding, the weak view, the batch) over those that OpenCV
    decodes, and the rates of the peers."""
    config, pairs, batch = settings(root, sizes, sizes.loader_steps), pairs_of(root), sizes.batch

    def ours() -> float:
        return rate(fewmask_batches(config, sizes.loader_steps), batch)

    rates, bare = compare(sizes.loader_rounds, ours, lambda: decoded(pairs))
    per_second = {"loader": statistics.median(rates), "decoding": statistics.median(bare)}
    per_second |= peers(root, config, sizes.loader_steps)
    return summary([a / b for a, b in zip(rates, bare, strict=True)], images_per_second=per_second)


def loading_photographs(root: Path, sizes: Sizes, cache: str) -> dict[str, Any]:
    """As `loading`, of photographs that are read at a quarter of their height and width. With the cache it begins when
    each of them is in memory."""
    config, pairs, batch = settings(root, sizes, sizes.loader_steps), pairs_of(root), sizes.batch
    domain = config.domains["bench"].model_copy(update={"size": 0.25})
    train_settings = config.train.model_copy(update={"cache": cache})
    config = config.model_copy(update={"domains": {"bench": domain}, "train": train_settings})
    first = -(-len(pairs) // batch) if cache == "memory" else 0

    def ours() -> float:
        return rate(fewmask_batches(config, first + sizes.loader_steps), batch, first)

    rates, bare = compare(sizes.loader_rounds, ours, lambda: decoded(pairs))
    per_second = {"loader": statistics.median(rates), "decoding": statistics.median(bare)}
    return summary([a / b for a, b in zip(rates, bare, strict=True)], images_per_second=per_second)


def step_memory(root: Path, sizes: Sizes, baseline: float) -> float:
    """MiB of a training step, without the loader's worker processes."""
    found = []
    config = settings(root, sizes, sizes.memory_steps + 1)  # not with the checkpoint of the last step
    train(config, root.parent / "memory", lambda event: found.append(event.memory_mib))
    return found[-2] - baseline


def model_memory(root: Path, sizes: Sizes, baseline: float) -> float:
    config = settings(root, sizes, 1)
    step = bare_step(config, load_domains(config)["bench"])
    for _ in range(sizes.memory_steps):
        step()
    return memory_mib(choose_device()) - baseline


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("part", choices=("speed", "step_memory", "model_memory"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    sizes, root, device = TINY if args.tiny else Sizes(), args.folder / "data", choose_device()
    if args.part != "speed":
        measure = step_memory if args.part == "step_memory" else model_memory
        print(json.dumps({"mib": measure(root, sizes, memory_mib(device))}))
        return
    write_dataset(root, sizes)
    photographs = args.folder / "photographs"
    write_dataset(photographs, replace(sizes, image=sizes.photograph, images=sizes.photographs))
    measured = {
        "step_over_model": training_step(root, sizes),
        "entropy_stride_over_full": entropy_terms(root, sizes),
        "contrast_over_step": contrast(sizes),
        "s4al_step_over_s4al_plus": generations(root, sizes),
        "select_seconds": selection(sizes),
        "evaluate_over_inference": evaluation(root, sizes),
        "score_over_inference": scoring(root, sizes),
        "loader_over_decoding": loading(root, sizes),
        "loader_reduced_over_decoding": loading_photographs(photographs, sizes, "none"),
        "loader_cached_over_decoding": loading_photographs(photographs, sizes, "memory"),
    }
    more = {"settings": asdict(sizes), "machine": hardware(device), "versions": versions()}
    print(json.dumps({"measured": measured, **more}))


if __name__ == "__main__":
    main()
