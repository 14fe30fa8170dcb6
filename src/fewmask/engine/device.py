"""Where to compute, in which precision, and what it took of the memory."""

from __future__ import annotations

import os
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch

from fewmask import distributed
from fewmask.config import Precision

_STATUS, _FORGET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def choose_device(setting: str = "auto") -> torch.device:
    """The device of a setting: "auto" takes cuda, then mps, then cpu. Raises ValueError for one that is not there."""
    if setting == "auto":
        setting = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(setting)
    except RuntimeError:
        raise ValueError(f"train.device: {setting!r} is no device; write auto, cuda, cuda:0, mps or cpu") from None
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if not there.get(device.type, False):
        raise ValueError(f"train.device: {setting!r} is not available on this machine; write auto or cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"train.device: there is no {setting!r}, only {torch.cuda.device_count()} of them; write cuda")
    if device.type == "cuda" and device.index is None and distributed.world() > 1:
        device = torch.device("cuda", torch.cuda.current_device())
    return device


def gains_from_bf16(device: torch.device) -> bool:
    """Does bf16 run in hardware here? On CPUs that is AMX or AVX512-BF16."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        ask = getattr(torch.cpu, "get_capabilities", None)  # absent from older torch
        return ask is not None and any(ask().get(name) for name in ("amx_bf16", "avx512_bf16"))
    return False


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """Mixed precision of the forward pass: bf16 where asked for or, with "auto", where the machine gains from it."""
    if precision == "bf16" or (precision == "auto" and gains_from_bf16(device)):
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory cannot be had: torch has a type for GPUs alone, OpenCV has none."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return any(words in text for words in ("can't allocate memory", "out of memory", "insufficient memory"))


def forget_peak(device: torch.device) -> None:
    """Let `memory_mib` begin anew, where the system can: on a GPU, and for a process of Linux."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif os.access(_FORGET, os.W_OK):
        _FORGET.write_text("5", encoding="ascii")  # proc(5): the high-water mark of resident pages


def memory_mib(device: torch.device) -> float | None:
    """Peak memory, of the GPU where there is one, else of this process; None on Windows, which keeps it elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if sys.platform == "win32":
        return None
    if _STATUS.exists():  # Linux: unlike getrusage's, a peak that can be forgotten
        lines = dict(line.split(":", 1) for line in _STATUS.read_text(encoding="utf-8").splitlines())
        return int(lines["VmHWM"].split()[0]) / 2**10
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # macOS counts bytes
