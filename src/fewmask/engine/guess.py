"""A run's network as the one who guesses, on the labelling page and for other tools.

Shapes: H×W pixels of an image · C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from fewmask.annotation.page.guesses import FOLDER, Guessed, Guesses, Predictor
from fewmask.config import Precision
from fewmask.data.domain import Domain
from fewmask.engine.device import autocast
from fewmask.engine.evaluation import as_array
from fewmask.engine.run import load_config, load_model
from fewmask.labels import Mask
from fewmask.runs import RunFolder


def predictor(folder: Path, device: torch.device | str = "cpu", precision: Precision = "auto") -> Predictor | None:
    """The trained network of a run as a predictor; None where nothing was trained yet."""
    run = RunFolder(folder)
    if not run.weights.exists():
        return None
    model, version = load_model(folder, device), run.read_description().weights[:16]

    @torch.inference_mode()
    def predict(domain: str, image: np.ndarray) -> tuple[Mask, np.ndarray]:
        """The most likely class (H,W) uint8 of an image (H,W,3) uint8, and its probability (H,W) fp32."""
        with autocast(model.mean.device, precision):
            logits = model(torch.from_numpy(image)[None].to(model.mean.device).permute(0, 3, 1, 2), domain)
        probability, label = logits[0].float().softmax(0).max(0)
        return as_array(label), probability.cpu().numpy()

    return Predictor(version, predict)


def guessed(folder: Path, domains: Mapping[str, Domain], device: torch.device | str = "cpu") -> dict[str, Domain]:
    """The domains with what a run's network expects in their images as pseudo-labels, computed when they are read and
    kept where the labelling page keeps them; the domains as they are where nothing was trained yet."""
    found = predictor(folder, device, load_config(folder).train.precision)
    if found is None:
        return dict(domains)
    guesses = Guesses(folder / FOLDER, found)
    return {name: replace(domain, pseudo=Guessed(guesses, domain)) for name, domain in domains.items()}
