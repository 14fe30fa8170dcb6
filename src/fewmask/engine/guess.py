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
from fewmask.annotation.page.head import Head, expected
from fewmask.config import Config, Precision
from fewmask.data.domain import Domain
from fewmask.engine.device import autocast
from fewmask.engine.run import load_config, load_model
from fewmask.formats.bands import as_rgb
from fewmask.labels import Mask
from fewmask.models.universal import UniversalSegmenter
from fewmask.runs import RunFolder

STRIDES = 4, 16
"""The strides of an encoder's stages that smart select uses. Finer stages hold colour alone, coarser ones whole
objects."""


def predictor(folder: Path, device: torch.device | str = "cpu", precision: Precision = "auto") -> Predictor | None:
    """The trained network of a run as a predictor; None where nothing was trained yet."""
    run = RunFolder(folder)
    if not run.weights.exists():
        return None
    model, version = load_model(folder, device), run.read_description().weights[:16]
    remembered = _FeatureCache(model, precision)

    def predict(domain: str, image: np.ndarray) -> tuple[Mask, np.ndarray]:
        """The most likely class (H,W) uint8 of an image (H,W,C) uint8, and its probability (H,W) fp32."""
        found = expected(head(domain), encode(domain, image), (0, 0, image.shape[0], image.shape[1]), image)
        return found.label, found.probability

    def encode(domain: str, image: np.ndarray) -> Features:
        return _features(remembered(image, domain), model.stride, image)

    @torch.inference_mode()
    def head(domain: str) -> Head:
        # A head is linear: its output for zeros is its bias, and for a single channel the bias plus that channel's
        # weights.
        biases = model.head(domain)
        eye = torch.eye(model.channels, device=model.mean.device)[:, :, None, None]
        bias = biases(torch.zeros_like(eye[:1]))[0, :, 0, 0].float()
        weight = biases(eye)[:, :, 0, 0].float() - bias
        return Head(weight.cpu().numpy(), bias.cpu().numpy())

    return Predictor(version, predict, encode, head)


def untrained_encoder(
    config: Config, device: torch.device | str = "cpu"
) -> Callable[[str, np.ndarray], Features] | None:
    """A function that computes features with the pretrained encoder of a configuration, for a run that has not trained
    yet. None if the configuration has random weights. Raises ValueError where the weights cannot be loaded."""
    if config.model.weights is None:
        return None
    model = UniversalSegmenter(config.model, {}).to(device).eval()

    @torch.inference_mode()
    def encode(_: str, image: np.ndarray) -> Features:
        normal = (_batch(as_rgb(image), model).float() - model.mean) / model.std
        height, width = normal.shape[-2:]
        normal = F.pad(normal, (0, -width % model.multiple, 0, -height % model.multiple))
        with autocast(model.mean.device, config.train.precision):
            stages = [stage.float() for stage in model.encoder(normal)]
        strides = [normal.shape[-1] // stage.shape[-1] for stage in stages]
        wanted = [n for n, stride in enumerate(strides) if STRIDES[0] <= stride <= STRIDES[1]] or [len(stages) - 1]
        size = stages[wanted[0]].shape[-2:]
        # Standardised stages count equally, for any number of channels and any scale.
        parts = [F.interpolate(_standard(stages[n]), size=size, mode="bilinear") for n in wanted]
        return _features(torch.cat(parts, 1), strides[wanted[0]], image)

    return encode


class _FeatureCache:
    """A network's features of images, with a cache of the last two. Guesses and the page's tools ask for the same
    images from different threads."""

    def __init__(self, model: UniversalSegmenter, precision: Precision) -> None:
        self._model, self._precision = model, precision
        self._lock = Lock()
        self._last: list[tuple[np.ndarray, Tensor]] = []

    @torch.inference_mode()
    def __call__(self, image: np.ndarray, domain: str) -> Tensor:
        with self._lock:
            for last_image, features in self._last:
                if last_image is image:
                    return features
            with autocast(self._model.mean.device, self._precision):
                features = self._model.encode(_batch(image, self._model), domain)
            self._last = [*self._last[-1:], (image, features)]
            return features


def _standard(stage: Tensor) -> Tensor:
    """Features (1,C,h,w) standardised to mean 0 in each channel, with a mean length of 1 in a cell."""
    spread, mean = torch.std_mean(stage, (2, 3), keepdim=True)
    return (stage - mean) / (spread + 1e-5) / stage.shape[1] ** 0.5


def _batch(image: np.ndarray, model: UniversalSegmenter) -> Tensor:
    """An image (H,W,C) uint8 as (1,C,H,W) on the model's device."""
    return torch.tensor(image)[None].to(model.mean.device).permute(0, 3, 1, 2)


def _features(features: Tensor, stride: int, image: np.ndarray) -> Features:
    """The cells of features (1,C,h,w) that lie in the image (H,W,C), without those of its padding."""
    height, width = (-(-side // stride) for side in image.shape[:2])
    return Features.of(features[0, :, :height, :width].float().permute(1, 2, 0).cpu().numpy(), stride)


def with_guesses(folder: Path, domains: Mapping[str, Domain], device: torch.device | str = "cpu") -> dict[str, Domain]:
    """The domains with the predictions of a run's network as pseudo-labels. They are computed when they are read, and
    kept in the labelling page's cache. If nothing was trained yet, the domains are returned unchanged."""
    network_predictor = predictor(folder, device, load_config(folder).train.precision)
    if network_predictor is None:
        return dict(domains)
    guesses = Guesses(folder / FOLDER, network_predictor)
    return {name: replace(domain, pseudo=Guessed(guesses, domain)) for name, domain in domains.items()}
