"""Training methods, one file each, by name."""

from __future__ import annotations

from collections.abc import Mapping

from fewmask.config import registry
from fewmask.config.base import MethodSettings
from fewmask.config.inputs import RGB
from fewmask.config.registry import SETTINGS, parse_config, read_config
from fewmask.data.domain import Domain
from fewmask.methods.adversarial_align import AdversarialAlign
from fewmask.methods.co_training import CoTraining
from fewmask.methods.common.base import Method, supervised_loss
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
from fewmask.methods.univ_teacher import UnivTeacher

__all__ = [
    "METHODS",
    "SETTINGS",
    "AdversarialAlign",
    "CoTraining",
    "Cycada",
    "Deal",
    "Distill",
    "EntropyMin",
    "FineTune",
    "FixMatch",
    "Hung2018",
    "Joint",
    "Method",
    "MethodSettings",
    "Mmd",
    "PseudoLabel",
    "S4al",
    "S4alPlus",
    "Souly2017",
    "Supervised",
    "UniMatch",
    "UnivCross",
    "UnivFull",
    "build",
    "parse_config",
    "read_config",
    "register",
    "supervised_loss",
]

# The same table as the configuration's, which knows the methods' settings and none of their networks.
METHODS: dict[str, type[Method]] = registry.METHODS
METHODS |= {
    method.name: method
    for method in (
        Supervised,
        Joint,
        UnivCross,
        UnivFull,
        UnivTeacher,
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


def register(method: type[Method]) -> type[Method]:
    """Register a method by its name in this process, as a call or as a class decorator. If a class is defined again,
    the later definition counts.

    Methods of installed packages need no call: every entry point of the group `fewmask.methods` is registered before a
    configuration is read. Raises ValueError for a name that another method has.
    """
    registry.register(method)
    return method


def build(settings: MethodSettings, domains: Mapping[str, Domain], steps: int) -> Method:
    """Build the method of these settings for a training of `steps` steps. Raises ValueError when the settings do not
    fit the domains."""
    method = METHODS[settings.name]
    if method.rgb_alone and (other := [name for name, domain in domains.items() if domain.input.channels != RGB]):
        raise ValueError(
            f"method.name: {settings.name} makes RGB images, and {', '.join(other)} have other channels; take another "
            "method, such as joint"
        )
    return method(settings.over(steps), domains)
