"""Regions tile the image, and a region's score comes from exactly the pixels that are marked for it.

Shapes: H×W pixels · R regions · C classes · D embedding size · h×w cells.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from copy import deepcopy
from itertools import product
from typing import get_args

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from fewmask.acquisition.regions import (
    BINS,
    Regions,
    Spec,
    aggregate,
    dominant_class,
    embed,
    parse_regions,
    points,
    preselect,
    squares,
    superpixels,
    whole,
)
from fewmask.acquisition.scores import By

SIZES = st.tuples(st.integers(1, 40), st.integers(1, 40))
SPECS = st.one_of(
    st.integers(1, 50).map(lambda side: Spec("squares", side=side)),
    st.builds(lambda n, c: Spec("superpixels", count=n, compactness=c), st.integers(1, 30), st.floats(0.01, 1e4)),
    st.just(Spec("points", side=1)),
    st.just(Spec("image")),
)


def picture(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Smooth coloured shapes with a little noise, (H,W,3) uint8."""
    rng = np.random.default_rng(seed)
    smooth = cv2.resize(rng.normal(128, 60, (4, 5, 3)), size[::-1], interpolation=cv2.INTER_CUBIC)
    return np.clip(smooth.reshape(*size, 3) + rng.normal(0, 4, (*size, 3)), 0, 255).astype(np.uint8)


# ── Tiling ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(SIZES, SPECS)
def test_every_pixel_is_in_exactly_one_region_and_the_box_is_that_of_its_mask(
    size: tuple[int, int], spec: Spec
) -> None:
    regions = spec.tile(picture(size))
    H, W = size
    assert regions.map.shape == size
    assert regions.map.dtype == np.int32
    assert sorted(set(regions.map.flat)) == list(range(regions.count))
    assert regions.pixels.tolist() == [int((regions.map == i).sum()) for i in range(regions.count)]
    for region in {0, regions.count // 2, regions.count - 1}:
        mask = regions.mask(region)
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        top, left, bottom, right = regions.box(region)
        assert (top, left, bottom, right) == (rows[0], columns[0], rows[-1] + 1, columns[-1] + 1)
        assert regions.border[region] == (top == 0 or left == 0 or bottom == H or right == W)
        assert regions.first[region] == np.flatnonzero(mask)[0]


@given(SIZES, SPECS)
def test_ids_are_in_the_order_of_their_first_pixels_and_repeat(size: tuple[int, int], spec: Spec) -> None:
    regions = spec.tile(picture(size))
    assert (np.diff(regions.first) > 0).all()
    again = spec.tile(picture(size).copy())
    assert (again.map == regions.map).all()
    assert again.spec == regions.spec == str(spec)


@given(SIZES, st.integers(1, 30), st.floats(0.1, 100))
def test_superpixels_are_connected(size: tuple[int, int], count: int, compactness: float) -> None:
    regions = superpixels(picture(size), count, compactness)
    assert all(ndimage.label(regions.mask(i))[1] == 1 for i in range(regions.count))


def test_superpixels_follow_the_image_in_about_the_number_that_was_asked_for() -> None:
    image = np.full((60, 80, 3), 30, np.uint8)
    image[:, 37:] = (220, 40, 40)
    regions = superpixels(image, 48, 10)
    assert 30 <= regions.count <= 70
    assert not set(regions.map[:, :37].flat) & set(regions.map[:, 37:].flat)


def test_squares_of_an_image_that_they_do_not_divide() -> None:
    """360×480 in squares of 43: the last row has 16 pixels, the last column 7."""
    regions = squares((360, 480), 43)
    assert regions.count == 9 * 12
    assert regions.box(0) == (0, 0, 43, 43)
    assert regions.box(13) == (43, 43, 86, 86)
    assert regions.box(107) == (344, 473, 360, 480)
    assert regions.pixels[107] == 16 * 7
    assert (~regions.border).sum() == 7 * 10


def test_a_region_map_cannot_be_changed_and_survives_a_pickle() -> None:
    regions = squares((5, 7), 3)
    with pytest.raises(ValueError, match="read-only"):
        regions.map[0, 0] = 1
    copy = deepcopy(regions)  # takes the way of a pickle, as between processes
    assert (copy.map == regions.map).all()
    assert (copy.spec, copy.count, copy.box(5)) == (regions.spec, regions.count, regions.box(5))


# ── Their names and their bytes ──────────────────────────────────────────────────────────────────────────────────────


@given(SPECS)
def test_a_spec_is_read_back_from_its_text(spec: Spec) -> None:
    assert parse_regions(str(spec)) == spec


def test_specs_as_people_write_them() -> None:
    assert (
        parse_regions("superpixels:256")
        == parse_regions("superpixels:256:10")
        == Spec("superpixels", count=256, compactness=10)
    )
    assert str(parse_regions("superpixels:256:10.0")) == "superpixels:256:10"
    assert str(parse_regions("superpixels:256:0.1")) == "superpixels:256:0.1"


@pytest.mark.parametrize(
    "text",
    ["", "square:30", "squares", "squares:", "squares:0", "squares:-3", "squares:2.5", "squares:3:4", "superpixels",
     "superpixels:0", "superpixels:9:0", "superpixels:9:inf", "superpixels:9:nan", "superpixels:9:1:1", "points:3",
     "image:1"],
)  # fmt: skip
def test_a_spec_that_names_no_regions_is_refused_with_the_fix(text: str) -> None:
    with pytest.raises(ValueError, match=r"write squares:30 .* superpixels:256:10"):
        parse_regions(text)


@given(SIZES, SPECS)
def test_a_map_is_read_back_from_its_bytes(size: tuple[int, int], spec: Spec) -> None:
    regions = spec.tile(picture(size))
    again = Regions.from_bytes(regions.to_bytes())
    assert (again.map == regions.map).all()
    assert again.map.dtype == np.int32
    assert (again.spec, again.count) == (regions.spec, regions.count)


@given(st.data())
def test_damaged_bytes_are_refused(data: st.DataObject) -> None:
    whole = squares((9, 9), 2).to_bytes()
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(ValueError, match="computed again"):
        Regions.from_bytes(whole[:cut])


def test_superpixels_without_scikit_image_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)
    with pytest.raises(ValueError, match=r"install fewmask\[superpixels\]"):
        superpixels(picture((8, 8)), 4)


# ── From pixels to regions ───────────────────────────────────────────────────────────────────────────────────────────


def loop_aggregate(score: np.ndarray, regions: Regions, unavailable: np.ndarray, by: By, answered: str) -> list[float]:
    scores = []
    for region in range(regions.count):
        inside = [(y, x) for y, x in np.argwhere(regions.mask(region))]
        values = [float(score[y, x]) for y, x in inside if not unavailable[y, x]]
        if not values:
            scores.append(0.0)
        elif by == "mean":
            scores.append(sum(values) / (len(inside) if answered == "zero" else len(values)))
        elif by == "one-pixel":
            scores.append(values[0])
        else:
            counts = Counter(min(int(np.float32(v) * BINS), BINS - 1) for v in values)
            scores.append(-sum(n / len(values) * math.log(n / len(values)) for n in counts.values()))
    return scores


@pytest.mark.parametrize("answered", ["zero", "leave-out"])
@pytest.mark.parametrize("by", ["mean", "histogram-entropy", "one-pixel"])
@pytest.mark.parametrize("spec", ["squares:7", "superpixels:12:10", "points", "image"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.95, 1.0])
def test_a_region_is_scored_from_its_own_open_pixels(share: float, spec: str, by: By, answered: str) -> None:
    rng = np.random.default_rng(3)
    score, unavailable = rng.random((17, 23)).astype(np.float32), rng.random((17, 23)) < share
    regions = parse_regions(spec).tile(picture((17, 23)))
    given_ = torch.from_numpy(score), torch.from_numpy(unavailable)
    result = aggregate(given_[0], regions, given_[1], by, answered)  # type: ignore[arg-type]
    assert result.score.dtype == np.float32
    np.testing.assert_allclose(result.score, loop_aggregate(score, regions, unavailable, by, answered), atol=1e-6)
    assert result.open.tolist() == [int((regions.mask(i) & ~unavailable).sum()) for i in range(regions.count)]
    assert (given_[0].numpy() == score).all()
    if not share:
        assert (aggregate(given_[0], regions, None, by).score == result.score).all()


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_score_that_is_not_finite_is_refused_where_it_could_be_asked_for(value: float) -> None:
    score, unavailable = torch.rand(6, 6, generator=torch.Generator().manual_seed(0)), torch.zeros(6, 6).bool()
    score[2, 3], unavailable[2, 3] = value, True
    assert np.isfinite(aggregate(score, squares((6, 6), 3), unavailable).score).all()
    assert 15 not in preselect(score, 36, 1.0, np.random.default_rng(0), unavailable)
    for by in get_args(By):
        with pytest.raises(ValueError, match="not finite"):
            aggregate(score, squares((6, 6), 3), by=by)
    with pytest.raises(ValueError, match="not finite"):
        preselect(score, 3, 0.5, np.random.default_rng(0))


def test_a_score_of_another_size_is_our_mistake() -> None:
    with pytest.raises(AssertionError):
        aggregate(torch.zeros(6, 5), squares((5, 6), 2))


def test_the_mean_of_a_large_region_is_exact() -> None:
    """fp32 running sums of two million pixels would be off in the fourth digit."""
    score = torch.full((1000, 2000), 0.1)
    assert aggregate(score, parse_regions("image").tile(np.empty((1000, 2000, 3), np.uint8))).score[0] == np.float32(
        0.1
    )


def test_the_open_pixels_of_a_large_region_are_counted_exactly() -> None:
    """A sum of ones in fp32 ends at 2²⁴."""
    size = (4100, 4100)
    unavailable = torch.zeros(size, dtype=torch.bool)
    unavailable[0, :5] = True
    result = aggregate(torch.ones(size), whole(size), unavailable, answered="leave-out")
    assert result.open.tolist() == [4100 * 4100 - 5]
    assert result.score.tolist() == [1.0]


def test_a_difficulty_of_one_is_in_the_last_bin_of_its_own_region() -> None:
    """The sigmoid of a large logit is exactly 1."""
    score = torch.tensor([[1.0, 0.95, 0.05, 0.05], [0.05, 0.05, 0.05, 0.05]])
    entropies = aggregate(score, squares((2, 4), 2), by="histogram-entropy").score
    np.testing.assert_allclose(entropies, [math.log(2), 0], atol=1e-6)


@given(SIZES, st.integers(1, 9), st.integers(1, 5), st.integers(0, 99))
def test_the_dominant_class_is_the_most_frequent_one(size: tuple[int, int], side: int, classes: int, seed: int) -> None:
    prediction = np.random.default_rng(seed).choice([*range(classes), 254, 255], size).astype(np.uint8)
    regions = squares(size, side)
    expected = []
    for region in range(regions.count):
        counts = np.bincount(prediction[regions.mask(region)], minlength=256)[:classes]
        expected.append(int(counts.argmax()) if counts.any() else -1)
    dominant = dominant_class(torch.from_numpy(prediction), regions, classes)
    assert dominant.dtype == np.int16
    assert dominant.tolist() == expected


@pytest.mark.parametrize("spec", ["squares:5", "superpixels:9:10", "points", "image", "squares:1"])
@pytest.mark.parametrize("stride", [4, 1, 3, 5, 32])  # most of which divide neither side
def test_an_embedding_is_the_mean_of_the_cells_inside_or_else_the_cell_around(spec: str, stride: int) -> None:
    H, W = 13, 19
    h, w = -(-H // stride), -(-W // stride)
    features = torch.randn(3, h, w, generator=torch.Generator().manual_seed(0))
    regions = parse_regions(spec).tile(picture((H, W)))
    chosen = np.unique([0, regions.count // 2, regions.count - 1])
    expected = []
    for region in chosen:
        mask = regions.mask(int(region))
        rows, columns = ([min(int((i + 0.5) * stride), end - 1) for i in range(n)] for n, end in ((h, H), (w, W)))
        inside = [features[:, i, j] for i, j in product(range(h), range(w)) if mask[rows[i], columns[j]]]
        y, x = np.argwhere(mask)[0]
        expected.append(torch.stack(inside or [features[:, y // stride, x // stride]]).mean(0))
    embeddings = embed(features, regions, chosen, (stride, stride))
    np.testing.assert_allclose(embeddings, torch.stack(expected).numpy(), atol=1e-6)


def test_an_embedding_of_a_look_at_another_scale_is_of_the_cells_of_that_look() -> None:
    """At half the size, cells of 4 pixels there are of 8 here."""
    features = torch.arange(4.0).reshape(1, 2, 2)
    regions = parse_regions("points").tile(picture((16, 12)))
    embeddings = embed(features, regions, np.arange(16 * 12), (8.0, 8.0)).reshape(16, 12)
    np.testing.assert_array_equal(embeddings, np.kron([[0, 1], [2, 3]], np.ones((8, 8)))[:, :12])


# ── Points ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(st.integers(0, 70), st.floats(0.01, 1), st.floats(0, 1), st.integers(0, 3), st.integers(0, 99))
def test_points_come_from_the_best_of_an_image(keep: int, top: float, share: float, levels: int, seed: int) -> None:
    """With few levels of score most are equal, and the threshold is one of them."""
    rng = np.random.default_rng(seed)
    score = rng.integers(0, 10**levels, (8, 8)).astype(np.float32)
    unavailable = rng.random((8, 8)) < share
    ids = preselect(torch.from_numpy(score), keep, top, np.random.default_rng(7), torch.from_numpy(unavailable))
    ranked = np.sort(score[~unavailable])[::-1]
    best = math.ceil(top * len(ranked))
    assert len(ids) == len(set(ids.tolist())) == min(keep, best)
    if len(ids):
        assert not unavailable.flat[ids].any()
        assert score.flat[ids].min() >= ranked[best - 1]
        assert points((8, 8)).box(int(ids[0]))[:2] == divmod(int(ids[0]), 8)
    if keep >= best:
        assert sorted(score.flat[ids], reverse=True) == ranked[:best].tolist()
    again = preselect(torch.from_numpy(score), keep, top, np.random.default_rng(7), torch.from_numpy(unavailable))
    assert (again == ids).all()


def test_equal_pixels_are_drawn_alike() -> None:
    """A constant score leaves the choice to chance: no corner of the image comes first."""
    counts: Counter[int] = Counter()
    for seed in range(600):
        counts.update(preselect(torch.zeros(6, 6), 2, 0.25, np.random.default_rng(seed)).tolist())
    expected = 600 * 2 / 36
    assert all(abs(counts[i] - expected) < 5 * math.sqrt(expected) for i in range(36))
