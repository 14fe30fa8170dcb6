"""fewmask: segmentation from few masks. It trains one model on many label spaces with few labels and many unlabelled
images.

The names below give Python the commands of the command line. They are imported on first use, so that `import fewmask`
is fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fewmask.lazy import attach

if TYPE_CHECKING:
    from fewmask.campaigns.rounds import campaign as campaign
    from fewmask.comparison.pairs import compare as compare
    from fewmask.config.base import MethodSettings as MethodSettings
    from fewmask.config.loading import Config as Config
    from fewmask.config.registry import parse_config as parse_config
    from fewmask.config.registry import read_config as read_config
    from fewmask.data.batch import Batch as Batch
    from fewmask.data.domain import Domain as Domain
    from fewmask.data.domains import load_domains as load_domains
    from fewmask.data.layouts import load_domain as load_domain
    from fewmask.engine.evaluation import evaluate as evaluate
    from fewmask.engine.fit import train as train
    from fewmask.engine.prediction import predict as predict
    from fewmask.engine.prototypes import load_fused as load_fused
    from fewmask.engine.run import load_config as load_config
    from fewmask.engine.run import load_model as load_model
    from fewmask.labels import ClassMapping as ClassMapping
    from fewmask.labels import LabelSpace as LabelSpace
    from fewmask.methods import register as register
    from fewmask.methods.common.base import Method as Method
    from fewmask.models.universal import UniversalSegmenter as UniversalSegmenter
    from fewmask.onnx_export import export as export
    from fewmask.reports.report import report as report

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "fewmask.campaigns.rounds": "campaign",
        "fewmask.comparison.pairs": "compare",
        "fewmask.config.loading": "Config",
        "fewmask.config.base": "MethodSettings",
        "fewmask.config.registry": "parse_config read_config",
        "fewmask.data.batch": "Batch",
        "fewmask.data.domain": "Domain",
        "fewmask.data.domains": "load_domains",
        "fewmask.data.layouts": "load_domain",
        "fewmask.engine.evaluation": "evaluate",
        "fewmask.engine.fit": "train",
        "fewmask.engine.prediction": "predict",
        "fewmask.engine.prototypes": "load_fused",
        "fewmask.engine.run": "load_config load_model",
        "fewmask.labels": "ClassMapping LabelSpace",
        "fewmask.methods": "register",
        "fewmask.methods.common.base": "Method",
        "fewmask.models.universal": "UniversalSegmenter",
        "fewmask.onnx_export": "export",
        "fewmask.reports.report": "report",
    },
)
