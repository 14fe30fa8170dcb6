"""True labels of the pool must not lose to labels alone: whatever views and weights do, right labels help.

They are held to it at 150 steps, the hardest length, and at the shortest one that `train.steps: auto` takes.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers import ENCODER

from fewmask.data.domain import Domain
from fewmask.engine.automatic import SHORTEST
from fewmask.engine.fit import train
from fewmask.engine.run import load_domains
from fewmask.methods import parse_config

SCENES = {"layout": "scenes", "kind": "streets", "size": [48, 64], "train": 60, "val": 20, "test": 1}
TRAIN = {
    "steps": 150,
    "batch_size": 4,
    "crop": [48, 64],
    "augment": {"scale": [0.8, 1.25]},
    "average": {"lag": 0.02},
    "score": "val",
    "workers": 0,
    "precision": "fp32",
    "device": "cpu",
}


def with_true_pool(domain: Domain) -> Domain:
    """Every image of the pool counts as answered by people, pixel by pixel."""
    whole, there = set(domain.whole), domain.splits["train"]
    return replace(domain, labelled=there, partial={stem: 1.0 for stem in there if stem not in whole})


def score(folder: Path, method: dict[str, Any], seed: int, oracle: bool, steps: int = 150) -> float:
    config = parse_config(
        {
            "name": "oracle",
            "seed": seed,
            "domains": {"streets": SCENES},
            "labelled": {"images": 4},
            "model": {"encoder": ENCODER},
            "method": method,
            "train": TRAIN | {"steps": steps},
        }
    )
    domains = load_domains(config)
    if oracle:
        domains = {name: with_true_pool(domain) for name, domain in domains.items()}
    return float(train(config, folder, domains=domains)["avg_miou"])


@pytest.fixture(scope="module")
def labels_alone(tmp_path_factory: pytest.TempPathFactory) -> float:
    root = tmp_path_factory.mktemp("labels")
    return sum(score(root / str(seed), {"name": "joint"}, seed, oracle=False) for seed in (0, 1)) / 2


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fixmatch", "s4al"])
def test_the_pools_true_labels_help(method: str, labels_alone: float, tmp_path: Path) -> None:
    given = [score(tmp_path / str(seed), {"name": method}, seed, oracle=True) for seed in (0, 1)]
    assert sum(given) / 2 > labels_alone + 0.01


@pytest.mark.slow
def test_they_help_at_the_shortest_length_that_auto_takes(tmp_path: Path) -> None:
    alone = score(tmp_path / "labels", {"name": "joint"}, 0, oracle=False, steps=SHORTEST)
    assert score(tmp_path / "pool", {"name": "fixmatch"}, 0, oracle=True, steps=SHORTEST) > alone + 0.01
