"""The selection of the part of a pretrained encoder that is trained.

Frozen layers have no gradient, no state in an optimiser and no dropout. Their batch normalisation keeps the pretrained
statistics.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from fewmask.config import LastBlocks, Lora, ModelSettings
from fewmask.models.lora import add_lora
from fewmask.models.still import keep_in_eval_mode
from fewmask.models.vit import Encoder


def freeze_untrained(encoder: nn.Module, settings: ModelSettings) -> None:
    """Freeze the layers that the settings do not train. Raises ValueError that names the setting and the fix."""
    tuning = settings.tuning
    vit: Any = encoder.model if isinstance(encoder, Encoder) else None
    if isinstance(tuning, LastBlocks | Lora) and vit is None:
        raise ValueError(
            f"model.tuning: {tuning.name} is for a ViT with the decoder dpt or linear, not for {settings.encoder} with "
            f"{settings.decoder}; take full or frozen"
        )
    if isinstance(tuning, LastBlocks):
        if tuning.blocks > len(vit.blocks):
            raise ValueError(
                f"model.tuning.blocks: {tuning.blocks} of the {len(vit.blocks)} blocks of {settings.encoder}"
            )
        _train_last(vit, tuning.blocks)
    elif isinstance(tuning, Lora):
        encoder.requires_grad_(False)
        adapted = {target for block in vit.blocks for target in _adapt(block, tuning)}
        if missing := [target for target in tuning.targets if target not in adapted]:
            raise ValueError(f"model.tuning.targets: no linear layer {', '.join(missing)} in {settings.encoder}")
    elif tuning.name == "frozen":
        freeze(encoder)


def freeze(module: nn.Module) -> None:
    """Freeze a module and keep it and its copies in eval mode from now on."""
    keep_in_eval_mode(module.requires_grad_(False))


def _train_last(vit: Any, blocks: int) -> None:
    """Train the last blocks and the LayerNorm after them."""
    for parameter in vit.parameters(recurse=False):
        parameter.requires_grad_(False)
    for child in [*(c for c in vit.children() if c not in (vit.blocks, vit.norm)), *vit.blocks[:-blocks]]:
        freeze(child)


def _adapt(block: Any, tuning: Lora) -> list[str]:
    """Add LoRA to the target layers of a block, and return their names."""
    for module in block.modules():
        if getattr(module, "q_bias", None) is not None:
            module.qkv_bias_separate = True  # otherwise timm uses the weight of qkv without calling the layer
    layers = [(n.rpartition(".")[2], m) for n, m in block.named_modules() if type(m) is nn.Linear]
    chosen = [(target, layer) for target, layer in layers if target in tuning.targets]
    for _, layer in chosen:
        add_lora(layer, tuning.rank, tuning.alpha)
    return [target for target, _ in chosen]
