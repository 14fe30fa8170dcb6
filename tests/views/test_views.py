"""The weak view: image and mask go through one map, and every label pixel comes from one source pixel or is void.

Shapes: H×W pixels of the source · h×w pixels of the view.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewmask.config import AugmentSettings
from fewmask.labels import NOT_LABELLED, VOID
from fewmask.views.augment import PADDING, crop_matrix, jitter, weak_view

PLAIN = AugmentSettings(scale=(1, 1), flip=0)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def coordinates(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """An image whose red is its row and whose green is its column, and a mask that tells its row and column, mod 16."""
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([rows, columns, np.full_like(rows, 200)], -1).astype(np.uint8)
    return image, (rows // 8 % 15 * 16 + columns // 8 % 16).astype(np.uint8)


sizes = st.tuples(st.integers(1, 120), st.integers(1, 120))
scales = st.tuples(st.floats(0.3, 3), st.floats(0.3, 3)).map(sorted).map(tuple)


@given(sizes, sizes, scales, st.sampled_from([0.0, 0.5, 1.0]), st.integers(0, 99))
def test_image_and_mask_stay_aligned(
    source: tuple[int, int], size: tuple[int, int], scale: tuple[float, float], flip: float, seed: int
) -> None:
    image, label = coordinates(*source)
    view, mask = weak_view(image, label, size, AugmentSettings(scale=scale, flip=flip), rng(seed))
    assert view.shape == (*size, 3)
    assert mask.shape == size
    assert view.dtype == mask.dtype == np.uint8
    inside = mask != VOID
    row, column = view[..., 0].astype(int), view[..., 1].astype(int)
    # The mask takes the nearest pixel, the image mixes four: they agree to one pixel where no padding mixes in.
    interior = inside & (view[..., 2] == 200)
    near = np.zeros(size, bool)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            y, x = np.clip(row + dy, 0, source[0] - 1), np.clip(column + dx, 0, source[1] - 1)
            near |= label[y, x] == mask
    assert near[interior].all()


@given(sizes, sizes, st.integers(0, 99))
def test_every_label_comes_from_the_source_or_is_void(
    source: tuple[int, int], size: tuple[int, int], seed: int
) -> None:
    label = rng(seed).choice([0, 3, 11, NOT_LABELLED, VOID], source).astype(np.uint8)
    image = np.zeros((*source, 3), np.uint8)
    _, mask = weak_view(image, label, size, AugmentSettings(scale=(0.5, 2)), rng(seed))
    assert set(np.unique(mask)) <= set(np.unique(label)) | {VOID}


@pytest.mark.parametrize("value", [NOT_LABELLED, VOID])
@pytest.mark.parametrize("scale", [0.5, 1.0, 1.7])
def test_not_labelled_and_void_stay_what_they_are(value: int, scale: float) -> None:
    label = np.full((40, 60), value, np.uint8)
    image = np.zeros((40, 60, 3), np.uint8)
    _, mask = weak_view(image, label, (20, 30), AugmentSettings(scale=(scale, scale)), rng())
    assert (mask == value).all()


def test_padding_has_no_confidence() -> None:
    image, label = coordinates(10, 10)
    pair = np.dstack([label, np.full_like(label, 200)])
    pair = weak_view(image, pair, (20, 20), PLAIN, rng())[1]
    assert (pair[..., 0] == VOID).sum() == 300
    assert (pair[pair[..., 0] == VOID, 1] == 0).all()
    assert (pair[pair[..., 0] != VOID, 1] == 200).all()


@given(sizes, sizes)
def test_at_scale_one_the_view_is_a_crop_with_void_around_it(source: tuple[int, int], size: tuple[int, int]) -> None:
    image, label = coordinates(*source)
    view, mask = weak_view(image, label, size, PLAIN, rng())
    inside = mask != VOID
    assert (view[~inside] == PADDING).all()
    assert inside.sum() == min(source[0], size[0]) * min(source[1], size[1])
    assert np.array_equal(label[view[inside][:, 0], view[inside][:, 1]], mask[inside])


def test_a_flip_mirrors_and_nothing_else() -> None:
    image, label = coordinates(40, 60)
    view, mask = weak_view(image, label, (40, 60), AugmentSettings(scale=(1, 1), flip=1), rng())
    assert np.array_equal(view, image[:, ::-1])
    assert np.array_equal(mask, label[:, ::-1])


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_scaling_moves_pixels_about_the_corner_of_the_image(scale: float) -> None:
    matrix = crop_matrix((40, 60), (int(40 * scale), int(60 * scale)), scale, (0.3, 0.8), flip=False)
    corner, opposite = np.array([-0.5, -0.5, 1]), np.array([59.5, 39.5, 1])
    assert matrix @ corner == pytest.approx([-0.5, -0.5])
    assert matrix @ opposite == pytest.approx([60 * scale - 0.5, 40 * scale - 0.5])


@given(sizes, st.floats(0.3, 3), st.floats(0, 1), st.floats(0, 1), st.booleans())
def test_a_crop_lies_inside_the_image_or_the_image_inside_the_crop(
    source: tuple[int, int], scale: float, along_y: float, along_x: float, flip: bool
) -> None:
    size = (32, 32)
    matrix = crop_matrix(source, size, scale, (along_y, along_x), flip)
    ends = [matrix @ np.array([x, y, 1]) for y, x in ((-0.5, -0.5), (source[0] - 0.5, source[1] - 0.5))]
    for axis, length in ((1, source[0]), (0, source[1])):
        low, high = sorted(end[axis] for end in ends)
        assert high - low == pytest.approx(length * scale)
        if length * scale >= 32:
            assert low <= -0.5 + 1e-6
            assert high >= 31.5 - 1e-6
        else:
            assert low >= -0.5 - 1e-6
            assert high <= 31.5 + 1e-6


@pytest.mark.parametrize("settings", [AugmentSettings(), AugmentSettings(jitter=0.4)])
def test_the_same_generator_gives_the_same_view_and_inputs_are_not_mutated(settings: AugmentSettings) -> None:
    image, label = coordinates(50, 70)
    kept = image.copy(), label.copy()
    one, other = (weak_view(image, label, (32, 48), settings, rng(4)) for _ in range(2))
    assert np.array_equal(one[0], other[0])
    assert np.array_equal(one[1], other[1])
    assert np.array_equal(image, kept[0])
    assert np.array_equal(label, kept[1])
    different = weak_view(image, label, (32, 48), settings, rng(5))
    assert not np.array_equal(one[0], different[0])


def test_the_number_of_draws_does_not_depend_on_the_image() -> None:
    after = []
    for size in ((8, 9), (100, 50)):
        generator = rng(7)
        image, label = coordinates(*size)
        weak_view(image, label, (32, 32), AugmentSettings(jitter=0.4), generator)
        after.append(generator.random())
    assert after[0] == after[1]


def test_jitter_moves_brightness_contrast_and_saturation() -> None:
    image = rng().integers(60, 180, (30, 40, 3), dtype=np.uint8)
    views = [jitter(image, 0.5, rng(s)).astype(float) for s in range(40)]
    colourfulness = [np.ptp(v, axis=-1).mean() for v in views]
    assert np.std([v.mean() for v in views]) > 10
    assert np.std([v.std() for v in views]) > 3
    assert np.std(colourfulness) > 5
    assert np.array_equal(jitter(image, 0.0, rng()), image)


def test_every_place_of_the_crop_is_reached_equally_often() -> None:
    image, label = coordinates(8, 11)
    generator = rng()
    starts = [int(weak_view(image, label, (8, 8), PLAIN, generator)[0][0, 0, 1]) for _ in range(2000)]
    assert np.bincount(starts, minlength=4).min() > 400
    assert set(starts) == {0, 1, 2, 3}


@pytest.mark.parametrize("shape", [(12, 12), (8, 14)])
def test_turns_and_vertical_flips_are_those_of_image_and_label_together(shape: tuple[int, int]) -> None:
    label = np.arange(shape[0] * shape[1], dtype=np.uint8).reshape(shape)
    image = np.repeat(label[..., None], 3, 2)
    variants = set()
    for seed in range(60):
        settings = AugmentSettings(scale=(1, 1), flip=0, flip_vertical=0.5, rotate=0.75)
        view, mask = weak_view(image, label, (16, 16), settings, rng(seed))
        inside = mask != VOID
        np.testing.assert_array_equal(view[inside][:, 0], mask[inside])
        ys, xs = np.nonzero(inside)
        crop = mask[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
        variants.add(crop.tobytes() + bytes(crop.shape))
    expected = {
        (turned := np.ascontiguousarray(np.rot90(flipped, k))).tobytes() + bytes(turned.shape)
        for flipped in (label, label[::-1])
        for k in range(4)
    }
    assert variants == expected


def test_without_turns_the_draws_stay_as_they_were() -> None:
    image, label = np.zeros((20, 20, 3), np.uint8), np.zeros((20, 20), np.uint8)
    one, other = rng(3), rng(3)
    weak_view(image, label, (8, 8), AugmentSettings(), one)
    other.uniform(size=4)
    assert one.uniform() == other.uniform()
