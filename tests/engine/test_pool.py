"""The pass over the pool: pseudo-labels, scores and candidates, and what they may not depend on.

Shapes: B images · M members · C classes · H×W pixels.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
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
    arrays,
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

from fewmask.acquisition import regions as tiling
from fewmask.acquisition.regions import parse_regions
from fewmask.annotation.questions import Question
from fewmask.config import PoolSettings
from fewmask.data.domain import Domain
from fewmask.data.pseudo import PseudoFolder
from fewmask.engine.committee import Committee, Member, scoring_problems
from fewmask.engine.pool import ScoringRequest, score_pool
from fewmask.engine.pool_scores import scored_stems, scoring_seconds
from fewmask.labels import NOT_LABELLED, VOID
from fewmask.models.universal import UniversalSegmenter

# ── Pseudo-labels ────────────────────────────────────────────────────────────────────────────────────────────────────

__all__ = ["domain", "network", "short_pieces"]


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
    assert score_pool(who, domain, tmp_path / "scores", cache=tmp_path, pseudo=folder, workers=0, batch_size=1) is None
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
        by_size = {}
        for size in (1, 2, 4):
            folder = tmp_path / f"{score}{size}"
            pseudo = PseudoFolder(folder / "pseudo")
            by_size[size] = candidates_of(
                committee(network), domain, folder, ask(score), batch_size=size, pseudo=pseudo
            )
            for stem in domain.splits["train"]:
                got, expected = (PseudoFolder(tmp_path / f"{score}{n}" / "pseudo").read(stem)[1] for n in (size, 1))
                assert np.abs(got.astype(int) - expected).max() <= 1
        for size in (2, 4):
            for name in ("image", "region", "cost", "group"):
                np.testing.assert_array_equal(arrays(by_size[size])[name], arrays(by_size[1])[name])
            np.testing.assert_allclose(by_size[size].score, by_size[1].score, rtol=0 if score == "random" else 1e-4)


# ── Candidates ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_candidates_are_the_regions_with_their_mean_scores(
    domain: Domain, network: UniversalSegmenter, tmp_path: Path
) -> None:
    candidates = candidates_of(committee(network), domain, tmp_path, ask(), batch_size=1)
    rows = 0
    for position, stem in enumerate(domain.splits["train"]):
        image = domain.image(stem)
        cells = parse_regions("squares:8").tile(image)
        p = mean_softmax(network, image, (1.0,), "softmax")
        entropy = -(p * p.clamp_min(1e-30).log()).sum(0).numpy()
        of_image = np.flatnonzero(candidates.image == position)
        assert candidates.region[of_image].tolist() == list(range(cells.count))
        for row in of_image:
            inside = cells.mask(int(candidates.region[row]))
            assert candidates.score[row] == pytest.approx(entropy[inside].mean(), rel=1e-4)
            assert candidates.cost[row] == inside.sum()
            votes = np.bincount(p.argmax(0).numpy()[inside], minlength=CLASSES)
            assert candidates.group[row] == votes.argmax()
        rows += len(of_image)
    assert rows == len(candidates)


@pytest.mark.parametrize("regions", ["squares:8", "points"])
@pytest.mark.parametrize("workers", [1, 3])
def test_loader_processes_change_nothing(
    workers: int, regions: str, domain: Domain, network: UniversalSegmenter, tmp_path: Path
) -> None:
    settings = ask("margin", regions, candidates=5)
    one = candidates_of(committee(network), domain, tmp_path / "0", settings)
    assert_equal(candidates_of(committee(network), domain, tmp_path / "n", settings, workers=workers), one)


def test_the_best_candidates_of_every_image_stay(domain: Domain, network: UniversalSegmenter, tmp_path: Path) -> None:
    every = candidates_of(committee(network), domain, tmp_path / "all", ask())
    few = candidates_of(committee(network), domain, tmp_path / "few", ask(candidates=3))
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
    all_ = pool_scores(who, domain, tmp_path / "all", every, before=before).candidates
    few = ask(regions=regions, candidates=2)
    for _ in range(2):
        scores = pool_scores(who, domain, tmp_path / "few", few, before=before)
        assert len(scores.candidates) < len(all_)
        assert scores.score_count == len(all_)
        assert scores.score_sum == pytest.approx(all_.score.sum(dtype=np.float64), rel=1e-5)


def test_points_come_from_the_best_scored_pixels(domain: Domain, network: UniversalSegmenter, tmp_path: Path) -> None:
    candidates = candidates_of(
        committee(network), domain, tmp_path, ask("margin", "points", top=0.1, candidates=6), batch_size=1
    )
    for position, stem in enumerate(domain.splits["train"]):
        p = mean_softmax(network, domain.image(stem), (1.0,), "softmax").sort(0, descending=True).values
        margin = 1 - (p[0] - p[1]).flatten().numpy()
        threshold = np.sort(margin)[::-1][max(int(np.ceil(0.1 * margin.size)) - 1, 0)]
        own = candidates.region[candidates.image == position]
        assert len(own) == min(6, int(np.ceil(0.1 * margin.size)))
        assert (margin[own] >= threshold - 1e-5).all()
        np.testing.assert_allclose(candidates.score[candidates.image == position], margin[own], atol=1e-4)
    assert (candidates.cost == 1).all()


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
    free = candidates_of(committee(network), domain, tmp_path / "free", ask(), batch_size=1)
    rest = candidates_of(committee(network), one, tmp_path / "asked", ask(), batch_size=1, before=before)
    own = dict(zip(rest.region[rest.image == 0].tolist(), rest.cost[rest.image == 0].tolist(), strict=True))
    assert {0, 15}.isdisjoint(own)
    assert len(own) == parse_regions("squares:8").tile(domain.image("a-0")).count - 2
    assert own[8] == own[16] == 32
    half, whole = (c.score[(c.image == 0) & (c.region == 8)] for c in (rest, free))
    assert 0 < half < whole  # answered pixels count 0 in the mean
    assert_equal(rest.take(rest.image > 0), free.take(free.image > 0))
    left_out = candidates_of(
        committee(network), one, tmp_path / "out", ask(answered="leave-out"), batch_size=1, before=before
    )
    p = mean_softmax(network, domain.image("a-0"), (1.0,), "softmax")[:, 8:16, 12:16]
    score = left_out.score[(left_out.image == 0) & (left_out.region == 8)]
    assert score == pytest.approx(-(p * p.log()).sum(0).mean().item(), rel=1e-4)

    inner = candidates_of(committee(network), one, tmp_path / "inner", ask(border=False), before=before)
    cells = parse_regions("squares:8").tile(domain.image("a-0"))
    assert set(inner.region[inner.image == 0]) == set(own) - set(np.flatnonzero(cells.border))
    assert 3 not in inner.image  # an image of one pixel is all border


def test_an_image_without_anything_left_gives_no_candidate(
    domain: Domain, network: UniversalSegmenter, tmp_path: Path
) -> None:
    done = partly(domain, np.zeros(SIZES[0], np.uint8))
    for regions in ("squares:8", "points"):
        candidates = candidates_of(
            committee(network), done, tmp_path / regions, ask(regions=regions, balance="diverse")
        )
        assert set(candidates.image) == set(range(1, len(SIZES)))
        assert candidates.embedding is not None and len(candidates.embedding) == len(candidates)


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
    one = candidates_of(committee(network), domain, tmp_path / "1", settings, cache=tmp_path / "cache")
    assert len(made) == len(SIZES)
    other = candidates_of(committee(network), domain, tmp_path / "2", settings, cache=tmp_path / "cache")
    assert len(made) == len(SIZES)
    assert_equal(one, other)
    (tmp_path / "cache" / "a" / "a-1.superpixels-6-10.npz").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"a-1\.superpixels-6-10\.npz: not a stored region map"):
        candidates_of(committee(network), domain, tmp_path / "3", settings, cache=tmp_path / "cache")


@pytest.mark.parametrize("change", ["size", "pixels"])
def test_superpixels_of_an_image_that_has_changed_are_refused(
    change: str, domain: Domain, network: UniversalSegmenter, tmp_path: Path
) -> None:
    settings, cache = ask(regions="superpixels:6"), tmp_path / "cache"
    candidates_of(committee(network), domain, tmp_path / "1", settings, cache=cache)
    images = dict(domain.source.images)  # type: ignore[attr-defined]
    images["a-1"] = images["a-1"][:30].copy() if change == "size" else images["a-1"] ^ 1
    other = replace(domain, source=NoMasks(images, {}))
    words = r"a-1\.superpixels-6-10\.npz: the image has changed since its regions were computed; restore the image, or"
    with pytest.raises(ValueError, match=words):
        candidates_of(committee(network), other, tmp_path / "2", settings, cache=cache)
    (cache / "a" / "a-1.superpixels-6-10.npz").unlink()
    assert set(candidates_of(committee(network), other, tmp_path / "2", settings, cache=cache).image) == set(
        range(len(SIZES))
    )


def test_a_stopped_pass_goes_on_where_it_was(
    domain: Domain, network: UniversalSegmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each image in turn: finished pieces are not computed again, and the result is that of one pass."""
    whole = candidates_of(
        committee(network), domain, tmp_path / "whole", ask(), pseudo=PseudoFolder(tmp_path / "whole" / "p")
    )
    count = len(SIZES)
    source = domain.source
    assert isinstance(source, NoMasks)

    class Stop(Exception):
        pass

    for stop in range(1, count + 1):
        calls: list[int] = []

        def progress(done: int, total: int, stop: int = stop, calls: list[int] = calls) -> None:
            assert total == count
            calls.append(done)
            if done == stop:
                raise Stop

        folder = tmp_path / str(stop)
        options: dict[str, Any] = {"pseudo": PseudoFolder(folder / "p"), "batch_size": 1}
        with pytest.raises(Stop):
            candidates_of(committee(network), domain, folder, ask(), progress=progress, **options)
        assert calls == list(range(1, stop + 1))
        source.requested.clear()
        again = candidates_of(committee(network), domain, folder, ask(), **options)
        assert sorted(source.requested) == list(domain.splits["train"][(stop - 1) // 3 * 3 :])
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
        candidates_of(committee(network), domain, tmp_path, ask(), progress=progress, batch_size=1)
    pieces = tmp_path / "scores"
    assert scoring_seconds(pieces) == len(list(pieces.iterdir())) == 1
    candidates_of(committee(network), domain, tmp_path, ask(), batch_size=1)
    assert scoring_seconds(pieces) == len(list(pieces.iterdir())) == -(-len(SIZES) // 3)
    assert scoring_seconds(tmp_path / "no look") == 0


def test_a_pass_knows_which_images_it_looked_at(domain: Domain, network: UniversalSegmenter, tmp_path: Path) -> None:
    candidates_of(committee(network), domain, tmp_path, ask())
    assert scored_stems(tmp_path / "scores") == frozenset(domain.splits["train"])
    assert scored_stems(tmp_path / "no look") == frozenset()
    fewer = replace(domain, splits={**domain.splits, "train": domain.splits["train"][1:]})
    with pytest.raises(ValueError, match=r"00000\.npz: scores of other images than the pool has now") as raised:
        candidates_of(committee(network), fewer, tmp_path, ask())
    assert f"remove {tmp_path / 'scores'}" in str(raised.value)


# ── What cannot be scored ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("score", ["entropy", "random", None])
def test_logits_that_are_not_finite_name_the_image(
    value: float, score: str | None, domain: Domain, tmp_path: Path
) -> None:
    broken = helpers.model({"a": domain}).eval()
    with torch.no_grad():
        next(iter(broken.heads.values())).bias[1] = value  # type: ignore[operator]
    request = None if score is None else ScoringRequest(ask(score), 1)
    pseudo = PseudoFolder(tmp_path / "pseudo")
    with pytest.raises(ValueError, match=r"^a: images/a-0\.png: the network's answer is not finite; check"):
        score_pool(committee(broken), domain, tmp_path, cache=tmp_path, request=request, pseudo=pseudo, workers=0)
    assert not list(tmp_path.rglob("*.npz"))


def test_a_difficulty_that_is_not_finite_names_the_image(
    domain: Domain, network: UniversalSegmenter, tmp_path: Path
) -> None:
    who = Committee([Member(network, lambda x: x[:, :1] * torch.nan)], PoolSettings(scales=(1.0,)), "fp32")
    with pytest.raises(ValueError, match=r"^a: images/a-0\.png: the network's answer is not finite"):
        candidates_of(who, domain, tmp_path, ask("difficulty"))


def test_a_score_that_the_committee_cannot_give_is_refused_before_an_image_is_looked_at(
    domain: Domain, network: UniversalSegmenter, tmp_path: Path
) -> None:
    source = domain.source
    assert isinstance(source, NoMasks)
    source.requested.clear()
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
            candidates_of(who, domain, tmp_path, settings)
    assert not source.requested


def test_without_a_network_the_pool_is_drawn_from_by_chance_and_nothing_is_guessed(
    domain: Domain, tmp_path: Path
) -> None:
    for regions in ("squares:8", "points"):
        settings = ask("random", regions, top=1.0)
        candidates = [candidates_of(committee(), domain, tmp_path / f"{regions}{s}", settings, seed=s) for s in (0, 1)]
        assert (candidates[0].group == -1).all()
        assert len(np.unique(candidates[0].score)) > len(candidates[0]) // 2
        assert not np.array_equal(candidates[0].score, candidates[1].score)
