"""Modules that stay in eval mode when their network is in training mode."""

from __future__ import annotations

from typing import Any

from torch import nn


def keep_in_eval_mode(module: nn.Module) -> None:
    """Keep the module and its copies in eval mode from now on. Its parameters are still trained."""
    module.eval()
    if isinstance(module, _Still):
        return
    kind = type(module)
    # A new class, because a patched `train` would stay bound to this module in a copy, such as a teacher.
    module.__class__ = type(kind.__name__, (_Still, kind), {})


def is_still(module: nn.Module) -> bool:
    return isinstance(module, _Still)


class _Still(nn.Module):
    def train(self, mode: bool = True) -> Any:
        return super().train(False)
