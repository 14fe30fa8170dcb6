"""Training methods, one file each, by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from fewmask import config
from fewmask.config import Config, Settings
from fewmask.data.domain import Domain
from fewmask.methods.adversarial_align import AdversarialAlign
from fewmask.methods.co_training import CoTraining
from fewmask.methods.common.base import Method, MethodSettings
from fewmask.methods.cycada import Cycada
from fewmask.methods.deal import Deal
from fewmask.methods.distill import Distill
from fewmask.methods.entropy_min import EntropyMin
from fewmask.methods.fine_tune import FineTune
from fewmask.methods.fixmatch import FixMatch
from fewmask.methods.hung2018 import Hung2018
from fewmask.methods.joint import Joint
from fewmask.methods.mmd import Mmd
from fewmask.methods.pseudo_label import PseudoLabel
from fewmask.methods.s4al import S4al
from fewmask.methods.s4al_plus import S4alPlus
from fewmask.methods.souly2017 import Souly2017
from fewmask.methods.supervised import Supervised
from fewmask.methods.unimatch import UniMatch
from fewmask.methods.univ import UnivCross, UnivFull

METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (
        Supervised,
        Joint,
        UnivCross,
        UnivFull,
        FineTune,
        EntropyMin,
        PseudoLabel,
        FixMatch,
        UniMatch,
        S4al,
        S4alPlus,
        Deal,
        Hung2018,
        Souly2017,
        Cycada,
        Mmd,
        AdversarialAlign,
        CoTraining,
        Distill,
    )
}
SETTINGS: dict[str, type[Settings]] = {name: method.Settings for name, method in METHODS.items()}


def register(method: type[Method]) -> type[Method]:
    """Make a method known by its name in this process, as a call or as a class decorator; of a class that is defined
    again, the later one counts.

    Methods of installed packages need no call: every entry point of the group `fewmask.methods` is registered before a
    configuration is read. Raises ValueError for a name that another method has.
    """
    there = METHODS.get(method.name, method)
    if (there.__module__, there.__qualname__) != (method.__module__, method.__qualname__):
        raise ValueError(f"{method.__qualname__}.name: {method.name!r} is {there.__qualname__}; take another name")
    METHODS[method.name], SETTINGS[method.name] = method, method.Settings
    return method


def build(settings: MethodSettings, domains: Mapping[str, Domain]) -> Method:
    """The method of these settings. Raises ValueError when they do not fit the domains."""
    return METHODS[settings.name](settings, domains)


def read_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file, and `key.sub=value` on top of it, as a configuration. Relative paths are relative to the file.

    Raises ValueError that lists every unknown, missing and conflicting key at once.
    """
    _register_installed()
    return config.load(path, overrides, SETTINGS)


def parse_config(data: Mapping[str, Any], folder: Path = Path()) -> Config:
    """Check plain data as a configuration. Relative paths are relative to `folder`. Errors as in `read_config`."""
    _register_installed()
    return config.parse(data, folder, SETTINGS)


@cache
def _register_installed() -> None:
    # Not when this module is imported: a package with a method imports it before its own class is there.
    for entry in entry_points(group="fewmask.methods"):
        try:
            register(entry.load())
        except Exception as error:
            raise ValueError(
                f"{entry.dist.name if entry.dist else entry.value}: an installed package whose method {entry.name!r} "
                f"cannot be used ({type(error).__name__}: {error}); mend or uninstall it"
            ) from error
