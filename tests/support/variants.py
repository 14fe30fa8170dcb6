"""Every method in every mode that has a state of its own, and the smallest runs of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ondisk import (
    plain,
)

from fewmask.config import Config
from fewmask.engine import fit
from fewmask.methods import parse_config

# Every method in every mode that has a state of its own; `pretrain` puts the change of phase inside of the run.
VARIANTS: dict[str, dict[str, Any]] = {
    "supervised": {"name": "supervised", "domain": "a"},
    "joint": {"name": "joint"},
    "fine-tune": {"name": "fine-tune"},
    "entropy-min": {"name": "entropy-min"},
    "univ-cross": {"name": "univ-cross", "pretrain": 0.5},
    "univ-full": {"name": "univ-full", "pretrain": 0.5},
    "univ-full, gate": {"name": "univ-full", "pretrain": 0.5, "private": "gate"},
    "univ-full, one forward": {"name": "univ-full", "pretrain": 0.5, "forward": "joint", "anchor_trains": "encoder"},
    "univ-full, faithful": {"name": "univ-full", "pretrain": 0.5, "mode": "faithful"},
    "univ-full, faithful, PCA": {
        "name": "univ-full",
        "pretrain": 0.5,
        "mode": "faithful",
        "initial_embedding": "pca",
    },
    "univ-teacher": {"name": "univ-teacher", "pretrain": 0.5, "threshold": 0},
    "s4al-plus": {"name": "s4al-plus"},
    "deal": {"name": "deal"},
    "pseudo-label": {"name": "pseudo-label", "begin": 0.25, "end": 0.75},
    "fixmatch": {"name": "fixmatch", "threshold": 0, "ema": None, "labels_in": "train", "forward": "joint"},
    "fixmatch, teacher": {"name": "fixmatch", "threshold": 0, "ema": 0.9, "answers": "student"},
    "unimatch": {"name": "unimatch", "threshold": 0, "ema": None, "begin": 0.25},
    "unimatch, second version": {
        "name": "unimatch",
        "threshold": 0,
        "ema": 0.9,
        "features_weight": 0,
        "complementary": True,
    },
    "s4al": {"name": "s4al", "cold": 0.25, "threshold": 0.3},
    "s4al, replay": {"name": "s4al", "cold": 0.25, "threshold": 0.3, "adaptive": "always", "tail_share": 0.5},
    "hung2018": {"name": "hung2018", "warmup": 0.5, "channels": 4},
    "souly2017": {"name": "souly2017", "side": 8, "channels": 4},
    "cycada": {
        "name": "cycada",
        "channels": 4,
        "translator": {"channels": 4, "blocks": 1, "patch": 16, "discriminator_channels": 4, "history": 3},
    },
    "souly2017, two terms": {"name": "souly2017", "side": 8, "channels": 4, "generator_loss": "non-saturating"},
    "mmd": {"name": "mmd"},
    "adversarial-align": {"name": "adversarial-align", "channels": 4},
    "co-training": {"name": "co-training", "begin": 0.5},
    "co-training, mean": {"name": "co-training", "answers": "mean", "labels_in": "train"},
    "distill": {"name": "distill"},
}
# Those whose loop differs from another's in nothing but the method's arithmetic are left to the slow tests.
SLOW = (
    "univ-full, gate",
    "univ-full, one forward",
    "univ-full, faithful",
    "fixmatch, teacher",
    "unimatch, second version",
    "souly2017, two terms",
    "co-training, mean",
)
QUICK = [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in VARIANTS]


def small(data: Path, method: str | dict[str, Any], **changes: Any) -> Config:
    return parse_config(plain(data, method, **changes))


def captured(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every `_Fit` that is made from here on."""
    made: list[Any] = []
    start = fit._Fit.__init__

    def remember(self: Any, *arguments: Any) -> None:
        start(self, *arguments)
        made.append(self)

    monkeypatch.setattr(fit._Fit, "__init__", remember)
    return made
