"""Modules that stay in eval mode whatever mode their network is in."""

from __future__ import annotations

from typing import Any

from torch import nn


def keep_still(module: nn.Module) -> None:
    """The module is in eval mode from here on, and so are its copies. Its parameters train as before."""
    module.eval()
    if isinstance(module, _Still):
        return
    kind = type(module)
    # A class, not a patched `train`: that would stay bound to this module in a copy, such as a teacher.
    module.__class__ = type(kind.__name__, (_Still, kind), {})


def is_still(module: nn.Module) -> bool:
    return isinstance(module, _Still)


class _Still(nn.Module):
    def train(self, mode: bool = True) -> Any:
        return super().train(False)
