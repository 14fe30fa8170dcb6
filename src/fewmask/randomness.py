"""Every random draw is a function of (seed, step, row): counter-based generators, handed in, never a global one.

A run that was killed at any step draws, when resumed, exactly what it would have drawn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

# Each purpose has its own stream, so that adding a draw to one never shifts another.
STREAMS = ("split", "order", "view", "model", "method", "init", "scene", "probe", "pool", "ask", "report", "stretch")


def generator(seed: int, stream: str, step: int = 0, row: int = 0) -> np.random.Generator:
    """A numpy generator that depends on its four arguments alone (Philox, a counter-based generator)."""
    return np.random.Generator(np.random.Philox(key=[seed % 2**64, STREAMS.index(stream)], counter=[0, 0, step, row]))


def torch_seed(seed: int, stream: str, step: int = 0, row: int = 0) -> int:
    """A 63-bit seed for a `torch.Generator`, drawn from `generator` of the same arguments."""
    return int(generator(seed, stream, step, row).integers(2**63))


def torch_generator(seed: int, stream: str, step: int = 0, row: int = 0, device: str = "cpu") -> torch.Generator:
    """A torch generator that depends on the seed, stream, step and row alone."""
    import torch  # code that draws from numpy alone does not import it

    return torch.Generator(device=device).manual_seed(torch_seed(seed, stream, step, row))
