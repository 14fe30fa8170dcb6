"""The trained network of a run: `model.json`, what it is, and `model.safetensors`, its weights."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from fewmask.config import ModelSettings
from fewmask.labels import LabelSpace
from fewmask.models.ensemble import networks
from fewmask.models.universal import UniversalSegmenter

DESCRIPTION = "model.json"
WEIGHTS = "model.safetensors"


def load_model(folder: Path, device: torch.device | str = "cpu") -> UniversalSegmenter:
    """The trained network of a run, in eval mode. Raises ValueError when the folder holds none or a damaged one."""
    description, weights = _files(folder)
    try:
        data = json.loads(description.read_text(encoding="utf-8"))
        spaces = {name: LabelSpace.from_dict(space) for name, space in data["domains"].items()}
        settings, members = ModelSettings.model_validate(data["model"]), int(data.get("members", 1))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{description}: damaged ({' '.join(str(error).split())}); train the run again") from None
    model = networks(settings, spaces, members)
    try:
        model.load_state_dict(load_weights(weights))
    except RuntimeError as error:
        raise ValueError(f"{weights}: not the weights of {description} ({error}); train the run again") from None
    return model.to(device).eval()


def fingerprint(folder: Path) -> bytes:
    """SHA-256 of a run's trained network. Raises ValueError when the folder holds none."""
    return hashlib.sha256(b"".join(file.read_bytes() for file in _files(folder))).digest()


def load_weights(path: Path) -> dict[str, Tensor]:
    try:
        return load(path.read_bytes())
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path}: not readable as safetensors ({error}); train the run again") from None


def _files(folder: Path) -> tuple[Path, Path]:
    files = folder / DESCRIPTION, folder / WEIGHTS
    if not all(file.exists() for file in files):
        raise ValueError(f"{folder}: no trained model in it; let `fewmask train` finish first")
    return files
