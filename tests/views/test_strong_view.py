"""The strong view changes colours and sharpness and moves no pixel; what is cut out is void.

Shapes: h×w pixels of a view.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fewmask.config import CutoutSettings, NoiseSettings, StrongSettings, UniMatchStrongSettings
from fewmask.labels import NOT_LABELLED, VOID
from fewmask.views.augment import PADDING
from fewmask.views.strong import brightness, contrast, cutout, grey, hue, noisy_view, saturation, strong_view

PRESETS = [StrongSettings(), UniMatchStrongSettings()]
NEVER = StrongSettings(blur=0, jitter=0, grey=0, grey_needs_jitter=False)

sizes = st.tuples(st.integers(1, 40), st.integers(1, 40))
probabilities = st.sampled_from([0.0, 0.5, 1.0])
strong_settings = st.builds(
    StrongSettings,
    order=st.sampled_from(["either", "both"]),
    blur=probabilities,
    jitter=probabilities,
    grey=probabilities,
    grey_needs_jitter=st.booleans(),
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def picture(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    return rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def mask(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    return rng(seed).choice([0, 3, 11, NOT_LABELLED, VOID], size).astype(np.uint8)


# ── Blur, jitter, grey ───────────────────────────────────────────────────────────────────────────────────────────────


# Two colours in vertical halves of equal area: colour operations leave two, a blur makes more of them.
HALVES = np.full((16, 16, 3), (90, 60, 40), np.uint8)
HALVES[:, 8:] = (130, 160, 100)


def what_happened(settings: StrongSettings, seed: int) -> tuple[bool, bool, bool]:
    """Blurred, recoloured, made grey."""
    view = strong_view(HALVES, settings, rng(seed))
    is_grey = bool((np.ptp(view.astype(int), axis=-1) == 0).all())
    blurred = len(np.unique(view.reshape(-1, 3), axis=0)) > 2
    recoloured = not np.array_equal(view[0, 0], HALVES[0, 0])
    return blurred, recoloured, is_grey


def shares(settings: StrongSettings, draws: int = 600) -> dict[tuple[bool, bool, bool], float]:
    happened = [what_happened(settings, seed) for seed in range(draws)]
    return {event: happened.count(event) / draws for event in set(happened)}


@pytest.mark.parametrize(
    ("jitter", "needs", "expected"),
    [
        # (blurred, recoloured, grey): its probability
        (1.0, True, {(True, False, False): 0.5, (False, True, True): 0.375, (False, True, False): 0.125}),
        (
            0.5,
            True,
            {
                (True, False, False): 0.5,
                (False, True, True): 0.1875,
                (False, True, False): 0.0625,
                (False, False, False): 0.25,
            },
        ),
        (0.0, False, {(True, False, False): 0.5, (False, True, True): 0.375, (False, False, False): 0.125}),
        (0.0, True, {(True, False, False): 0.5, (False, False, False): 0.5}),
    ],
)
def test_either_blurs_or_recolours_with_the_given_probabilities(
    jitter: float, needs: bool, expected: dict[tuple[bool, bool, bool], float]
) -> None:
    frequencies = shares(StrongSettings(sigma=(1, 1), jitter=jitter, grey_needs_jitter=needs))
    assert frequencies == pytest.approx(expected, abs=0.08)


def test_both_recolours_and_blurs_independently() -> None:
    # Jitter's own share cannot be seen where the view is grey as well, so that here nothing becomes grey.
    frequencies = shares(UniMatchStrongSettings(sigma=(1, 1), grey=0))
    expected = {
        (True, True, False): 0.4,
        (True, False, False): 0.1,
        (False, True, False): 0.4,
        (False, False, False): 0.1,
    }
    assert frequencies == pytest.approx(expected, abs=0.08)
    grey_views = shares(UniMatchStrongSettings(jitter=0, blur=0))
    assert grey_views == pytest.approx({(False, True, True): 0.2, (False, False, False): 0.8}, abs=0.08)


@given(sizes, strong_settings, st.integers(0, 99))
def test_no_pixel_moves(size: tuple[int, int], settings: StrongSettings, seed: int) -> None:
    """Without blur each colour becomes one colour, wherever it stands."""
    few = rng(seed).integers(0, 256, (4, 3), dtype=np.uint8)
    which = rng(seed).integers(0, 4, size)
    view = strong_view(few[which], settings.model_copy(update={"blur": 0}), rng(seed))
    assert view.shape == (*size, 3)
    assert view.dtype == np.uint8
    for colour in np.unique(which):
        assert len(np.unique(view[which == colour], axis=0)) == 1


@given(sizes, st.floats(0.25, 2), st.integers(0, 99))
def test_the_blur_is_a_gaussian_of_the_drawn_width(size: tuple[int, int], sigma: float, seed: int) -> None:
    image = picture(size, seed)
    settings = NEVER.model_copy(update={"blur": 1, "sigma": (sigma, sigma)})
    reach = 12
    weights = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
    weights /= weights.sum()
    blurred = cv2.copyMakeBorder(image, reach, reach, reach, reach, cv2.BORDER_REFLECT_101).astype(float)
    for axis in (0, 1):
        blurred = np.apply_along_axis(np.convolve, axis, blurred, weights, mode="valid")
    assert np.abs(strong_view(image, settings, rng(seed)) - blurred).max() < 4


@pytest.mark.parametrize("settings", [*PRESETS, StrongSettings(blur=0, jitter=1)])
def test_the_same_generator_gives_the_same_view_and_inputs_are_not_mutated(settings: StrongSettings) -> None:
    image, label = picture((30, 40)), mask((30, 40))
    kept = image.copy(), label.copy()
    noise = NoiseSettings(strong=settings, cutout=CutoutSettings(side=7))
    views = []
    for seed in range(30):
        one, other = (noisy_view(image, label, noise, rng(seed)) for _ in range(2))
        assert np.array_equal(one[0], other[0])
        assert np.array_equal(one[1], other[1])
        views.append(one[0].tobytes())
    assert np.array_equal(image, kept[0])
    assert np.array_equal(label, kept[1])
    assert len(set(views)) > 20


@given(sizes, strong_settings, st.integers(0, 99))
def test_the_number_of_draws_depends_on_neither_image_nor_settings(
    size: tuple[int, int], settings: StrongSettings, seed: int
) -> None:
    one, other = rng(seed), rng(seed)
    noisy_view(picture(size), mask(size), NoiseSettings(strong=settings), one)
    noisy_view(picture((9, 9)), mask((9, 9)), NoiseSettings(strong=NEVER), other)
    assert one.random() == other.random()


def test_nothing_asked_for_is_nothing_changed() -> None:
    image, label = picture((20, 30)), mask((20, 30))
    assert np.array_equal(strong_view(image, NEVER, rng()), image)
    view, unchanged = noisy_view(image, label, NoiseSettings(strong=None, cutout=None), rng())
    assert np.array_equal(view, image)
    assert np.array_equal(unchanged, label)


def test_a_changed_key_leaves_the_other_ones_of_its_preset() -> None:
    one = UniMatchStrongSettings(blur=0.3)
    assert one == UniMatchStrongSettings().model_copy(update={"blur": 0.3})
    assert one.order == "both"
    for wrong in ({"sigma": (2, 1)}, {"brightness": 1.5}, {"hue": 0.6}, {"blur": -0.1}):
        with pytest.raises(ValidationError):
            UniMatchStrongSettings.model_validate(wrong)


# ── The four changes of colour, each against floating-point arithmetic pixel by pixel ────────────────────────────────


def luma(pixel: np.ndarray) -> float:
    return float(pixel @ (0.299, 0.587, 0.114))


def reference_brightness(image: np.ndarray, change: float) -> np.ndarray:
    return image * (1 + change)


def reference_contrast(image: np.ndarray, change: float) -> np.ndarray:
    mean = np.mean([luma(pixel) for pixel in image.reshape(-1, 3)])
    return mean + (image - mean) * (1 + change)


def reference_saturation(image: np.ndarray, change: float) -> np.ndarray:
    out = [luma(pixel) + (pixel - luma(pixel)) * (1 + change) for pixel in image.reshape(-1, 3)]
    return np.reshape(out, image.shape)


def reference_hue(image: np.ndarray, change: float) -> np.ndarray:
    out = []
    for pixel in image.reshape(-1, 3) / 255:
        h, s, v = colorsys.rgb_to_hsv(*pixel)
        out.append(colorsys.hsv_to_rgb((h + change) % 1, s, v))
    return np.reshape(out, image.shape) * 255


# One step of a hue in 256 moves a channel by up to 6; grey is rounded before saturation multiplies its error.
@pytest.mark.parametrize(
    ("operation", "reference", "within"),
    [
        (brightness, reference_brightness, 1),
        (contrast, reference_contrast, 2),
        (saturation, reference_saturation, 2),
        (hue, reference_hue, 9),
    ],
)
@pytest.mark.parametrize("change", [-1.0, -0.5, -0.2, 0.0, 0.13, 0.25, 0.8])
def test_each_change_of_colour_is_what_its_name_says(
    operation: Callable[[np.ndarray, float], np.ndarray],
    reference: Callable[[np.ndarray, float], np.ndarray],
    within: float,
    change: float,
) -> None:
    image = (picture((13, 17)) * (1, 0.6, 0.2)).astype(np.uint8)
    result = operation(image, change)
    assert result.dtype == np.uint8
    assert np.abs(result - np.clip(reference(image, change), 0, 255)).max() <= within
    if change == 0:
        assert np.array_equal(result, image)


def test_grey_is_the_luma() -> None:
    image = picture((8, 9))
    expected = np.array([[[luma(pixel)] * 3 for pixel in row] for row in image])
    assert np.abs(grey(image) - expected).max() <= 1


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
def test_each_strength_moves_its_own_colour_alone(name: str) -> None:
    strengths = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0, name: 0.5}
    settings = StrongSettings.model_validate({**strengths, "blur": 0, "jitter": 1, "grey": 0})
    image = picture((13, 17))
    views = [strong_view(image, settings, rng(seed)) for seed in range(20)]
    assert all(not np.array_equal(view, image) for view in views)
    operation = {"brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue}[name]
    reached = np.mean([np.abs(view.astype(int) - image).mean() for view in views])
    most = max(np.abs(operation(image, end).astype(int) - image).mean() for end in (-0.5, 0.5))
    assert 0.2 * most < reached < most


# ── Holes ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(sizes, st.integers(0, 3), st.integers(1, 50), st.integers(0, 99))
def test_holes_against_a_loop_over_pixels(size: tuple[int, int], holes: int, side: int, seed: int) -> None:
    image, label = picture(size, seed), mask(size, seed)
    kept = image.copy(), label.copy()
    view, cut = cutout(image, label, CutoutSettings(probability=1, holes=holes, side=side), rng(seed))
    same = rng(seed)
    same.uniform()
    centres = [(int(y * size[0]), int(x * size[1])) for y, x in same.uniform(size=(holes, 2))]
    for y in range(size[0]):
        for x in range(size[1]):
            inside = any(-(side // 2) <= y - cy < side - side // 2 and -(side // 2) <= x - cx < side - side // 2
                         for cy, cx in centres)  # fmt: skip
            assert tuple(view[y, x]) == (PADDING if inside else tuple(image[y, x]))
            assert cut[y, x] == (VOID if inside else label[y, x])
    assert np.array_equal(image, kept[0])
    assert np.array_equal(label, kept[1])


def test_holes_come_with_their_probability_and_everywhere() -> None:
    image, label = np.zeros((12, 10, 3), np.uint8), np.zeros((12, 10), np.uint8)
    generator = rng()
    cuts = np.array([cutout(image, label, CutoutSettings(side=1), generator)[1] for _ in range(4000)]) == VOID
    assert cuts.any((1, 2)).mean() == pytest.approx(0.5, abs=0.03)
    assert cuts.sum((1, 2)).max() == 1
    assert cuts.sum(0).min() > 2
