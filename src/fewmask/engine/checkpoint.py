"""The state and the weights of a run, as files that survive a kill and hold nothing that is executed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from fewmask.files import Written, write_atomically, write_bytes
from fewmask.models.lora import merged
from fewmask.models.saved import load_weights as load_weights


def save_state(path: Path, state: Mapping[str, Any], written: Written | None = None) -> None:
    """Save tensors and plain data for `load_state`."""
    write_atomically(path, lambda file: torch.save(dict(state), file), written)


def load_state(path: Path) -> dict[str, Any]:
    """Tensors and plain data of a state file; nothing else in it is ever executed or imported."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen types for a damaged file, some with dangerous advice
        state = error
    if isinstance(state, dict):
        return state
    reason = state.strerror if isinstance(state, OSError) else "damaged, or not written by fewmask"
    raise ValueError(f"{path}: not a readable state ({reason}); remove the run's folder and start again")


def save_weights(path: Path, weights: Mapping[str, Tensor], written: Written | None = None) -> str:
    """Save the weights of a network, and return the file's SHA-256; what LoRA has learnt is merged into those that it
    adapts."""
    # Copies, because safetensors refuses tensors that share their memory, as tied weights do.
    plain = {n: t.detach().cpu().clone(memory_format=torch.contiguous_format) for n, t in merged(weights).items()}
    data = save(plain)
    write_bytes(path, data, written)
    return hashlib.sha256(data).hexdigest()
