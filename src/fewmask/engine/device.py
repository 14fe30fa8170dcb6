"""The device of the computation, its precision, and the memory that was used."""

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
    """The device of a setting: "auto" takes cuda, then mps, then cpu. Raises ValueError if it is not available."""
    if setting == "auto":
        setting = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(setting)
    except RuntimeError:
        raise ValueError(f"train.device: {setting!r} is no device; write auto, cuda, cuda:0, mps or cpu") from None
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if not available.get(device.type, False):
        raise ValueError(f"train.device: {setting!r} is not available on this machine; write auto or cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"train.device: no {setting!r}; there are {torch.cuda.device_count()} GPUs; write cuda")
    if device.type == "cuda" and device.index is None and distributed.world() > 1:
        device = torch.device("cuda", torch.cuda.current_device())
    return device


def gains_from_bf16(device: torch.device) -> bool:
    """Whether the device computes bf16 in hardware. On CPUs that takes AMX or AVX512-BF16."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        capabilities = getattr(torch.cpu, "get_capabilities", None)  # absent from older torch
        return capabilities is not None and any(capabilities().get(name) for name in ("amx_bf16", "avx512_bf16"))
    return False


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """Mixed precision of the forward pass: bf16 if configured or, with "auto", if the hardware supports it."""
    if precision == "bf16" or (precision == "auto" and gains_from_bf16(device)):
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the memory is not enough. torch has an exception type for GPUs alone, OpenCV none."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return any(words in text for words in ("can't allocate memory", "out of memory", "insufficient memory"))


def forget_peak(device: torch.device) -> None:
    """Reset the peak of `memory_mib`, where the system allows it: on a GPU, and on Linux."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif os.access(_FORGET, os.W_OK):
        _FORGET.write_text("5", encoding="ascii")  # proc(5): the high-water mark of resident pages


def memory_mib(device: torch.device) -> float | None:
    """Peak memory of the GPU if there is one, else of this process; None on Windows, which does not report it so."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if sys.platform == "win32":
        return None
    if _STATUS.exists():  # on Linux this peak can be reset, unlike that of getrusage
        lines = dict(line.split(":", 1) for line in _STATUS.read_text(encoding="utf-8").splitlines())
        return int(lines["VmHWM"].split()[0]) / 2**10
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # macOS counts bytes
