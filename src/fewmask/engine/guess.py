"""A run's network as the predictor for the labelling page and for other tools.

Shapes: H×W pixels of an image · C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from threading import Lock

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fewmask.annotation.page.features import Features
from fewmask.annotation.page.guesses import FOLDER, Guessed, Guesses, Predictor
from fewmask.annotation.page.learning import Head
from fewmask.config import Config, Precision
from fewmask.data.domain import Domain
from fewmask.engine.device import autocast
from fewmask.engine.evaluation import as_array
from fewmask.engine.run import load_config, load_model
from fewmask.labels import Mask
from fewmask.models.universal import UniversalSegmenter
from fewmask.runs import RunFolder

STRIDES = 4, 16
"""Of an encoder's stages that smart select looks at: finer ones see colour alone, coarser ones whole objects."""


def predictor(folder: Path, device: torch.device | str = "cpu", precision: Precision = "auto") -> Predictor | None:
    """The trained network of a run as a predictor; None where nothing was trained yet."""
    run = RunFolder(folder)
    if not run.weights.exists():
        return None
    model, version = load_model(folder, device), run.read_description().weights[:16]
    remembered = _Remembered(model, precision)

    @torch.inference_mode()
    def predict(domain: str, image: np.ndarray) -> tuple[Mask, np.ndarray]:
        """The most likely class (H,W) uint8 of an image (H,W,3) uint8, and its probability (H,W) fp32."""
        features = remembered(image)
        with autocast(model.mean.device, precision):
            logits = model.logits(features, domain, (image.shape[0], image.shape[1]))
        probability, label = logits[0].float().softmax(0).max(0)
        return as_array(label), probability.cpu().numpy()

    def encode(image: np.ndarray) -> Features:
        return _features(remembered(image), model.stride, image)

    @torch.inference_mode()
    def head(domain: str) -> Head:
        # A head is linear: what it makes of nothing is its bias, and of one channel alone that channel's weights.
        made = model.head(domain)
        eye = torch.eye(model.channels, device=model.mean.device)[:, :, None, None]
        bias = made(torch.zeros_like(eye[:1]))[0, :, 0, 0].float()
        weight = made(eye)[:, :, 0, 0].float() - bias
        return Head(weight.cpu().numpy(), bias.cpu().numpy())

    return Predictor(version, predict, encode, head)


def untrained_encoder(config: Config, device: torch.device | str = "cpu") -> Callable[[np.ndarray], Features] | None:
    """What the pretrained encoder of a configuration makes of images: for a run that has not trained yet. None where it
    begins with random weights. Raises ValueError where the weights cannot be had."""
    if config.model.weights is None:
        return None
    model = UniversalSegmenter(config.model, {}).to(device).eval()

    @torch.inference_mode()
    def encode(image: np.ndarray) -> Features:
        normal = (_batch(image, model).float() - model.mean) / model.std
        height, width = normal.shape[-2:]
        normal = F.pad(normal, (0, -width % model.multiple, 0, -height % model.multiple))
        with autocast(model.mean.device, config.train.precision):
            stages = [stage.float() for stage in model.encoder(normal)]
        strides = [normal.shape[-1] // stage.shape[-1] for stage in stages]
        wanted = [n for n, stride in enumerate(strides) if STRIDES[0] <= stride <= STRIDES[1]] or [len(stages) - 1]
        size = stages[wanted[0]].shape[-2:]
        # Stages count alike, whatever their numbers of channels and their units are.
        parts = [F.interpolate(_standard(stages[n]), size=size, mode="bilinear") for n in wanted]
        return _features(torch.cat(parts, 1), strides[wanted[0]], image)

    return encode


class _Remembered:
    """What a network makes of images; of the last two it is remembered, since guesses and the page's tools want it of
    the same ones, in threads of their own."""

    def __init__(self, model: UniversalSegmenter, precision: Precision) -> None:
        self._model, self._precision = model, precision
        self._lock = Lock()
        self._last: list[tuple[np.ndarray, Tensor]] = []

    @torch.inference_mode()
    def __call__(self, image: np.ndarray) -> Tensor:
        with self._lock:
            for known, features in self._last:
                if known is image:
                    return features
            with autocast(self._model.mean.device, self._precision):
                made = self._model.encode(_batch(image, self._model))
            self._last = [*self._last[-1:], (image, made)]
            return made


def _standard(stage: Tensor) -> Tensor:
    """Features (1,C,h,w) of mean 0 in each channel, and of length 1 in each cell on the mean."""
    spread, mean = torch.std_mean(stage, (2, 3), keepdim=True)
    return (stage - mean) / (spread + 1e-5) / stage.shape[1] ** 0.5


def _batch(image: np.ndarray, model: UniversalSegmenter) -> Tensor:
    """An image (H,W,3) uint8 as (1,3,H,W) where the model is."""
    return torch.from_numpy(image)[None].to(model.mean.device).permute(0, 3, 1, 2)


def _features(features: Tensor, stride: int, image: np.ndarray) -> Features:
    """Of features (1,C,h,w) the cells that lie in the image (H,W,3), not in its padding."""
    height, width = (-(-side // stride) for side in image.shape[:2])
    return Features.of(features[0, :, :height, :width].float().permute(1, 2, 0).cpu().numpy(), stride)


def guessed(folder: Path, domains: Mapping[str, Domain], device: torch.device | str = "cpu") -> dict[str, Domain]:
    """The domains with what a run's network expects in their images as pseudo-labels, computed when they are read and
    kept where the labelling page keeps them; the domains as they are where nothing was trained yet."""
    found = predictor(folder, device, load_config(folder).train.precision)
    if found is None:
        return dict(domains)
    guesses = Guesses(folder / FOLDER, found)
    return {name: replace(domain, pseudo=Guessed(guesses, domain)) for name, domain in domains.items()}
