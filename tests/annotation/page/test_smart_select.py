"""Smart select: from what a person points at to scores of pixels.

Shapes: h×w pixels of a region's box · a×b cells of features.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pages
import pytest
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st
from pageclient import TOKEN, client_of

from fewmask.annotation.page.ahead import Ahead
from fewmask.annotation.page.features import Features
from fewmask.annotation.page.guided_filter import GuidedFilter
from fewmask.annotation.page.service import LabellingService
from fewmask.annotation.page.smart_select import ByFeatures, Frame, Point, Prompt, select


def shapes(size: tuple[int, int] = (64, 96)) -> tuple[np.ndarray, np.ndarray]:
    """A dark picture with a bright disc and a bright bar, and which pixel is of which (0, 1, 2)."""
    label = np.zeros(size, np.uint8)
    cv2.circle(label, (24, 30), 14, 1, -1)
    cv2.rectangle(label, (60, 10), (80, 50), 2, -1)
    noise = np.random.default_rng(0).integers(-4, 5, (*size, 3))
    colours = np.array([[20, 30, 25], [200, 60, 50], [40, 90, 210]])
    return np.clip(colours[label] + noise, 0, 255).astype(np.uint8), label


def features(label: np.ndarray, stride: int = 4) -> Features:
    """A network that tells the shapes apart, cell by cell."""
    height, width = (side // stride for side in label.shape)
    cells = np.eye(3, dtype=np.float32)[label].reshape(height, stride, width, stride, 3).mean(axis=(1, 3))
    return Features.of(cells, stride)


def points(*places: tuple[float, float, bool]) -> Prompt:
    return Prompt(points=[Point(y=y, x=x, belongs=belongs) for y, x, belongs in places])


def agreement(selected: np.ndarray, expected: np.ndarray) -> float:
    return float((selected & expected).sum() / (selected | expected).sum())


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_a_click_in_an_image_of_other_channels(channels: int) -> None:
    image, label = shapes()
    other = np.repeat(image[..., :1], channels, 2)
    scores = select(features(label), (0, 0, 64, 96), points((30, 24, True)), other)
    assert agreement(scores.values >= scores.threshold, label == 1) > 0.9


@pytest.mark.parametrize(("place", "value"), [((30, 24), 1), ((30, 70), 2), ((60, 48), 0)])
def test_a_click_finds_what_is_clicked_on_to_its_edges(place: tuple[float, float], value: int) -> None:
    image, label = shapes()
    scores = select(features(label), (0, 0, 64, 96), points((*place, True)), image)
    selected = scores.values >= scores.threshold
    assert agreement(selected, label == value) > 0.9
    # Cells of 4 pixels alone, enlarged, are worse: the edges come from the image.
    coarse = cv2.resize((features(label).values[..., value] > 0.5).astype(np.uint8), (96, 64), interpolation=0) > 0
    assert agreement(selected, label == value) > agreement(coarse, label == value)


def test_a_region_in_the_middle_of_an_image_is_scored_as_in_the_whole() -> None:
    image, label = shapes()
    whole = select(features(label), (0, 0, 64, 96), points((30, 24, True)), image)
    part = select(features(label), (5, 3, 55, 51), points((25, 21, True)), image)
    inner = np.s_[15:40, 15:40]  # away from the region's edge, where a window of the filter ends
    close = np.abs(part.values.astype(int)[inner] - whole.values[5:55, 3:51][inner].astype(int))
    assert close.max() <= 12 and part.values.shape == (50, 48)


def test_what_does_not_belong_is_taken_away() -> None:
    image, label = shapes()
    both = Features.of(np.where(features(label).values[..., :1] > 0.5, [1.0, 0, 0], [0, 1.0, 0.3]), 4)
    cells = both.values.copy()
    cells[:, 13:, 2] += np.float16(0.6)  # the bar is only a little unlike the disc
    alike = Features.of(cells, 4)
    box = (0, 0, 64, 96)
    first = select(alike, box, points((30, 24, True)), image)
    second = select(alike, box, points((30, 24, True), (30, 70, False)), image)
    bar = label == 2
    assert (first.values >= first.threshold)[bar].mean() > 0.9
    assert (second.values >= second.threshold)[bar].mean() < 0.1
    assert (second.values >= second.threshold)[label == 1].mean() > 0.8


def test_a_frame_holds_the_selection() -> None:
    image, label = shapes()
    frame = Frame(top=12, left=8, bottom=40, right=30)
    scores = select(features(label), (0, 0, 64, 96), Prompt(points=[], frame=frame), image)
    selected = scores.values >= scores.threshold
    inside = np.zeros_like(selected)
    inside[12:40, 8:30] = True
    assert not selected[~inside].any() and agreement(selected, (label == 1) & inside) > 0.9
    nothing = select(features(label), (0, 0, 64, 96), points((30, 24, False)), image)
    assert not (nothing.values >= nothing.threshold).any()


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_whatever_is_pointed_at_is_scored(data: st.DataObject) -> None:
    """Boxes of any size at any place, cells of any stride, and places beyond the box."""
    stride = data.draw(st.sampled_from([1, 2, 4, 7, 16]))
    height, width = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40))
    y0, x0 = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    box = (y0, x0, data.draw(st.integers(y0 + 1, height)), data.draw(st.integers(x0 + 1, width)))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    cells = rng.normal(size=(-(-height // stride), -(-width // stride), 3)).astype(np.float32)
    image = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
    place = st.floats(-1e6, 1e6)
    given_points = data.draw(st.lists(st.builds(Point, y=place, x=place, belongs=st.booleans()), max_size=3))
    frame = data.draw(st.none() | st.builds(Frame, top=place, left=place, bottom=place, right=place))
    scores = select(Features.of(cells, stride), box, Prompt(points=given_points, frame=frame), image)
    assert scores.values.shape == (box[2] - box[0], box[3] - box[1]) and scores.values.dtype == np.uint8


def test_the_filter_keeps_a_constant_and_is_the_same_at_a_smaller_size(monkeypatch: pytest.MonkeyPatch) -> None:
    image, label = shapes((256, 384))
    np.testing.assert_allclose(GuidedFilter(image, 4)(np.full(label.shape, 0.4, np.float32)), 0.4, atol=1e-3)
    values = cv2.GaussianBlur((label == 1).astype(np.float32), (0, 0), 4)
    exact = GuidedFilter(image, 8)(values)
    monkeypatch.setattr("fewmask.annotation.page.guided_filter.MOST_PIXELS", 128 * 192)
    assert np.abs(GuidedFilter(image, 8)(values) - exact).mean() < 0.02


# ── Ahead of need ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_features_are_made_once_and_the_oldest_are_forgotten() -> None:
    made: list[int] = []

    def make(_: str, image: np.ndarray) -> int:
        made.append(int(image[0]))
        return made[-1]

    ahead = Ahead(make, lambda _: 10, most_bytes=25)
    keys = [("a", str(n)) for n in range(3)]
    for n, key in enumerate(keys):
        begun = ahead.begin(key, lambda n=n: np.array([n]))
        assert begun is not None and begun.result() == n
    assert [ahead.has(key) for key in keys] == [False, True, True]
    assert [ahead.get(key, lambda n=n: np.array([n])) for n, key in enumerate(keys)][1:] == [1, 2]
    assert made == [0, 1, 2, 0, 1, 2]  # 0 put 1 out, and so on
    ahead.close()


def test_who_waits_for_what_is_being_made_gets_it_and_faults_are_told_and_tried_again() -> None:
    begun, go = threading.Event(), threading.Event()
    faults = [RuntimeError("no memory")]

    def make(_: str, image: np.ndarray) -> int:
        begun.set()
        assert go.wait(60)
        if faults:
            raise faults.pop()
        return 7

    ahead = Ahead(make, lambda _: 1)
    first = ahead.begin(("a", "b"), lambda: np.zeros(1))
    assert first is not None and begun.wait(60)
    assert ahead.begin(("a", "b"), lambda: np.zeros(1)) is first
    go.set()
    with pytest.raises(RuntimeError, match="no memory"):
        first.result()
    assert ahead.get(("a", "b"), lambda: np.zeros(1)) == 7
    ahead.close()


# ── The page's server ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def client(tmp_path: Path) -> Any:
    service = LabellingService(pages.ask(tmp_path, pages.streets(1), "superpixels:12"), None, pages.selector())
    yield client_of(service, raises=False)
    service.close()


def test_the_server_scores_the_box_of_a_question(client: TestClient) -> None:
    assert client.get(f"/{TOKEN}/api/session").json()["selects"] is True
    y0, x0, y1, x1 = client.get(f"/{TOKEN}/api/questions/1").json()["box"]
    assert client.get(f"/{TOKEN}/api/prepared/1").json() == {}
    response = client.post(f"/{TOKEN}/api/selections/1", json={"points": [{"y": 3, "x": 4, "belongs": True}]})
    assert response.status_code == 200 and len(response.content) == 1 + (y1 - y0) * (x1 - x0)
    assert response.content[1 + 3 * (x1 - x0) + 4] >= response.content[0] > 0


@pytest.mark.parametrize(
    "body",
    [
        "{}",
        '{"points": [{"y": 1, "x": NaN}]}',
        '{"points": [{"y": 1, "x": 1e99}]}',
        '{"points": [{"y": "1", "x": 1}]}',
        '{"points": [], "frame": {"top": 1}}',
        '{"points": [' + ",".join(['{"y": 1, "x": 1}'] * 65) + "]}",
        "[]",
        "points",
    ],
)
def test_what_is_no_prompt_is_refused(client: TestClient, body: str) -> None:
    headers = {"Content-Type": "application/json"}
    response = client.post(f"/{TOKEN}/api/selections/1", content=body, headers=headers)
    assert response.status_code == 422 and response.json()["error"]


def test_without_a_network_nothing_is_selected_and_what_fails_is_told(tmp_path: Path) -> None:
    run = pages.ask(tmp_path, pages.streets(1), "squares:24")

    def fail(_: str, image: np.ndarray) -> Features:
        raise RuntimeError("out of memory")

    for selector, status, words in ((None, 404, "--sam"), (ByFeatures(fail), 409, "out of memory")):
        service = LabellingService(run, None, selector)
        client = client_of(service, raises=False)
        assert client.get(f"/{TOKEN}/api/session").json()["selects"] is (selector is not None)
        response = client.post(f"/{TOKEN}/api/selections/1", json={"points": [{"y": 3, "x": 4}]})
        assert response.status_code == status and words in response.json()["error"]
        assert client.get(f"/{TOKEN}/api/prepared/99").status_code == 404
        service.close()
