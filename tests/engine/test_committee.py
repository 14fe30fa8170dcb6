"""Committees in the pass over the pool: their members, features, and difficulty.

Shapes: M members · C classes · H×W pixels.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import helpers
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pools import (
    CLASSES,
    SIZES,
    NoMasks,
    ask,
    assert_equal,
    candidates_of,
    committee,
    domain,
    network,
    partly,
    pool_scores,
    short_pieces,
)
from torch import Tensor

from fewmask.acquisition.regions import parse_regions
from fewmask.acquisition.scores import SCORES
from fewmask.annotation.questions import Question
from fewmask.config import PoolSettings
from fewmask.data.domain import Domain
from fewmask.engine.committee import Committee, Member, dropout_layers
from fewmask.labels import NOT_LABELLED
from fewmask.models.universal import UniversalSegmenter

__all__ = ["domain", "network", "short_pieces"]


def test_dropout_is_drawn_anew_for_every_member_and_image_and_again_the_same(
    domain: Domain, network: UniversalSegmenter, tmp_path: Path
) -> None:
    who = committee(network, dropout=3, scales=(1.0, 0.5))
    image = torch.from_numpy(domain.image("a-0")).permute(2, 0, 1)[None]
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    one, again, other = who(image, "a", 5).logits, who(image, "a", 5).logits, who(image, "a", 6).logits
    assert torch.equal(torch.rand(3), expected)
    assert one.shape == (6, 1, CLASSES, *SIZES[0])
    assert torch.equal(one, again)
    apart = [(i, j) for i in range(6) for j in range(i)]
    assert not any(torch.equal(one[i], one[j]) for i, j in apart)
    assert not any(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert not any(layer.training for layer in dropout_layers(network))
    assert SCORES["bald"](one).max() > 0
    plain = committee(network)(image, "a", 5).logits
    assert torch.equal(plain, committee(network)(image, "a", 6).logits)

    candidates = [candidates_of(who, domain, tmp_path / f"{size}", ask("bald"), batch_size=size) for size in (1, 4)]
    assert_equal(*candidates)


def test_generations_scales_and_draws_are_members(domain: Domain, network: UniversalSegmenter, tmp_path: Path) -> None:
    younger = helpers.model({"a": domain}, seed=2).eval()
    image = torch.from_numpy(domain.image("a-1")).permute(2, 0, 1)[None]
    both = committee(network, younger, scales=(1.0, 2.0))(image, "a", 0)
    each = [committee(n, scales=(s,))(image, "a", 0).logits[0] for n in (network, younger) for s in (1.0, 2.0)]
    assert torch.equal(both.logits, torch.stack(each))
    assert torch.equal(both.features, committee(network)(image, "a", 0).features)
    assert both.difficulty is None
    joined = committee(network, younger, scales=(1.0, 2.0), combine="logits")(image, "a", 0).logits
    expected = torch.stack([torch.stack(each[:2]).mean(0), torch.stack(each[2:]).mean(0)])
    torch.testing.assert_close(joined, expected)
    candidates = candidates_of(committee(network, younger), domain, tmp_path, ask("disagreement"))
    assert candidates.score.max() > 0


def test_features_are_of_the_scale_nearest_to_one_and_without_padding(
    domain: Domain, network: UniversalSegmenter
) -> None:
    image = torch.from_numpy(domain.image("a-1")).permute(2, 0, 1)[None]
    height, width = SIZES[1]
    cells = (1, network.channels, -(-height // network.stride), -(-width // network.stride))
    plain = committee(network)(image, "a", 0).features
    assert plain.shape == cells
    for scales in ((0.5, 1.0, 2.0), (1.0, 0.5), (2.0, 1.0)):
        assert torch.equal(committee(network, scales=scales)(image, "a", 0).features, plain)


def test_diverse_candidates_have_the_features_where_they_lie(
    domain: Domain, network: UniversalSegmenter, tmp_path: Path
) -> None:
    candidates = candidates_of(
        committee(network), domain, tmp_path, ask(regions="points", balance="diverse"), batch_size=1
    )
    assert candidates.embedding is not None
    for position in (0, 1):  # of a size that the stride divides, and of one that it does not
        assert (SIZES[position][0] % network.stride == 0) == (position == 0)
        image = torch.from_numpy(domain.image(f"a-{position}")).permute(2, 0, 1)[None]
        with torch.inference_mode():
            features = network.encode(image)[0].permute(1, 2, 0).numpy()  # of the padded image
        rows = np.flatnonzero(candidates.image == position)
        y, x = np.divmod(candidates.region[rows], SIZES[position][1])
        own = features[y // network.stride, x // network.stride]
        np.testing.assert_allclose(candidates.embedding[rows], own, rtol=1e-3, atol=1e-3)


def test_what_is_answered_or_was_asked_is_embedded_in_the_same_look(
    domain: Domain, network: UniversalSegmenter, tmp_path: Path
) -> None:
    """Answered: squares 0 and half of 8. Asked and skipped: square 15. Elsewhere nothing is covered."""
    mask = np.full(SIZES[0], NOT_LABELLED, np.uint8)
    mask[:8, :8] = mask[8:16, 8:12] = 1
    before = [Question("a", "a-0", "squares:8", 15, (16, 8, 24, 16))]
    free = pool_scores(committee(network), domain, tmp_path / "free", ask(balance="diverse"), batch_size=1)
    assert free.covered is not None and free.covered.shape == (0, network.channels)
    assert free.candidates.embedding is not None
    own = {
        region: free.candidates.embedding[(free.candidates.image == 0) & (free.candidates.region == region)][0]
        for region in (0, 8, 15)
    }
    settings = ask(balance="diverse")
    for again in range(2):  # the second time from the pieces on the disk
        one = partly(domain, mask) if not again else replace(partly(domain, mask), source=NoMasks({}, {}))
        options: dict[str, Any] = {"batch_size": 1, "before": before}
        scores = pool_scores(committee(network), one, tmp_path / "asked", settings, **options)
        np.testing.assert_array_equal(scores.covered, np.unique(np.stack(list(own.values())), axis=0))
    points = pool_scores(
        committee(network), partly(domain, mask), tmp_path / "p", ask(regions="points", balance="diverse")
    )
    # Points have the features of the cells that they lie in, each of which is there once.
    assert points.covered is not None and len(points.covered) == 8 * 12 // network.stride**2
    assert pool_scores(committee(network), partly(domain, mask), tmp_path / "none", ask()).covered is None


def test_the_difficulty_branch_is_read_in_the_same_look(
    domain: Domain, network: UniversalSegmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = torch.Generator().manual_seed(0)
    weight = torch.randn(1, network.channels, 1, 1, generator=rng)
    who = Committee([Member(network, lambda features: F.conv2d(features, weight))], PoolSettings(scales=(1.0,)), "fp32")
    passes = []
    encode = UniversalSegmenter.encode

    def counted(self: UniversalSegmenter, image: Tensor, domain: str | None = None) -> Tensor:
        passes.append(len(image))
        return encode(self, image, domain)

    monkeypatch.setattr(UniversalSegmenter, "encode", counted)
    candidates = candidates_of(who, domain, tmp_path, ask("difficulty"), batch_size=1)
    assert len(passes) == len(SIZES)
    for position in (0, 3):
        image = torch.from_numpy(domain.image(f"a-{position}")).permute(2, 0, 1)[None]
        with torch.inference_mode():
            wrong = network.upsample(F.conv2d(encode(network, image), weight), SIZES[position])[0, 0].sigmoid()
        cells = parse_regions("squares:8").tile(domain.image(f"a-{position}"))
        for row in np.flatnonzero(candidates.image == position):
            inside = cells.mask(int(candidates.region[row]))
            assert candidates.score[row] == pytest.approx(wrong.numpy()[inside].mean(), rel=1e-4)
