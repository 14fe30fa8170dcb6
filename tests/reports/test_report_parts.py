"""What a report computes beside a run: calibration, spreads, cells, stripes and similarities."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fewmask.annotation.questions import Answer, Question
from fewmask.engine.metrics import expected_calibration_error, reliability
from fewmask.reports.asking import _time
from fewmask.reports.colours import hatched
from fewmask.reports.evaluation import spread
from fewmask.reports.space import _draw, class_similarity


@given(st.lists(st.tuples(st.floats(0, 1, width=32), st.booleans()), max_size=60), st.integers(1, 20))
@settings(max_examples=50, deadline=None)
def test_calibration_against_a_loop(pairs: list[tuple[float, bool]], bins: int) -> None:
    sure, right = torch.tensor([p for p, _ in pairs]), torch.tensor([r for _, r in pairs], dtype=torch.bool)
    cells: dict[int, list[tuple[float, bool]]] = {}
    for p, r in pairs:
        place = next(b for b in range(bins) if p * bins <= b + 1)
        cells.setdefault(place, []).append((p, r))
    gaps = [abs(sum(p - r for p, r in cell)) for cell in cells.values()]
    expected = sum(gaps) / len(pairs) if pairs else None
    table = reliability(sure, right, bins)
    assert table[:, 0].tolist() == [len(cells.get(b, ())) for b in range(bins)]
    assert expected_calibration_error(table) == (None if expected is None else pytest.approx(expected, abs=1e-6))


@given(st.integers(0, 50), st.integers(1, 60))
def test_a_spread_is_even_and_in_order(count: int, few: int) -> None:
    numbers = spread(range(count), few)
    assert len(numbers) == min(count, few) and numbers == sorted(set(numbers))
    assert not numbers or numbers[0] == 0
    assert all(b - a <= -(-count // len(numbers)) for a, b in pairwise(numbers))


def test_no_class_has_more_cells_than_its_share() -> None:
    label = np.array([0] * 50 + [1] * 3 + [254] * 20 + [255] * 20, np.uint8)
    kept = _draw(label, np.full(256, 5), np.random.Generator(np.random.Philox(1)))
    assert np.bincount(label[kept]).tolist() == [5, 3]


@pytest.mark.parametrize("width", [48, 320, 2048])
def test_what_has_no_label_is_striped_at_every_size(width: int) -> None:
    grey = np.full((16, width, 3), 128, np.uint8)
    where = np.zeros((16, width), bool)
    where[8:] = True
    picture = hatched(grey, where)
    assert (picture[:8] == 128).all() and set(np.unique(picture[8:])) == {0, 255}
    runs_ = np.diff(np.flatnonzero(np.diff(picture[8, :, 0].astype(int))))
    assert set(runs_.tolist()) == {3 * -(-width // 320)}


def test_class_similarity_against_a_loop() -> None:
    from fewmask.reports.space import Cells

    rng = np.random.Generator(np.random.Philox(2))
    vectors, label = rng.normal(size=(30, 4)), rng.integers(0, 3, 30)
    similarity = class_similarity(Cells([vectors], label), 0, 4)
    means = [vectors[label == c].mean(0) for c in range(3)]
    centre = np.mean(means, axis=0)
    for i in range(3):
        for j in range(3):
            a, b = means[i] - centre, means[j] - centre
            assert similarity[i, j] == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    assert np.isnan(similarity[3]).all()


def test_time_that_nobody_measured_has_no_chart() -> None:
    question = Question("a", "a-0", "squares:4", 0, (0, 0, 4, 4), id=1)
    assert _time([question], [Answer(1, "ada", "painted")]) is None
    chart = _time([question], [Answer(1, "ada", "page", seconds=90.0)])
    assert chart is not None and "by 1 annotator" in chart.caption
