"""The pass over the pool: pseudo-labels, scores and candidates, and what they may not depend on.

Shapes: B images · M members · C classes · H×W pixels.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import helpers
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fewmask.acquisition import regions as tiling
from fewmask.acquisition.regions import parse_regions
from fewmask.acquisition.scores import SCORES
from fewmask.acquisition.selection import Candidates
from fewmask.annotation.questions import Question
from fewmask.config import AskSettings, PoolSettings
from fewmask.data.domain import Domain
from fewmask.data.pseudo import PseudoFolder
from fewmask.engine import pool
from fewmask.engine.committee import Committee, Member, dropout_layers, scoring_problems
from fewmask.engine.pool import ScoringRequest, score_pool
from fewmask.engine.pool_scores import PoolScores, scored_stems, scoring_seconds
from fewmask.labels import NOT_LABELLED, VOID
from fewmask.models.universal import UniversalSegmenter

CLASSES = 3
SIZES = [(40, 52), (37, 51), (40, 52), (1, 1), (1, 70), (37, 51), (40, 52)]


class NoMasks(helpers.ArraySource):
    """A source whose ground truth must not be looked at."""

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


def looked(who: Committee, domain: Domain, folder: Path, settings: AskSettings, **options: Any) -> Candidates:
    return found_by(who, domain, folder, settings, **options).candidates


def found_by(who: Committee, domain: Domain, folder: Path, settings: AskSettings, **options: Any) -> PoolScores:
    before = options.pop("before", ())
    options = {"workers": 0, "cache": folder / "cache", **options}
    found = score_pool(who, domain, folder / "seen", request=ScoringRequest(settings, 1, before), **options)
    assert found is not None
    return found


def arrays(found: Candidates) -> Mapping[str, np.ndarray]:
    return found._arrays()


def assert_equal(one: Candidates, other: Candidates) -> None:
    assert arrays(one).keys() == arrays(other).keys()
    for name, values in arrays(one).items():
        np.testing.assert_array_equal(values, arrays(other)[name], err_msg=name)


# ── Pseudo-labels ────────────────────────────────────────────────────────────────────────────────────────────────────


def mean_softmax(network: UniversalSegmenter, image: np.ndarray, scales: tuple[float, ...], combine: str) -> Tensor:
    """(C,H,W) of one image, as plainly as it can be said."""
    whole = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    H, W = image.shape[:2]
    logits = []
    with torch.inference_mode():
        for scale in scales:
            size = (max(1, round(H * scale)), max(1, round(W * scale)))
            view = F.interpolate(whole, size, mode="bilinear", align_corners=False, antialias=scale < 1)
            at_scale = network(view if scale != 1 else whole, "a")
            logits.append(F.interpolate(at_scale, (H, W), mode="bilinear", align_corners=False)[0])
        if combine == "logits":
            return torch.stack(logits).mean(0).softmax(0)
        return torch.stack([z.softmax(0) for z in logits]).mean(0)


@pytest.mark.parametrize("combine", ["softmax", "logits"])
@pytest.mark.parametrize("scales", [(1.0,), (0.5, 1.0, 2.0), (0.3,)])
def test_pseudo_labels_are_those_of_a_direct_reference(
    scales: tuple[float, ...], combine: str, domain: Domain, network: UniversalSegmenter, tmp_path: Path
) -> None:
    folder = PseudoFolder(tmp_path / "pseudo")
    who = committee(network, scales=scales, combine=combine)
    assert score_pool(who, domain, tmp_path / "seen", cache=tmp_path, pseudo=folder, workers=0, batch_size=1) is None
    for stem in domain.splits["train"]:
        label, stored = folder.read(stem)
        p = mean_softmax(network, domain.image(stem), scales, combine)
        np.testing.assert_array_equal(label, p.argmax(0).numpy())
        assert stored.shape == domain.image(stem).shape[:2]
        exact = p.amax(0).double().numpy() * 254
        assert (stored <= exact + 1e-4).all() and (stored > exact - 1 - 1e-4).all()


def test_an_image_does_not_depend_on_its_neighbours_in_a_batch(
    domain: Domain, network: UniversalSegmenter, tmp_path: Path
) -> None:
    """The network's arithmetic may round otherwise in a batch; what is drawn by chance may not differ at all."""
    for score in ("entropy", "random"):
        found = {}
        for size in (1, 2, 4):
            folder = tmp_path / f"{score}{size}"
            pseudo = PseudoFolder(folder / "pseudo")
            found[size] = looked(committee(network), domain, folder, ask(score), batch_size=size, pseudo=pseudo)
            for stem in domain.splits["train"]:
                got, expected = (PseudoFolder(tmp_path / f"{score}{n}" / "pseudo").read(stem)[1] for n in (size, 1))
                assert np.abs(got.astype(int) - expected).max() <= 1
        for size in (2, 4):
            for name in ("image", "region", "cost", "group"):
                np.testing.assert_array_equal(arrays(found[size])[name], arrays(found[1])[name])
            np.testing.assert_allclose(found[size].score, found[1].score, rtol=0 if score == "random" else 1e-4)


# ── Candidates ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_candidates_are_the_regions_with_their_mean_scores(
    domain: Domain, network: UniversalSegmenter, tmp_path: Path
) -> None:
    found = looked(committee(network), domain, tmp_path, ask(), batch_size=1)
    rows = 0
    for position, stem in enumerate(domain.splits["train"]):
        image = domain.image(stem)
        cells = parse_regions("squares:8").tile(image)
        p = mean_softmax(network, image, (1.0,), "softmax")
        entropy = -(p * p.clamp_min(1e-30).log()).sum(0).numpy()
        of_image = np.flatnonzero(found.image == position)
        assert found.region[of_image].tolist() == list(range(cells.count))
        for row in of_image:
            inside = cells.mask(int(found.region[row]))
            assert found.score[row] == pytest.approx(entropy[inside].mean(), rel=1e-4)
            assert found.cost[row] == inside.sum()
            votes = np.bincount(p.argmax(0).numpy()[inside], minlength=CLASSES)
            assert found.group[row] == votes.argmax()
        rows += len(of_image)
    assert rows == len(found)


@pytest.mark.parametrize("regions", ["squares:8", "points"])
@pytest.mark.parametrize("workers", [1, 3])
def test_loader_processes_change_nothing(
    workers: int, regions: str, domain: Domain, network: UniversalSegmenter, tmp_path: Path
) -> None:
    settings = ask("margin", regions, candidates=5)
    one = looked(committee(network), domain, tmp_path / "0", settings)
    assert_equal(looked(committee(network), domain, tmp_path / "n", settings, workers=workers), one)


def test_the_best_candidates_of_every_image_stay(domain: Domain, network: UniversalSegmenter, tmp_path: Path) -> None:
    every = looked(committee(network), domain, tmp_path / "all", ask())
    few = looked(committee(network), domain, tmp_path / "few", ask(candidates=3))
    for position in range(len(SIZES)):
        own = np.sort(every.score[every.image == position])[::-1][:3]
        np.testing.assert_array_equal(np.sort(few.score[few.image == position])[::-1], own)


@pytest.mark.parametrize("regions", ["squares:8", "points"])
@pytest.mark.parametrize("closed", [False, True])
def test_the_scores_of_all_regions_that_may_be_asked_are_added_up(
    domain: Domain, network: UniversalSegmenter, tmp_path: Path, regions: str, closed: bool
) -> None:
    """Whichever of them are candidates, and over pieces that were done before a stop."""
    before = [Question("a", domain.splits["train"][0], "squares:8", 0, (0, 0, 8, 8))] if closed else []
    who, every = committee(network), ask(regions=regions, candidates=10**6, top=1.0)
    all_ = found_by(who, domain, tmp_path / "all", every, before=before).candidates
    few = ask(regions=regions, candidates=2)
    for _ in range(2):
        found = found_by(who, domain, tmp_path / "few", few, before=before)
        assert len(found.candidates) < len(all_)
        assert found.score_count == len(all_)
        assert found.score_sum == pytest.approx(all_.score.sum(dtype=np.float64), rel=1e-5)


def test_points_come_from_the_best_scored_pixels(domain: Domain, network: UniversalSegmenter, tmp_path: Path) -> None:
    found = looked(committee(network), domain, tmp_path, ask("margin", "points", top=0.1, candidates=6), batch_size=1)
    for position, stem in enumerate(domain.splits["train"]):
        p = mean_softmax(network, domain.image(stem), (1.0,), "softmax").sort(0, descending=True).values
        margin = 1 - (p[0] - p[1]).flatten().numpy()
        threshold = np.sort(margin)[::-1][max(int(np.ceil(0.1 * margin.size)) - 1, 0)]
        own = found.region[found.image == position]
        assert len(own) == min(6, int(np.ceil(0.1 * margin.size)))
        assert (margin[own] >= threshold - 1e-5).all()
        np.testing.assert_allclose(found.score[found.image == position], margin[own], atol=1e-4)
    assert (found.cost == 1).all()


def partly(domain: Domain, mask: np.ndarray) -> Domain:
    """The domain with a part of its first image answered."""

    class Answered(NoMasks):
        def mask(self, stem: str) -> np.ndarray:
            return mask if stem == "a-0" else super().mask(stem)

    source = Answered(domain.source.images, {})  # type: ignore[attr-defined]
    return replace(domain, source=source, labelled=("a-0",), partial={"a-0": float((mask != NOT_LABELLED).mean())})


def test_nothing_answered_or_asked_before_or_excluded_is_a_candidate(
    domain: Domain, network: UniversalSegmenter, tmp_path: Path
) -> None:
    """Answered: square 0, and half of 8. Asked and skipped: square 15, and half of 16 when it was cut otherwise."""
    mask = np.full(SIZES[0], NOT_LABELLED, np.uint8)
    mask[:8, :8] = 1
    mask[8:16, 8:12] = VOID
    one = partly(domain, mask)
    before = [
        Question("a", "a-0", "squares:8", 15, (16, 8, 24, 16)),
        Question("a", "a-0", "points:4", 0, (16, 16, 24, 20)),
    ]
    free = looked(committee(network), domain, tmp_path / "free", ask(), batch_size=1)
    found = looked(committee(network), one, tmp_path / "asked", ask(), batch_size=1, before=before)
    own = dict(zip(found.region[found.image == 0].tolist(), found.cost[found.image == 0].tolist(), strict=True))
    assert {0, 15}.isdisjoint(own)
    assert len(own) == parse_regions("squares:8").tile(domain.image("a-0")).count - 2
    assert own[8] == own[16] == 32
    half, whole = (c.score[(c.image == 0) & (c.region == 8)] for c in (found, free))
    assert 0 < half < whole  # answered pixels count 0 in the mean
    assert_equal(found.take(found.image > 0), free.take(free.image > 0))
    left_out = looked(committee(network), one, tmp_path / "out", ask(answered="leave-out"), batch_size=1, before=before)
    p = mean_softmax(network, domain.image("a-0"), (1.0,), "softmax")[:, 8:16, 12:16]
    score = left_out.score[(left_out.image == 0) & (left_out.region == 8)]
    assert score == pytest.approx(-(p * p.log()).sum(0).mean().item(), rel=1e-4)

    inner = looked(committee(network), one, tmp_path / "inner", ask(border=False), before=before)
    cells = parse_regions("squares:8").tile(domain.image("a-0"))
    assert set(inner.region[inner.image == 0]) == set(own) - set(np.flatnonzero(cells.border))
    assert 3 not in inner.image  # an image of one pixel is all border


def test_an_image_without_anything_left_gives_no_candidate(
    domain: Domain, network: UniversalSegmenter, tmp_path: Path
) -> None:
    done = partly(domain, np.zeros(SIZES[0], np.uint8))
    for regions in ("squares:8", "points"):
        found = looked(committee(network), done, tmp_path / regions, ask(regions=regions, balance="diverse"))
        assert set(found.image) == set(range(1, len(SIZES)))
        assert found.embedding is not None and len(found.embedding) == len(found)


def test_an_empty_pool_has_no_candidates(domain: Domain, network: UniversalSegmenter, tmp_path: Path) -> None:
    empty = replace(domain, labelled=domain.splits["train"])
    assert (
        score_pool(committee(network), empty, tmp_path, cache=tmp_path, request=ScoringRequest(ask(), 1), workers=0)
        is None
    )


def test_superpixels_are_computed_once(
    domain: Domain, network: UniversalSegmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    compute = tiling.superpixels

    def counted(image: np.ndarray, count: int, compactness: float) -> tiling.Regions:
        made.extend([image.shape] if image.shape != (2, 2, 3) else [])  # that one asks whether the library is there
        return compute(image, count, compactness)

    monkeypatch.setattr(tiling, "superpixels", counted)
    settings = ask(regions="superpixels:6")
    one = looked(committee(network), domain, tmp_path / "1", settings, cache=tmp_path / "cache")
    assert len(made) == len(SIZES)
    other = looked(committee(network), domain, tmp_path / "2", settings, cache=tmp_path / "cache")
    assert len(made) == len(SIZES)
    assert_equal(one, other)
    (tmp_path / "cache" / "a" / "a-1.superpixels-6-10.npz").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"a-1\.superpixels-6-10\.npz: not a stored region map"):
        looked(committee(network), domain, tmp_path / "3", settings, cache=tmp_path / "cache")


@pytest.mark.parametrize("change", ["size", "pixels"])
def test_superpixels_of_an_image_that_has_changed_are_refused(
    change: str, domain: Domain, network: UniversalSegmenter, tmp_path: Path
) -> None:
    settings, cache = ask(regions="superpixels:6"), tmp_path / "cache"
    looked(committee(network), domain, tmp_path / "1", settings, cache=cache)
    images = dict(domain.source.images)  # type: ignore[attr-defined]
    images["a-1"] = images["a-1"][:30].copy() if change == "size" else images["a-1"] ^ 1
    other = replace(domain, source=NoMasks(images, {}))
    words = r"a-1\.superpixels-6-10\.npz: the image has changed since its regions were computed; restore the image, or"
    with pytest.raises(ValueError, match=words):
        looked(committee(network), other, tmp_path / "2", settings, cache=cache)
    (cache / "a" / "a-1.superpixels-6-10.npz").unlink()
    assert set(looked(committee(network), other, tmp_path / "2", settings, cache=cache).image) == set(range(len(SIZES)))


def test_a_stopped_pass_goes_on_where_it_was(
    domain: Domain, network: UniversalSegmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each image in turn: done pieces are not looked at again, and the result is that of one pass."""
    whole = looked(committee(network), domain, tmp_path / "whole", ask(), pseudo=PseudoFolder(tmp_path / "whole" / "p"))
    count = len(SIZES)
    source = domain.source
    assert isinstance(source, NoMasks)

    class Stop(Exception):
        pass

    for stop in range(1, count + 1):
        seen: list[int] = []

        def progress(done: int, total: int, stop: int = stop, seen: list[int] = seen) -> None:
            assert total == count
            seen.append(done)
            if done == stop:
                raise Stop

        folder = tmp_path / str(stop)
        options: dict[str, Any] = {"pseudo": PseudoFolder(folder / "p"), "batch_size": 1}
        with pytest.raises(Stop):
            looked(committee(network), domain, folder, ask(), progress=progress, **options)
        assert seen == list(range(1, stop + 1))
        source.asked.clear()
        again = looked(committee(network), domain, folder, ask(), **options)
        assert sorted(source.asked) == list(domain.splits["train"][(stop - 1) // 3 * 3 :])
        np.testing.assert_allclose(again.score, whole.score, rtol=1e-5)
        np.testing.assert_array_equal(again.region, whole.region)
        for file in (tmp_path / "whole" / "p").iterdir():
            assert (folder / "p" / file.name).exists()


def test_what_a_pass_took_is_the_time_of_its_pieces_also_after_a_stop(
    domain: Domain, network: UniversalSegmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that ticks when it is read: each piece takes one second, and what a stop has lost none."""
    monkeypatch.setattr("fewmask.engine.pool.time", SimpleNamespace(monotonic=itertools.count().__next__))

    def progress(done: int, total: int) -> None:
        if done == 5:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        looked(committee(network), domain, tmp_path, ask(), progress=progress, batch_size=1)
    pieces = tmp_path / "seen"
    assert scoring_seconds(pieces) == len(list(pieces.iterdir())) == 1
    looked(committee(network), domain, tmp_path, ask(), batch_size=1)
    assert scoring_seconds(pieces) == len(list(pieces.iterdir())) == -(-len(SIZES) // 3)
    assert scoring_seconds(tmp_path / "no look") == 0


def test_a_pass_knows_which_images_it_looked_at(domain: Domain, network: UniversalSegmenter, tmp_path: Path) -> None:
    looked(committee(network), domain, tmp_path, ask())
    assert scored_stems(tmp_path / "seen") == frozenset(domain.splits["train"])
    assert scored_stems(tmp_path / "no look") == frozenset()
    fewer = replace(domain, splits={**domain.splits, "train": domain.splits["train"][1:]})
    with pytest.raises(ValueError, match=r"00000\.npz: scores of other images than the pool has now") as raised:
        looked(committee(network), fewer, tmp_path, ask())
    assert f"remove {tmp_path / 'seen'}" in str(raised.value)


# ── Committees ───────────────────────────────────────────────────────────────────────────────────────────────────────


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

    found = [looked(who, domain, tmp_path / f"{size}", ask("bald"), batch_size=size) for size in (1, 4)]
    assert_equal(*found)


def test_generations_scales_and_draws_are_members(domain: Domain, network: UniversalSegmenter, tmp_path: Path) -> None:
    younger = helpers.model({"a": domain}, seed=1).eval()
    image = torch.from_numpy(domain.image("a-1")).permute(2, 0, 1)[None]
    both = committee(network, younger, scales=(1.0, 2.0))(image, "a", 0)
    each = [committee(n, scales=(s,))(image, "a", 0).logits[0] for n in (network, younger) for s in (1.0, 2.0)]
    assert torch.equal(both.logits, torch.stack(each))
    assert torch.equal(both.features, committee(network)(image, "a", 0).features)
    assert both.difficulty is None
    joined = committee(network, younger, scales=(1.0, 2.0), combine="logits")(image, "a", 0).logits
    expected = torch.stack([torch.stack(each[:2]).mean(0), torch.stack(each[2:]).mean(0)])
    torch.testing.assert_close(joined, expected)
    found = looked(committee(network, younger), domain, tmp_path, ask("disagreement"))
    assert found.score.max() > 0


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
    found = looked(committee(network), domain, tmp_path, ask(regions="points", balance="diverse"), batch_size=1)
    assert found.embedding is not None
    for position in (0, 1):  # of a size that the stride divides, and of one that it does not
        assert (SIZES[position][0] % network.stride == 0) == (position == 0)
        image = torch.from_numpy(domain.image(f"a-{position}")).permute(2, 0, 1)[None]
        with torch.inference_mode():
            features = network.encode(image)[0].permute(1, 2, 0).numpy()  # of the padded image
        rows = np.flatnonzero(found.image == position)
        y, x = np.divmod(found.region[rows], SIZES[position][1])
        own = features[y // network.stride, x // network.stride]
        np.testing.assert_allclose(found.embedding[rows], own, rtol=1e-3, atol=1e-3)


def test_what_is_answered_or_was_asked_is_embedded_in_the_same_look(
    domain: Domain, network: UniversalSegmenter, tmp_path: Path
) -> None:
    """Answered: squares 0 and half of 8. Asked and skipped: square 15. Elsewhere nothing is covered."""
    mask = np.full(SIZES[0], NOT_LABELLED, np.uint8)
    mask[:8, :8] = mask[8:16, 8:12] = 1
    before = [Question("a", "a-0", "squares:8", 15, (16, 8, 24, 16))]
    free = found_by(committee(network), domain, tmp_path / "free", ask(balance="diverse"), batch_size=1)
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
        found = found_by(committee(network), one, tmp_path / "asked", settings, **options)
        np.testing.assert_array_equal(found.covered, np.unique(np.stack(list(own.values())), axis=0))
    points = found_by(
        committee(network), partly(domain, mask), tmp_path / "p", ask(regions="points", balance="diverse")
    )
    # Points have the features of the cells that they lie in, each of which is there once.
    assert points.covered is not None and len(points.covered) == 8 * 12 // network.stride**2
    assert found_by(committee(network), partly(domain, mask), tmp_path / "none", ask()).covered is None


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
    found = looked(who, domain, tmp_path, ask("difficulty"), batch_size=1)
    assert len(passes) == len(SIZES)
    for position in (0, 3):
        image = torch.from_numpy(domain.image(f"a-{position}")).permute(2, 0, 1)[None]
        with torch.inference_mode():
            wrong = network.upsample(F.conv2d(encode(network, image), weight), SIZES[position])[0, 0].sigmoid()
        cells = parse_regions("squares:8").tile(domain.image(f"a-{position}"))
        for row in np.flatnonzero(found.image == position):
            inside = cells.mask(int(found.region[row]))
            assert found.score[row] == pytest.approx(wrong.numpy()[inside].mean(), rel=1e-4)


# ── What cannot be scored ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("score", ["entropy", "random", None])
def test_logits_that_are_not_finite_name_the_image(
    value: float, score: str | None, domain: Domain, tmp_path: Path
) -> None:
    broken = helpers.model({"a": domain}).eval()
    with torch.no_grad():
        next(iter(broken.heads.values())).bias[1] = value  # type: ignore[operator]
    asked = None if score is None else ScoringRequest(ask(score), 1)
    pseudo = PseudoFolder(tmp_path / "pseudo")
    with pytest.raises(ValueError, match=r"^a: images/a-0\.png: the network's answer is not finite; check"):
        score_pool(committee(broken), domain, tmp_path, cache=tmp_path, request=asked, pseudo=pseudo, workers=0)
    assert not list(tmp_path.rglob("*.npz"))


def test_a_difficulty_that_is_not_finite_names_the_image(
    domain: Domain, network: UniversalSegmenter, tmp_path: Path
) -> None:
    who = Committee([Member(network, lambda x: x[:, :1] * torch.nan)], PoolSettings(scales=(1.0,)), "fp32")
    with pytest.raises(ValueError, match=r"^a: images/a-0\.png: the network's answer is not finite"):
        looked(who, domain, tmp_path, ask("difficulty"))


def test_a_score_that_the_committee_cannot_give_is_refused_before_an_image_is_looked_at(
    domain: Domain, network: UniversalSegmenter, tmp_path: Path
) -> None:
    source = domain.source
    assert isinstance(source, NoMasks)
    source.asked.clear()
    nobody = committee()
    for who, settings, words in (
        (committee(network), ask("bald"), "bald compares 2 opinions or more, and 1 network has 1 here"),
        (committee(network, network, combine="logits"), ask("bald"), None),
        (committee(network, scales=(1.0, 2.0), combine="logits"), ask("disagreement"), "1 network has 1 here"),
        (committee(network), ask("difficulty"), "reads a branch that the method does not train; set method=deal"),
        (nobody, ask("entropy"), "entropy needs a network, there is none; set random"),
        (nobody, ask("random", balance="class"), "balance: class needs a network"),
        (committee(network), ask("surprise"), "no score 'surprise'; there are entropy,"),
        (committee(network), ask(regions="circles:3"), "regions: 'circles:3' names no regions"),
    ):
        if words is None:
            assert not scoring_problems(who.settings, settings, len(who.members), True)
            continue
        with pytest.raises(ValueError, match=words):
            looked(who, domain, tmp_path, settings)
    assert not source.asked


def test_without_a_network_the_pool_is_drawn_from_by_chance_and_nothing_is_guessed(
    domain: Domain, tmp_path: Path
) -> None:
    for regions in ("squares:8", "points"):
        settings = ask("random", regions, top=1.0)
        found = [looked(committee(), domain, tmp_path / f"{regions}{s}", settings, seed=s) for s in (0, 1)]
        assert (found[0].group == -1).all()
        assert len(np.unique(found[0].score)) > len(found[0]) // 2
        assert not np.array_equal(found[0].score, found[1].score)
