"""A pool without masks, a network, and what a pass of it finds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import helpers
import numpy as np
import pytest

from fewmask.acquisition.selection import Candidates
from fewmask.config import AskSettings, PoolSettings
from fewmask.data.domain import Domain
from fewmask.engine import pool
from fewmask.engine.committee import Committee, Member
from fewmask.engine.pool import ScoringRequest, score_pool
from fewmask.engine.pool_scores import PoolScores
from fewmask.labels import NOT_LABELLED
from fewmask.models.universal import UniversalSegmenter

CLASSES = 3
SIZES = [(40, 52), (37, 51), (40, 52), (1, 1), (1, 70), (37, 51), (40, 52)]


class NoMasks(helpers.ArraySource):
    """A source whose ground truth must not be read."""

    def mask(self, stem: str) -> np.ndarray:
        raise AssertionError(f"the mask of {stem} was read")


@pytest.fixture(scope="module")
def domain() -> Domain:
    """Images of several sizes, none of them labelled."""
    images = {}
    for i, size in enumerate(SIZES):
        whole = helpers.domain("a", CLASSES, images=1, labelled=0, seed=i)
        images[f"a-{i}"] = np.ascontiguousarray(whole.image("a-0")[: size[0], : size[1]])
        images[f"a-{i}"] = np.resize(images[f"a-{i}"], (*size, 3))
    return Domain("a", helpers.space(CLASSES, "a"), NoMasks(images, {}), {"train": tuple(images)}, ())


@pytest.fixture(scope="module")
def network(domain: Domain) -> UniversalSegmenter:
    return helpers.model({"a": domain}).eval()


@pytest.fixture(autouse=True)
def short_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "PIECE", 3)


def committee(*networks: UniversalSegmenter, **settings: Any) -> Committee:
    members = [Member(network) for network in networks]
    return Committee(members, PoolSettings(**{"scales": (1.0,), **settings}), "fp32")


def ask(score: str = "entropy", regions: str = "squares:8", **changes: Any) -> AskSettings:
    return AskSettings(budget={"amount": 4}, score=score, regions=regions, **changes)


def candidates_of(who: Committee, domain: Domain, folder: Path, settings: AskSettings, **options: Any) -> Candidates:
    return pool_scores(who, domain, folder, settings, **options).candidates


def pool_scores(who: Committee, domain: Domain, folder: Path, settings: AskSettings, **options: Any) -> PoolScores:
    before = options.pop("before", ())
    options = {"workers": 0, "cache": folder / "cache", **options}
    scores = score_pool(who, domain, folder / "scores", request=ScoringRequest(settings, 1, before), **options)
    assert scores is not None
    return scores


def arrays(candidates: Candidates) -> Mapping[str, np.ndarray]:
    return candidates._arrays()


def assert_equal(one: Candidates, other: Candidates) -> None:
    assert arrays(one).keys() == arrays(other).keys()
    for name, values in arrays(one).items():
        np.testing.assert_array_equal(values, arrays(other)[name], err_msg=name)


def partly(domain: Domain, mask: np.ndarray) -> Domain:
    """The domain with a part of its first image answered."""

    class Answered(NoMasks):
        def mask(self, stem: str) -> np.ndarray:
            return mask if stem == "a-0" else super().mask(stem)

    source = Answered(domain.source.images, {})  # type: ignore[attr-defined]
    return replace(domain, source=source, labelled=("a-0",), partial={"a-0": float((mask != NOT_LABELLED).mean())})
