"""fewmask: segmentation from few masks. Many label spaces, few labels, many unlabelled images, one model.

What the command line does, Python does through the names below. They are imported when they are first used, so that
`import fewmask` costs nothing.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fewmask.campaign import campaign
    from fewmask.comparison import compare
    from fewmask.config import Config, MethodSettings, parse_config, read_config
    from fewmask.data.domain import Domain
    from fewmask.data.domains import load_domains
    from fewmask.data.layouts import load_domain
    from fewmask.engine.evaluate import evaluate
    from fewmask.engine.fit import train
    from fewmask.engine.predict import predict
    from fewmask.engine.prototypes import load_fused
    from fewmask.engine.run import load_config, load_model
    from fewmask.export import export
    from fewmask.labels import ClassMapping, LabelSpace
    from fewmask.methods import register
    from fewmask.methods.common.base import Method
    from fewmask.models.universal import UniversalSegmenter
    from fewmask.report import report  # type: ignore[no-redef]  # as `campaign`: the room and its one function

_HOME = {
    "ClassMapping": "fewmask.labels",
    "Config": "fewmask.config",
    "Domain": "fewmask.data.domain",
    "LabelSpace": "fewmask.labels",
    "Method": "fewmask.methods.common.base",
    "MethodSettings": "fewmask.config",
    "UniversalSegmenter": "fewmask.models.universal",
    "campaign": "fewmask.campaign",
    "compare": "fewmask.comparison",
    "evaluate": "fewmask.engine.evaluate",
    "export": "fewmask.export",
    "load_config": "fewmask.engine.run",
    "load_domain": "fewmask.data.layouts",
    "load_domains": "fewmask.data.domains",
    "load_fused": "fewmask.engine.prototypes",
    "load_model": "fewmask.engine.run",
    "parse_config": "fewmask.config",
    "predict": "fewmask.engine.predict",
    "read_config": "fewmask.config",
    "register": "fewmask.methods",
    "report": "fewmask.report",
    "train": "fewmask.engine.fit",
}
__all__ = [
    "ClassMapping",
    "Config",
    "Domain",
    "LabelSpace",
    "Method",
    "MethodSettings",
    "UniversalSegmenter",
    "campaign",
    "compare",
    "evaluate",
    "export",
    "load_config",
    "load_domain",
    "load_domains",
    "load_fused",
    "load_model",
    "parse_config",
    "predict",
    "read_config",
    "register",
    "report",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'fewmask' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


class _Package(ModuleType):
    def __setattr__(self, name: str, value: object) -> None:
        # Python binds a module to its package when it is imported: `fewmask.export` would become the module `export`.
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
