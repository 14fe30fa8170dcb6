"""The training loop of all methods, evaluation, prediction and the folder of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fewmask.lazy import attach

if TYPE_CHECKING:
    from fewmask.engine.evaluation import evaluate as evaluate
    from fewmask.engine.fit import train as train
    from fewmask.engine.prediction import predict as predict
    from fewmask.engine.prototypes import load_fused as load_fused
    from fewmask.engine.run import load_config as load_config
    from fewmask.engine.run import load_model as load_model

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "fewmask.engine.evaluation": "evaluate",
        "fewmask.engine.fit": "train",
        "fewmask.engine.prediction": "predict",
        "fewmask.engine.prototypes": "load_fused",
        "fewmask.engine.run": "load_config load_model",
    },
)
