"""The mean self-confidence of labels, against a loop over pixels.

Shapes: h×w pixels.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from fewmask.acquisition.self_confidence import mean_self_confidence
from fewmask.labels import NOT_LABELLED, VOID


@st.composite
def answers(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Given labels, predicted classes and their probabilities, with unlabelled and unpredicted pixels."""
    classes, shape = draw(st.integers(1, 5)), draw(array_shapes(min_dims=2, max_dims=2, max_side=6))
    values = st.sampled_from([*range(classes), NOT_LABELLED, VOID])
    given_labels, predicted = (draw(arrays(np.uint8, shape, elements=values)) for _ in range(2))
    probability = draw(arrays(np.float32, shape, elements=st.floats(0, 1, width=32)))
    return given_labels, predicted, probability, classes


def reference(labels: np.ndarray, predicted: np.ndarray, probability: np.ndarray, classes: int) -> float | None:
    parts = []
    for y, x in np.ndindex(labels.shape):
        if labels[y, x] in (NOT_LABELLED, VOID) or predicted[y, x] in (NOT_LABELLED, VOID):
            continue
        distribution = [(1 - float(probability[y, x])) / max(classes - 1, 1)] * classes
        distribution[predicted[y, x]] = float(probability[y, x])
        parts.append(distribution[labels[y, x]])
    return sum(parts) / len(parts) if parts else None


@given(answers())
def test_the_score_is_the_mean_over_pixels(case: tuple[np.ndarray, np.ndarray, np.ndarray, int]) -> None:
    score, expected = mean_self_confidence(*case), reference(*case)
    assert (score is None) == (expected is None)
    assert score is None or score == pytest.approx(expected, abs=1e-6)


@given(answers())
def test_no_label_gets_more_than_the_prediction_itself(case: tuple[np.ndarray, np.ndarray, np.ndarray, int]) -> None:
    labels, predicted, probability, classes = case
    probability = np.maximum(probability, 1 / classes)  # the most likely class is no less likely than the others
    score = mean_self_confidence(labels, predicted, probability, classes)
    agreeing = np.where(labels < classes, predicted, labels)
    best = mean_self_confidence(agreeing, predicted, probability, classes)
    assert (score is None) == (best is None)
    assert score is None or best is None or 0 <= score <= best + 1e-6


def test_a_sure_contradiction_is_lower_than_an_unsure_one() -> None:
    labels, predicted = np.zeros((2, 2), np.uint8), np.ones((2, 2), np.uint8)
    sure, unsure = (mean_self_confidence(labels, predicted, np.full((2, 2), p), 3) for p in (0.9, 0.4))
    assert sure == pytest.approx(0.05) and unsure == pytest.approx(0.3)
    assert mean_self_confidence(np.full((2, 2), VOID, np.uint8), predicted, np.ones((2, 2)), 3) is None
