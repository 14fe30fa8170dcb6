"""Training methods, one file each, by name."""

from __future__ import annotations

from collections.abc import Mapping

from fewmask.config import Settings
from fewmask.data.domain import Domain
from fewmask.methods.base import Method, MethodSettings
from fewmask.methods.entropy_min import EntropyMin
from fewmask.methods.fine_tune import FineTune
from fewmask.methods.joint import Joint
from fewmask.methods.supervised import Supervised
from fewmask.methods.univ_cross import UnivCross
from fewmask.methods.univ_full import UnivFull

METHODS: dict[str, type[Method]] = {m.name: m for m in (Supervised, Joint, UnivCross, UnivFull, FineTune, EntropyMin)}
SETTINGS: dict[str, type[Settings]] = {name: method.Settings for name, method in METHODS.items()}


def build(settings: MethodSettings, domains: Mapping[str, Domain]) -> Method:
    """The method of these settings. Raises ValueError when they do not fit the domains."""
    return METHODS[settings.name](settings, domains)
