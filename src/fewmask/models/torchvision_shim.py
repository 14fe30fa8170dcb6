"""Import torchvision even where its compiled operators cannot be loaded.

timm and segmentation-models-pytorch import torchvision. fewmask uses none of its operators. A torchvision wheel for
CUDA cannot load its library beside a CPU-only torch. It does not report that, and then fails on import, because it
describes the shapes of operators that were never registered (pytorch/vision#9085).
"""

from __future__ import annotations

import importlib
import re
import sys

import torch

# The operators that torchvision describes on import whether or not its library has loaded.
_OPERATORS = ("nms", "qnms")
_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_MISSING = re.compile(rf"operator torchvision::({'|'.join(_OPERATORS)}) does not exist")


def import_torchvision() -> None:
    """Import torchvision. If it fails because `nms` or `qnms` is missing, declare the missing ones and import it again.

    Where torchvision's operators load, and in every call after the first, this is a plain import. The declared
    operators have no kernels: calling them fails with torchvision's message. Any other error passes through.
    """
    before = set(sys.modules)
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if not _MISSING.search(str(error)):
            raise
        # Submodules outlive a failed import, and a second one would not bind them to the new package.
        for name in set(sys.modules) - before:
            if name.startswith("torchvision."):
                del sys.modules[name]
        for name in _OPERATORS:
            if not hasattr(torch.ops.torchvision, name):
                torch.library.define(f"torchvision::{name}", _SCHEMA)
        importlib.import_module("torchvision")
