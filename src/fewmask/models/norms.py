"""The statistics of F's normalisation layers in training: `NormSettings` applied to a network.

Shapes: C channels.
"""

from __future__ import annotations

import math

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fewmask.config import NormSettings
from fewmask.models.still import keep_in_eval_mode

GROUPS = 32  # the default of Wu and He (ECCV 2018)


def set_norms(features: nn.Module, encoder: nn.Module, settings: NormSettings) -> None:
    """Apply the settings to F, of which the encoder is a part. Networks without batch normalisation stay unchanged.

    Raises ValueError for a kind of batch normalisation that `group` does not support.
    """
    inside = {id(m) for m in encoder.modules()}
    for module in [m for m in features.modules() if isinstance(m, _BatchNorm)]:
        if (settings.encoder if id(module) in inside else settings.decoder) == "frozen":
            keep_in_eval_mode(module)
    if settings.decoder == "group":
        _group(features, inside)


def _group(module: nn.Module, spared: set[int]) -> None:
    for name, child in module.named_children():
        if isinstance(child, _BatchNorm) and id(child) not in spared:
            if type(child) is not nn.BatchNorm2d:
                raise ValueError(f"model.norm.decoder: group does not replace a {type(child).__name__}; take frozen")
            channels = child.num_features
            setattr(module, name, nn.GroupNorm(math.gcd(GROUPS, channels), channels, child.eps))
        else:
            _group(child, spared)
