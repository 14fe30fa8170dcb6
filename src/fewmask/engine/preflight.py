"""Checks a training before its first step: its network and method can be built, the network takes the crops, and batch
normalisation has enough values.

A campaign checks this before it asks people, and `fewmask check` checks it with the data. An error that would otherwise
come after a round of answers is reported at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch

from fewmask import distributed
from fewmask.config import Config, Frozen, TrainSettings
from fewmask.data.batch import Phase
from fewmask.data.domain import Domain
from fewmask.engine.automatic import resolve_auto
from fewmask.engine.device import choose_device
from fewmask.engine.features import check_features
from fewmask.engine.log import board_writer
from fewmask.engine.optimiser import Optimisers
from fewmask.engine.run import build_network
from fewmask.methods import build
from fewmask.methods.common.base import Method
from fewmask.models.batch_norm import single_value_batch_norms
from fewmask.models.memory import is_out_of_memory, memory_for
from fewmask.models.universal import UniversalSegmenter
from fewmask.randomness import torch_generator

Result = TypeVar("Result")


def check_configs(configs: Sequence[Config], domains: Mapping[str, Domain]) -> tuple[UniversalSegmenter, Method]:
    """The network and the method of trainings that differ in `train` alone, on their device.

    Raises one ValueError that lists the errors in their settings, each as a line `key: the error; the fix`.
    """
    problems: list[str] = []
    configs = [resolve_auto(config, domains)[0] for config in configs]

    def attempt(action: Callable[[], Result]) -> Result | None:
        try:
            return action()
        except ValueError as error:
            problems.extend(line for line in str(error).splitlines() if line not in problems)
            return None

    config = configs[0]
    device = attempt(lambda: choose_device(config.train.device)) or torch.device("cpu")
    for train in (variant.train for variant in configs):
        attempt(lambda train=train: train.check_division(distributed.world()))  # type: ignore[misc]
        if train.tensorboard:
            attempt(board_writer)
    model = attempt(lambda: build_network(config.model, domains, config.seed))
    method = attempt(lambda: build(config.method, domains, config.train.steps))
    if model is not None and method is not None:
        model.to(device), method.to(device)
        attempt(lambda: method.prepare(model, torch_generator(config.seed, "method", device=str(device))))
        for variant in configs if not problems else ():
            attempt(lambda variant=variant: Optimisers(variant.train.optimiser, model, method))  # type: ignore[misc]
            phases = [p for p in method.phases(variant.train.steps) if p.stop > p.start]
            attempt(lambda variant=variant, phases=phases: check_training(variant.train, phases, model, method))  # type: ignore[misc]
            attempt(lambda variant=variant: check_crop(variant.train, model))  # type: ignore[misc]
    if problems:
        raise ValueError("\n".join(problems))
    assert model is not None
    assert method is not None
    return model, method


def check_training(train: TrainSettings, phases: Sequence[Phase], model: UniversalSegmenter, method: Method) -> None:
    """Raises ValueError where a training could not begin: see `check_rows` and `check_features`."""
    check_rows(train, phases, model, method)
    if isinstance(model.settings.tuning, Frozen) and model.settings.tuning.cached:
        check_features(train, model, method)


def check_rows(train: TrainSettings, phases: Sequence[Phase], model: UniversalSegmenter, method: Method) -> None:
    """Raises ValueError where torch would refuse the first step: batch normalisation of a single value."""
    labelled, unlabelled = train.batch_size, train.unlabelled_batch_size or train.batch_size
    pool = [unlabelled // train.accumulate if p.unlabelled else 0 for p in phases]
    rows = min(rows for u in pool for rows in method.forward_batch_sizes(labelled // train.accumulate, u))
    image = torch.zeros(1, model.stems.planes, *train.crop, device=model.mean.device)
    if rows == 1 and (names := single_value_batch_norms(model, lambda: model.encode(image))):
        key = "batch_size" if labelled == train.accumulate else "unlabelled_batch_size"
        raise ValueError(
            f"train.{key}: with one image of {train.crop[0]}×{train.crop[1]} a micro-batch, batch normalisation "
            f"sees a single value per channel ({', '.join(names)}); take at least two images"
        )


def check_crop(train: TrainSettings, model: UniversalSegmenter) -> None:
    """Raises ValueError where the network does not take images of the crops' size."""
    height, width = train.crop
    check_size((height, width), model, "train.crop", "take another crop, or an encoder that works at any size")


def size_of_step(train: TrainSettings, step: int) -> tuple[str, str]:
    """The step and its size for an out-of-memory error, and the fix."""
    rows, (height, width) = train.batch_size // (train.accumulate * distributed.world()), train.crop
    return f"in step {step}, with micro-batches of {rows} images of {height}×{width}", "lower one of them"


@torch.no_grad()
def check_size(size: tuple[int, int], model: UniversalSegmenter, key: str, fix: str) -> None:
    """Raises ValueError, `key: … fix`, where the network does not take one image of this size, and RuntimeError where
    the memory is not enough for it."""
    height, width = size
    was_training = model.training
    model.eval()
    try:
        with memory_for(f"on one image of {height}×{width} ({key})", "take a smaller one, or a machine with more"):
            image = torch.zeros(1, model.stems.planes, height, width, dtype=torch.uint8, device=model.mean.device)
            model.upsample(model.decode(model.encode(image), model.domains[0]), size)
    except (AssertionError, RuntimeError, ValueError, IndexError) as error:
        if is_out_of_memory(error):
            raise
        raise ValueError(
            f"{key}: {model.settings.encoder} with {model.settings.decoder} does not take images of {height}×{width} "
            f"({' '.join(str(error).split())[:200]}); {fix}"
        ) from None
    finally:
        model.train(was_training)
