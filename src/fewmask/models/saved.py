"""The trained network of a run: its description `model.json` and its weights `model.safetensors`."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from fewmask.models.ensemble import networks
from fewmask.models.universal import UniversalSegmenter
from fewmask.paths import AnyPath
from fewmask.runs import RunFolder


def load_model(folder: AnyPath, device: torch.device | str = "cpu") -> UniversalSegmenter:
    """The trained network of a run, in eval mode. Raises ValueError when the folder holds no network, a damaged one, or
    weights that differ from those that the run wrote."""
    run = RunFolder(Path(folder))
    network = run.read_network()
    model = networks(network.model, network.spaces, network.members, inputs=network.inputs)
    try:
        model.load_state_dict(load_weights(run.weights, network.weights))
    except RuntimeError as error:
        raise ValueError(f"{run.weights}: not the weights of {run.model} ({error}); train the run again") from None
    model.sizes = {name: network.sizes.get(name) for name in network.spaces}
    return model.to(device).eval()


def fingerprint(folder: Path) -> bytes:
    """SHA-256 of a run's trained network. Raises ValueError when the folder holds none."""
    run = RunFolder(folder)
    run.read_network()
    return hashlib.sha256(run.model.read_bytes() + run.weights.read_bytes()).digest()


def load_weights(path: Path, digest: str | None = None) -> dict[str, Tensor]:
    """The weights in a file. Raises ValueError if their SHA-256 differs from `digest`, and for a damaged file."""
    try:
        data = path.read_bytes()
        if digest is not None and hashlib.sha256(data).hexdigest() != digest:
            raise ValueError(
                f"{path}: differs from what the run wrote; put it back from a copy of the run, or train it again"
            )
        return load(data)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path}: not readable as safetensors ({error}); train the run again") from None
