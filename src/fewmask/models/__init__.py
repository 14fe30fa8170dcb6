"""Networks: encoders and decoders of segmentation-models-pytorch and timm, and the universal segmenter around them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fewmask.lazy import attach
from fewmask.models.torchvision_shim import import_torchvision

if TYPE_CHECKING:
    from fewmask.models.ensemble import Ensemble as Ensemble
    from fewmask.models.fusion import Fused as Fused
    from fewmask.models.saved import load_model as load_model
    from fewmask.models.universal import UniversalSegmenter as UniversalSegmenter

import_torchvision()

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "fewmask.models.ensemble": "Ensemble",
        "fewmask.models.fusion": "Fused",
        "fewmask.models.saved": "load_model",
        "fewmask.models.universal": "UniversalSegmenter",
    },
)
