"""Typed settings. One YAML file, paths relative to it, `key.sub=value` overrides; every wrong key is listed at once."""

from fewmask.config.base import ConfigPath, Fraction, Interval, Precision, Settings, Size
from fewmask.config.campaign import AnswerSettings, AskSettings, BudgetSettings, CampaignSettings, PoolSettings
from fewmask.config.domains import (
    LAYOUTS,
    CamvidDomain,
    CityscapesDomain,
    DomainSettings,
    FolderDomain,
    IddDomain,
    LabelledSettings,
    ScenesDomain,
    SunrgbdDomain,
    VocDomain,
)
from fewmask.config.loading import Config, dump, load, parse
from fewmask.config.training import (
    AdamSettings,
    EmbeddingSettings,
    HungAdamSettings,
    ModelSettings,
    NetworkOptimiserSettings,
    OptimiserSettings,
    TrainSettings,
)
from fewmask.config.views import AugmentSettings, CutoutSettings, NoiseSettings, StrongSettings, UniMatchStrongSettings

__all__ = [
    "LAYOUTS",
    "AdamSettings",
    "AnswerSettings",
    "AskSettings",
    "AugmentSettings",
    "BudgetSettings",
    "CampaignSettings",
    "CamvidDomain",
    "CityscapesDomain",
    "Config",
    "ConfigPath",
    "CutoutSettings",
    "DomainSettings",
    "EmbeddingSettings",
    "FolderDomain",
    "Fraction",
    "HungAdamSettings",
    "IddDomain",
    "Interval",
    "LabelledSettings",
    "ModelSettings",
    "NetworkOptimiserSettings",
    "NoiseSettings",
    "OptimiserSettings",
    "PoolSettings",
    "Precision",
    "ScenesDomain",
    "Settings",
    "Size",
    "StrongSettings",
    "SunrgbdDomain",
    "TrainSettings",
    "UniMatchStrongSettings",
    "VocDomain",
    "dump",
    "load",
    "parse",
]
