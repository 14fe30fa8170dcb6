"""The state and the weights of a run, in files that survive a kill and that cannot execute code when loaded."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from fewmask.files import Written, write_atomically, write_bytes
from fewmask.models.lora import merge_lora
from fewmask.models.saved import load_weights as load_weights
from fewmask.runs.reading import FORMAT, check_format


def save_state(path: Path, state: Mapping[str, Any], written: Written | None = None) -> None:
    """Save tensors and plain data for `load_state`."""
    write_atomically(path, lambda file: torch.save({"format": FORMAT, **state}, file), written)


def load_state(path: Path) -> dict[str, Any]:
    """Load the tensors and plain data of a state file. No code in it is executed or imported."""
    fix = "remove the run's folder and start again"
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch does not compare the check values
        state = None if damaged else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises several types for a damaged file, some with dangerous advice
        state = error
    if isinstance(state, dict):
        check_format(state.pop("format", None), path, fix)
        return state
    reason = state.strerror if isinstance(state, OSError) else "damaged, or not written by fewmask"
    raise ValueError(f"{path}: not a readable state ({reason}); {fix}")


def save_weights(path: Path, weights: Mapping[str, Tensor], written: Written | None = None) -> str:
    """Save the weights of a network, and return the file's SHA-256. LoRA's differences are merged into the weights."""
    # Copies, because safetensors refuses tensors that share their memory, as tied weights do.
    plain = {n: t.detach().cpu().clone(memory_format=torch.contiguous_format) for n, t in merge_lora(weights).items()}
    data = save(plain)
    write_bytes(path, data, written)
    return hashlib.sha256(data).hexdigest()
