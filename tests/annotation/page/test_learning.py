"""Guesses that learn while people answer.

Shapes: h×w pixels of a region's box · a×b cells of features · N cells.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import campaigns
import numpy as np
import pages
import pytest
import torch
from ondisk import write_domain
from pageclient import TOKEN, client_of, get
from test_page import answers, questions, sent

from fewmask.annotation.page.ahead import Ahead
from fewmask.annotation.page.features import Box, Features
from fewmask.annotation.page.guesses import Guesses
from fewmask.annotation.page.head import Head, expected, interpolated
from fewmask.annotation.page.learning import Cells, Labelled, Learner, cells_of, fit, labelled
from fewmask.annotation.page.rle_codec import decode
from fewmask.annotation.page.service import LabellingService, Run, Sent
from fewmask.annotation.questions import Question
from fewmask.campaigns import campaign
from fewmask.config import AnswerSettings
from fewmask.engine.guess import predictor
from fewmask.engine.run import load_domains, load_model
from fewmask.labels import NOT_LABELLED, VOID, Mask
from fewmask.runs import RunFolder

CLASSES = 3
RNG = np.random.default_rng(0)
PLACES = RNG.normal(size=(CLASSES, 8)).astype(np.float32) * 2


def cells(label: np.ndarray, shift: float = 0.0, seed: int = 0) -> np.ndarray:
    """Cells (…,8) around the place of each one's class, which may have moved."""
    noise = np.random.default_rng(seed).normal(size=(*label.shape, 8)) * 0.3
    return (PLACES[label] + noise + shift).astype(np.float16)


def right(head: Head, values: np.ndarray, label: np.ndarray) -> float:
    return float(((values.astype(np.float32) @ head.weight + head.bias).argmax(-1) == label).mean())


def own() -> Head:
    """A head that knows the classes where they were, and takes the last for the first."""
    order = PLACES.copy()
    order[2] = order[0] - 1
    return Head(order.T.copy(), -(order**2).sum(1) / 2)


NONE = Cells(np.zeros((0, 8), np.float16), np.zeros(0, np.int64))


def test_a_fit_learns_what_was_answered_and_forgets_nothing() -> None:
    wrong = np.full(300, 2)
    answered = Cells(cells(wrong), wrong)
    others = RNG.integers(0, 2, 600)
    before = Cells(cells(others, seed=1), others)
    assert right(own(), cells(wrong, seed=2), wrong) < 0.5
    learned = fit(own(), answered, before)
    assert right(learned, cells(wrong, seed=2), wrong) > 0.95
    assert right(learned, cells(others, seed=3), others) > 0.95
    # Without them it takes more for what was just answered.
    alone = fit(own(), answered, NONE)
    assert right(alone, cells(others, seed=3), others) <= right(learned, cells(others, seed=3), others)
    same = fit(own(), answered, before)
    np.testing.assert_array_equal(learned.weight, same.weight)


def test_the_newest_answers_count_the_most() -> None:
    """The same cells, first of one class, then of another: what was said last stands."""
    values = cells(np.full(4000, 0))
    label = np.repeat([1, 2], 2000)
    learned = fit(own(), Cells(values, label), NONE)
    assert right(learned, cells(np.full(500, 0), seed=5), np.full(500, 2)) > 0.8


@pytest.mark.parametrize("stride", [1, 4])
def test_cells_are_those_below_the_pixels_that_have_a_class(stride: int) -> None:
    label = np.repeat(np.repeat(RNG.integers(0, CLASSES, (6, 8)), 4, 0), 4, 1)
    features = Features.of(np.eye(CLASSES, dtype=np.float32)[label[::stride, ::stride]], stride)
    values = label[5:21, 7:30].astype(np.uint8)
    values[:, :4], values[:3] = NOT_LABELLED, VOID
    sample = cells_of(features, (5, 7, 21, 30), values, CLASSES, 50)
    assert 45 <= len(sample.label) <= 50
    np.testing.assert_array_equal(sample.values.argmax(1), sample.label)
    assert len(cells_of(features, (5, 7, 21, 30), np.full_like(values, VOID), CLASSES, 50).label) == 0
    # A single pixel, at the image's very end.
    assert cells_of(features, (23, 31, 24, 32), label[-1:, -1:].astype(np.uint8), CLASSES, 50).label == [label[-1, -1]]


@pytest.mark.parametrize("box", [(0, 0, 24, 36), (3, 5, 20, 31), (23, 35, 24, 36)])
def test_a_head_is_interpolated_as_in_the_network(box: Box) -> None:
    rng = np.random.default_rng(3)
    logits = rng.normal(size=(1, CLASSES, 6, 9)).astype(np.float32)
    large = torch.nn.functional.interpolate(torch.from_numpy(logits), scale_factor=4, mode="bilinear")[0].softmax(0)
    features = Features.of(logits[0].transpose(1, 2, 0), 4)
    found = interpolated(Head(np.eye(CLASSES, dtype=np.float32), np.zeros(CLASSES, np.float32)), features, box)
    y0, x0, y1, x1 = box
    values, ranked = large[:, y0:y1, x0:x1].topk(2, dim=0)
    np.testing.assert_allclose(found.probability, values[0].numpy(), atol=2e-2)
    assert (found.label == ranked[0].numpy()).mean() > 0.97
    assert (found.second == ranked[1].numpy()).mean() > 0.95 and (found.second != found.label).all()


def test_a_prediction_follows_the_edges_of_the_image() -> None:
    """The image changes within a cell, where the network's classes cannot."""
    truth = np.zeros((32, 48), np.uint8)
    truth[9:, :] = 1
    truth[:, 30:] = 2
    image = np.array([[40, 90, 200], [180, 40, 60], [60, 200, 80]], np.uint8)[truth]
    shares = np.eye(3, dtype=np.float32)[truth].reshape(4, 8, 6, 8, 3).mean((1, 3))
    head = Head(4 * np.eye(3, dtype=np.float32), np.zeros(3, np.float32))
    features, box = Features.of(np.eye(3, dtype=np.float32)[shares.argmax(2)], 8), (2, 4, 30, 46)
    aligned = expected(head, features, box, image)
    right = aligned.label == truth[2:30, 4:46]
    assert right.mean() > 0.995 > 0.97 > (interpolated(head, features, box).label == truth[2:30, 4:46]).mean()
    assert (aligned.second != aligned.label).all()
    assert aligned.probability.min() > 0 and aligned.probability.max() <= 1


def test_where_there_is_one_class_it_is_the_second_likeliest_too() -> None:
    features, image = Features.of(np.ones((2, 2, 3), np.float32), 4), np.zeros((8, 8, 3), np.uint8)
    found = expected(Head(np.ones((3, 1), np.float32), np.zeros(1, np.float32)), features, (0, 0, 8, 8), image)
    assert not found.label.any() and not found.second.any() and (found.probability > 0.999).all()


# ── A learner in a thread of its own ─────────────────────────────────────────────────────────────────────────────────

SIDE = 24


def features_of(_: str, image: np.ndarray) -> Features:
    """The class of a cell is in its red channel."""
    return Features.of(cells(image[::4, ::4, 0].astype(np.int64)), 4)


def picture(label: np.ndarray) -> np.ndarray:
    return np.repeat(label[..., None], 3, 2).astype(np.uint8)


def question_about(number: int, stem: str) -> Question:
    return Question("d", stem, "squares:24", number, (0, 0, SIDE, SIDE), id=number)


@pytest.fixture
def ahead() -> Iterator[Ahead[Features]]:
    made = Ahead(features_of, lambda one: one.bytes)
    yield made
    made.close()


def test_a_learner_hears_answers_corrections_and_retractions(ahead: Ahead[Features]) -> None:
    image = picture(np.full((SIDE, SIDE), 2))
    learner = Learner(ahead, lambda _: own())
    assert learner.expected(question_about(2, "b"), lambda: image) is None and learner.version == 0
    learner.learn_from(question_about(1, "a"), lambda: np.full((SIDE, SIDE), 2, np.uint8), lambda: image)
    learner.settle()
    guess = learner.expected(question_about(2, "b"), lambda: image)
    assert guess is not None and (guess.label == 2).mean() > 0.9 and learner.version == 1
    learner.learn_from(
        question_about(1, "a"), lambda: np.full((SIDE, SIDE), 1, np.uint8), lambda: image
    )  # a correction
    learner.settle()
    guess = learner.expected(question_about(2, "b"), lambda: image)
    assert guess is not None and (guess.label == 1).mean() > 0.9
    learner.learn_from(question_about(1, "a"), lambda: None, lambda: image)  # taken back
    learner.settle()
    assert learner.expected(question_about(2, "b"), lambda: image) is None and learner.version == 3
    assert learner.likely(question_about(2, "b"), lambda: image).label.shape == (
        SIDE,
        SIDE,
    )  # by the network's own head
    assert learner.expected(Question("other", "b", "k", 1, (0, 0, 4, 4)), lambda: image) is None
    learner.close()


def test_what_was_labelled_before_is_seen_too(ahead: Ahead[Features]) -> None:
    mask = np.tile(np.repeat([0, 1], SIDE // 2), (SIDE, 1)).astype(np.uint8)
    reads: list[str] = []

    def read(stem: str) -> np.ndarray:
        reads.append(stem)
        return picture(mask)

    examples = [Labelled(stem, lambda stem=stem: read(stem), lambda: mask) for stem in "xyz"]
    learner = Learner(ahead, lambda _: own(), lambda _: examples)
    values = np.full((SIDE, SIDE), 2, np.uint8)
    for number in range(5):
        learner.learn_from(question_about(number, "a"), lambda: values, lambda: picture(values))
        learner.settle()
    assert reads == ["x", "y", "z"]  # one with every fit
    guess = learner.expected(question_about(9, "x"), lambda: picture(mask))
    assert guess is not None and (guess.label == mask).mean() > 0.8
    learner.close()


def test_answers_are_never_waited_for_and_faults_are_told(
    ahead: Ahead[Features], caplog: pytest.LogCaptureFixture
) -> None:
    go = threading.Event()

    def slow(_: str) -> Head:
        assert go.wait(60)
        raise RuntimeError("no memory")

    learner = Learner(ahead, slow)
    image = picture(np.zeros((SIDE, SIDE)))
    for number in range(20):
        learner.learn_from(
            question_about(number, "a"), lambda: np.zeros((SIDE, SIDE), np.uint8), lambda: image
        )  # it would wait for ever
    go.set()
    learner.settle()
    assert "no memory" in caplog.text and learner.version == 0
    learner.close()


def test_what_cannot_be_read_is_told_and_the_rest_is_learned(
    ahead: Ahead[Features], caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> np.ndarray:
        raise ValueError("b.png is damaged")

    image, twos = picture(np.full((SIDE, SIDE), 2)), np.full((SIDE, SIDE), 2, np.uint8)
    hold = threading.Event()

    def head(_: str) -> Head:
        assert hold.wait(60)
        return own()

    learner = Learner(ahead, head, lambda _: [Labelled("b", broken, lambda: twos)])
    learner.learn_from(question_about(1, "a"), lambda: twos - 1, lambda: image)
    hold.set()
    learner.settle()
    hold.clear()
    learner.learn_from(
        question_about(4, "a"), lambda: None, lambda: image
    )  # waits, and what follows is heard with the next fit
    learner.learn_from(question_about(2, "b"), lambda: twos, broken)
    learner.learn_from(question_about(1, "a"), lambda: None, lambda: image)
    learner.learn_from(question_about(3, "c"), lambda: twos, lambda: image)
    hold.set()
    learner.settle()
    learner.settle()
    assert "question 2" in caplog.text and "b.png is damaged" in caplog.text
    guess = learner.expected(question_about(9, "d"), lambda: image)
    assert guess is not None and (guess.label == 2).all()  # nothing of what was taken back
    learner.close()
    learner.learn_from(
        question_about(5, "a"), lambda: twos, lambda: image
    )  # an answer that comes while the page is closed is no error


def test_images_that_were_labelled_before_are_spread_over_all() -> None:
    domain = pages.streets(1)
    stems = tuple(f"s{i:02}" for i in range(15))
    chosen = [image.stem for image in labelled(replace(domain, labelled=stems))]
    assert chosen[0] == "s00" and chosen[-1] == "s14" and len(chosen) == 8
    assert labelled(replace(domain, labelled=())) == []


# ── At the page ──────────────────────────────────────────────────────────────────────────────────────────────────────


def colours(_: str, image: np.ndarray) -> Features:
    height, width = image.shape[0] // 4, image.shape[1] // 4
    return Features.of(image[: 4 * height : 4, : 4 * width : 4].astype(np.float32) / 64, 4)


def test_open_questions_get_new_guesses_and_answers_stay(tmp_path: Path) -> None:
    domain = pages.streets(1)
    run = pages.ask(tmp_path, domain, "squares:24")
    classes = domain.space.num_classes
    start = Head(np.zeros((3, classes), np.float32), np.zeros(classes, np.float32))
    learner = Learner(Ahead(colours, lambda one: one.bytes), lambda _: start)
    service = LabellingService(run, Guesses(tmp_path / "guesses", pages.predictor(domain)), None, learner)
    client = client_of(service)
    first, second, _ = questions(run)
    old = get(client, f"guesses/{second.id}")
    assert get(client, "session")["learns"] is True and get(client, "session")["learned"] == 0
    entry = sent(service, first, 2)
    assert client.post(f"/{TOKEN}/api/answers", json=entry).status_code == 200
    learner.settle()
    assert get(client, "changes/0")["learned"] == 1
    new = get(client, f"guesses/{second.id}")
    assert (decode(new["values"], second.size) == 2).mean() > 0.9 and 0 < new["confidence"] <= 1
    assert new != old
    client.post(f"/{TOKEN}/api/answers", json=sent(service, second, 4))
    learner.settle()
    np.testing.assert_array_equal(answers(run)[0].values, np.full(first.size, 2))
    assert [a.question for a in answers(run)] == [first.id, second.id]
    assert answers(run)[0].token == entry["token"]
    service.close()


def test_what_is_learned_is_what_stands_by_the_campaigns_rule(tmp_path: Path) -> None:
    domain = pages.streets(1)
    run = replace(pages.ask(tmp_path, domain, "squares:24"), rule=AnswerSettings(each=3, decide="majority"))
    classes = domain.space.num_classes
    start = Head(np.zeros((3, classes), np.float32), np.zeros(classes, np.float32))
    learner = Learner(Ahead(colours, lambda one: one.bytes), lambda _: start)
    service = LabellingService(run, None, None, learner)
    first, second, _ = questions(run)

    def guess_after(**changes: Any) -> Mask | None:
        service.take(Sent.model_validate(sent(service, first, **changes)))
        learner.settle()
        guess = learner.expected(second, lambda: domain.image(second.stem))
        return None if guess is None else guess.label

    def mostly(label: Mask | None, value: int) -> bool:
        return label is not None and bool((label == value).mean() > 0.9)

    ann = guess_after(value=2, annotator="ann", token="the-token-1")
    assert mostly(ann, 2)
    assert mostly(guess_after(value=2, annotator="bob", token="the-token-2"), 2)
    assert mostly(guess_after(value=3, annotator="cyd", token="the-token-3"), 2)  # two of three
    back = guess_after(annotator="cyd", token="the-token-4", kind="retract", values=None, takes_back="the-token-3")
    assert mostly(back, 2)
    service.close()


# ── In a campaign ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
def test_the_next_round_trains_as_if_nothing_had_learned(tmp_path: Path) -> None:
    """Bit for bit: one campaign is answered at a page whose guesses learn, one at a page whose guesses do not."""
    data = write_domain(tmp_path / "a").parent
    runs = []
    for learns in (True, False):
        by_people: dict[str, Any] = {"annotator": "people", "ask": campaigns.SQUARES, "rounds": 2}
        config, folder = campaigns.settings(data, domains=["a"], **by_people), tmp_path / f"run-{learns}"
        assert campaign(config, folder)["state"] == "waiting"
        domains, network = load_domains(config), predictor(folder)
        assert network is not None and network.encode is not None and network.head is not None
        features = Ahead(network.encode, lambda one: one.bytes)
        learner = Learner(features, network.head, lambda name, domains=domains: labelled(domains[name]))
        run = Run("run", RunFolder(folder).ledger, domains, "regions")
        service = LabellingService(run, Guesses(folder / "guesses", network), None, learner if learns else None)
        for question in campaigns.questions_of(folder):
            service.take(Sent(**sent(service, question, question.id % 2)))
        learner.settle()
        assert (learner.version > 0) == learns
        assert service.guess(1)["values"]
        service.close()
        assert campaign(config, folder)["state"] == "done"
        runs.append(folder)
    campaigns.assert_same_campaign(*runs)


def test_a_head_says_what_the_network_says(tmp_path: Path) -> None:
    """Before anything is learned, from features and head as from the network itself."""
    data = write_domain(tmp_path / "a").parent
    config = campaigns.settings(data, domains=["a"], rounds=1)
    campaign(config, tmp_path / "run")
    domain, network = load_domains(config)["a"], predictor(tmp_path / "run")
    assert network is not None and network.encode is not None and network.head is not None
    image = domain.image(domain.splits["train"][0])
    model = load_model(tmp_path / "run")
    with torch.inference_mode():
        features = model.encode(torch.from_numpy(image)[None].permute(0, 3, 1, 2), "a")
        probability, label = model.logits(features, "a", image.shape[:2])[0].softmax(0).max(0)
    found = interpolated(network.head("a"), network.encode("a", image), (0, 0, *image.shape[:2]))
    np.testing.assert_allclose(found.probability, probability, atol=2e-2)
    assert (found.label == label.numpy()).mean() > 0.97
