"""The registry of methods, and the reading of configurations that name one of them.

The settings of fewmask's methods are registered at once. Their classes, which need torch, are registered when
`fewmask.methods` is imported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from fewmask import plugins
from fewmask.config import loading, methods
from fewmask.config.base import Settings
from fewmask.config.loading import Config
from fewmask.paths import AnyPath

SETTINGS: dict[str, type[Settings]] = {kind.model_fields["name"].default: kind for kind in methods.EVERY}
SETTINGS["auto"] = methods.AutoSettings
METHODS: dict[str, Any] = {}
"""The classes of the imported methods, by name."""


def register(method: Any) -> None:
    """Register the class of a method. Raises ValueError for a name that another method has."""
    if SETTINGS.get(method.name) is methods.AutoSettings:
        raise ValueError(f"{method.__qualname__}.name: {method.name!r} lets the data choose; take another name")
    present = METHODS.get(method.name, method)
    if (present.__module__, present.__qualname__) != (method.__module__, method.__qualname__):
        raise ValueError(f"{method.__qualname__}.name: {method.name!r} is {present.__qualname__}; take another name")
    METHODS[method.name], SETTINGS[method.name] = method, method.Settings


def read_config(path: AnyPath, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file, and `key.sub=value` on top of it, as a configuration. Relative paths are relative to the file.

    Raises ValueError that lists every unknown, missing and conflicting key at once.
    """
    register_installed()
    return loading.load(Path(path), overrides, SETTINGS)


def parse_config(data: Mapping[str, Any], folder: AnyPath = ".") -> Config:
    """Check plain data as a configuration. Relative paths are relative to `folder`. Errors as in `read_config`."""
    register_installed()
    return loading.parse(data, Path(folder), SETTINGS)


@cache
def register_installed() -> None:
    """Register the methods of installed packages. Raises ValueError for a method that cannot be used."""
    # It cannot run on import of this module: a package imports this module before its own method is defined.
    plugins.load("method", lambda _, method: register(method))
