"""Pseudo-labels on disk, and what beats them.

Shapes: H×W pixels of an image.
"""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fewmask.data.pseudo import HUMAN, STEPS, PseudoFolder, merge, quantise
from fewmask.labels import NOT_LABELLED, VOID

probabilities = st.floats(0, 1, width=32)


@given(probability=probabilities, threshold=st.floats(0, 1))
@example(probability=float(np.nextafter(np.float32(0.7), np.float32(0))), threshold=0.7)
@example(probability=1.0, threshold=1.0)
@example(probability=0.0, threshold=0.0)
@example(probability=float(np.nextafter(np.float32(1), np.float32(0))), threshold=1.0)
def test_no_pixel_passes_a_threshold_that_it_does_not_reach(probability: float, threshold: float) -> None:
    stored = quantise(np.full((1, 1), probability, np.float32))
    label, _ = merge(np.full((1, 1), NOT_LABELLED, np.uint8), np.ones((1, 1), np.uint8), stored, threshold)
    if label[0, 0] == 1:
        assert probability >= threshold
    else:
        assert probability < threshold + 1 / STEPS  # rounding down loses less than a step


def test_every_step_and_its_neighbours_in_fp32_are_rounded_down() -> None:
    steps = (np.arange(STEPS + 1) / STEPS).astype(np.float32)
    near = np.concatenate([steps, np.nextafter(steps, np.float32(0)), np.nextafter(steps, np.float32(1))])
    expected = [math.floor(Fraction(float(p)) * STEPS) for p in near]
    np.testing.assert_array_equal(quantise(near), expected)


def test_what_people_said_beats_any_pseudo_label() -> None:
    answers = np.array([[2, VOID, NOT_LABELLED, NOT_LABELLED]], np.uint8)
    pseudo = np.array([[1, 1, 1, 1]], np.uint8)
    confidence = np.array([[254, 254, 178, 177]], np.uint8)  # 0.7 · 254 = 177.8
    before = [values.copy() for values in (answers, pseudo, confidence)]
    label, sure = merge(answers, pseudo, confidence, 0.7)
    assert label.tolist() == [[2, VOID, 1, NOT_LABELLED]]
    assert sure.tolist() == [[HUMAN, HUMAN, 178, 177]]
    assert label.dtype == sure.dtype == np.uint8
    for values, was in zip((answers, pseudo, confidence), before, strict=True):
        np.testing.assert_array_equal(values, was)


def test_a_folder_gives_back_what_was_written(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    label, confidence = rng.integers(0, 19, (7, 5), np.uint8), rng.integers(0, 255, (7, 5), np.uint8)
    folder = PseudoFolder(tmp_path / "pseudo")
    for stem in ("one", "drive/frame.01"):
        folder.write(stem, label, confidence)
        for got, given_ in zip(folder.read(stem), (label, confidence), strict=True):
            np.testing.assert_array_equal(got, given_)
    with pytest.raises(ValueError, match=r"other\.label\.png: cannot be read"):
        folder.read("other")
