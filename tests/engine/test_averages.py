"""The moving average as the network that answers, and weights of classes in the cross-entropy.

Shapes: C classes · K domains.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import domains, model, needs, steps
from hypothesis import given
from hypothesis import strategies as st
from ondisk import assert_same_run, plain, summary_of, two_domains, weights_of
from torch import Tensor, nn

from fewmask.config import ClassWeightSettings, Config, LossSettings
from fewmask.data.batch import Batch, count_pixels
from fewmask.data.frequency import class_pixels, class_weights
from fewmask.data.frequency import weights_of as weights_of_counts
from fewmask.engine import fit
from fewmask.engine.checkpoint import load_state
from fewmask.engine.fit import ProgressEvent, train
from fewmask.engine.run import load_domains
from fewmask.labels import NOT_LABELLED, VOID
from fewmask.methods import METHODS, build, parse_config
from fewmask.methods.common.base import supervised_loss

# ── The moving average ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_domains(tmp_path_factory.mktemp("data"))


def small(data: Path, method: str | dict[str, Any] = "joint", **changes: Any) -> Config:
    settings = plain(data, method, **changes)
    return parse_config(settings)


def last_fit(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    made: list[Any] = []
    start = fit._Fit.__init__
    monkeypatch.setattr(fit._Fit, "__init__", lambda self, *given: (start(self, *given), made.append(self))[0])
    return made


def test_the_average_is_that_of_a_plain_loop_buffers_too(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, students = last_fit(monkeypatch), []
    config = small(data, steps=8, average={"lag": 0.25, "answers": "average"})  # two steps behind: momentum 1/2

    def collect(event: ProgressEvent) -> None:
        if event.stage != "evaluate" and event.step > len(students):
            students.append({n: v.clone().double() for n, v in made[0].model.state_dict().items()})

    train(config, tmp_path / "run", collect)
    assert len(students) == 8
    expected = students[0]
    for step, student in enumerate(students[1:], start=1):
        kept = min(1 - 1 / (step + 1), 1 / 2)
        expected = {n: kept * v + (1 - kept) * student[n] for n, v in expected.items()}
    answers = weights_of(tmp_path / "run")
    moved = [n for n, v in answers.items() if v.is_floating_point() and not torch.equal(v.double(), students[-1][n])]
    assert any("running_mean" in name for name in moved)
    assert any("weight" in name for name in moved)
    for name, value in answers.items():
        if value.is_floating_point():
            torch.testing.assert_close(value.double(), expected[name], rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("lag", [0.25, 0.02])
def test_training_is_not_changed_by_it(lag: float, data: Path, tmp_path: Path) -> None:
    train(small(data, steps=4), tmp_path / "plain")
    train(small(data, steps=4, average={"lag": lag}), tmp_path / "averaged")
    states = [load_state(tmp_path / name / "state" / "last.pt") for name in ("plain", "averaged")]
    for name, value in states[0]["model"].items():
        assert torch.equal(value, states[1]["model"][name]), name


@pytest.mark.parametrize("wins", ["average", "last"])
def test_validation_takes_the_better_one(
    wins: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, real = last_fit(monkeypatch), fit.evaluate

    def judged(network: nn.Module, of: Any, split: str, **options: Any) -> dict[str, Any]:
        report = real(network, of, split, **options)
        chosen = network is made[0].answering[wins]["model"]
        for scores in report["domains"].values():
            scores["miou"] = 0.9 if chosen else 0.1
        return report

    monkeypatch.setattr(fit, "evaluate", judged)
    summary = train(small(data, steps=4, average={"lag": 0.5}), tmp_path / "run")
    state = load_state(tmp_path / "run" / "state" / "last.pt")
    prefix = "model.model." if wins == "average" else ""
    source = state["average"] if wins == "average" else state["model"]
    for name, value in weights_of(tmp_path / "run").items():
        assert torch.equal(value, source[prefix + name]), name
    assert set(summary["validation"][-1]["weights"]) == {"average", "last"}


METHODS_WITH_MORE = [
    {"name": "fixmatch", "threshold": 0, "ema": 0.5, "answers": "student"},
    {"name": "deal"},
    {"name": "co-training"},
    {"name": "univ-full", "pretrain": 0.5},
]


@pytest.mark.parametrize("method", METHODS_WITH_MORE, ids=lambda method: method["name"])
def test_a_stopped_run_goes_on_bit_for_bit(method: dict[str, Any], data: Path, tmp_path: Path) -> None:
    both = {"average": {"lag": 0.3}, "class_weights": {"exponent": 0.5}}
    config = small(data, method, steps=4, checkpoint_every=1, evaluate_every=1, **both)
    train(config, tmp_path / "whole")

    class Stop(Exception):
        pass

    def stop(event: ProgressEvent) -> None:
        if event.step == 2 and event.stage != "evaluate":
            raise Stop

    with pytest.raises(Stop):
        train(config, tmp_path / "parts", stop)
    train(config, tmp_path / "parts")
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_without_validation_the_average_answers(tmp_path: Path) -> None:
    data = two_domains(tmp_path / "data", val=0)
    train(small(data, steps=4, average={"lag": 0.5}), tmp_path / "run")
    state = load_state(tmp_path / "run" / "state" / "last.pt")
    for name, value in weights_of(tmp_path / "run").items():
        assert torch.equal(value, state["average"]["model.model." + name]), name


# ── Weights of classes ───────────────────────────────────────────────────────────────────────────────────────────────

counts_of_classes = st.lists(st.integers(0, 10**7), min_size=2, max_size=30).filter(any)


@given(counts_of_classes, st.floats(0, 1), st.floats(1.01, 50))
def test_their_mean_over_pixels_is_one_and_none_is_above_the_cap(
    counts: list[int], exponent: float, cap: float
) -> None:
    n = np.array(counts)
    weights = weights_of_counts(n, ClassWeightSettings(exponent=exponent, cap=cap))
    assert (n * weights).sum() / n.sum() == pytest.approx(1)
    assert weights.max() <= cap * (1 + 1e-9)
    assert weights.min() > 0
    classes = np.flatnonzero(n)
    ordered = classes[np.argsort(n[classes])]
    assert (np.diff(weights[ordered]) <= 1e-9).all()  # what is rarer never counts less
    assert (weights[n == 0] == 1).all()


@given(counts_of_classes, st.floats(0, 1))
def test_below_the_cap_they_are_the_power_law(counts: list[int], exponent: float) -> None:
    n = np.array(counts)
    weights = weights_of_counts(n, ClassWeightSettings(exponent=exponent, cap=1e12))
    raw = np.array([c**-exponent if c else 0.0 for c in counts])
    expected = raw * n.sum() / (n * raw).sum()
    np.testing.assert_allclose(weights[n > 0], expected[n > 0], rtol=1e-6)


def test_they_are_counted_in_the_masks_that_training_may_see() -> None:
    of = domains(3, 4, images=6, labelled=2)
    for domain in of.values():
        expected = np.zeros(domain.space.num_classes, np.int64)
        for stem in domain.labelled:
            for value in domain.mask(stem).ravel().tolist():
                if value < domain.space.num_classes:
                    expected[value] += 1
        assert class_pixels(domain).tolist() == expected.tolist()
    assert class_weights(of, ClassWeightSettings()) == {}
    weights = class_weights(of, ClassWeightSettings(exponent=0.5))
    assert [len(weights[k]) for k in (0, 1)] == [3, 4]


def batch_of(label: Tensor, domain: list[int], weight: Tensor | None = None) -> Batch:
    owner = torch.tensor(domain)
    return Batch(
        image=torch.randint(0, 256, (*label.shape[:1], 3, *label.shape[1:]), dtype=torch.uint8),
        label=label,
        domain=owner,
        has_label=(label < NOT_LABELLED).flatten(1).any(1),
        has_unlabelled=(label == NOT_LABELLED).flatten(1).any(1),
        names=tuple(map(str, domain)),
        pool=len(label),
        counts={1: count_pixels(label, owner, 2, len(label), weight)},
        pixel_weight=weight,
    )


@pytest.mark.parametrize("weight", [None, torch.tensor([1.0, 4.0, 1.0, 2.0])])
def test_the_loss_is_that_of_a_loop_over_pixels(weight: Tensor | None) -> None:
    rng = torch.Generator().manual_seed(3)
    network = model(domains(3, 4)).eval()
    label = torch.randint(0, 3, (4, 32, 32), generator=rng).to(torch.uint8)
    label[:, :5], label[0, 6:9] = VOID, NOT_LABELLED
    batch = batch_of(label, [0, 1, 0, 1], weight)
    weights = {0: torch.tensor([0.5, 1.0, 3.0]), 1: torch.tensor([2.0, 0.25, 1.0, 7.0])}
    weighed = replace(batch, class_weights=weights)
    with torch.no_grad():
        features = network.encode(batch.image)
        loss = supervised_loss(network, features, weighed)
        expected = 0.0
        for k, name in enumerate(network.domains):
            total = count = 0.0
            for row in (r for r in range(4) if int(batch.domain[r]) == k):
                one = 1.0 if weight is None else float(weight[row])
                log_p = network.logits(features[row : row + 1], name, (32, 32))[0].double().log_softmax(0)
                for y in range(32):
                    for x in range(32):
                        value = int(label[row, y, x])
                        if value < NOT_LABELLED:
                            total -= one * float(weights[k][value]) * float(log_p[value, y, x])
                            count += one
            expected += total / count
        assert loss.item() == pytest.approx(expected, rel=1e-4)
        assert supervised_loss(network, features, batch).item() != pytest.approx(expected, rel=1e-3)
        ones = {k: torch.ones_like(w) for k, w in weights.items()}
        equal = supervised_loss(network, features, replace(batch, class_weights=ones)).item()
        assert equal == pytest.approx(supervised_loss(network, features, batch).item(), rel=1e-5)


def test_pseudo_labels_have_no_class_weights() -> None:
    label = torch.tensor([[[0, 1, 2, VOID], [2, 1, 0, NOT_LABELLED]]] * 2, dtype=torch.uint8)
    confidence = torch.tensor([[[255, 255, 255, 255]] * 2, [[254, 255, 180, 0], [0, 254, 255, 200]]], dtype=torch.uint8)
    weights = torch.tensor([0.5, 1.0, 3.0])
    batch = replace(
        batch_of(label, [0, 0], torch.tensor([1.0, 2.0])), class_weights={0: weights}, confidence=confidence
    )
    factor, _ = batch.weighted(0, torch.tensor([0, 1]))
    assert factor is not None
    for row, y, x in np.ndindex(2, 2, 4):
        if (value := int(label[row, y, x])) < NOT_LABELLED:
            of_class = float(weights[value]) if confidence[row, y, x] == 255 else 1.0
            assert float(factor[row, y, x]) == (row + 1) * of_class


def test_a_run_trains_with_them_and_keeps_them(data: Path, tmp_path: Path) -> None:
    config = small(data, steps=2, class_weights={"exponent": 0.5})
    train(config, tmp_path / "weighed")
    train(small(data, steps=2), tmp_path / "plain")
    kept = load_state(tmp_path / "weighed" / "state" / "last.pt")["class_weights"]
    expected = class_weights(load_domains(config), config.train.class_weights)
    assert kept.keys() == expected.keys() == {0, 1}
    assert all(torch.equal(kept[k], expected[k]) for k in kept)
    one, other = weights_of(tmp_path / "weighed"), weights_of(tmp_path / "plain")
    assert any(not torch.equal(one[name], other[name]) for name in one)
    assert load_state(tmp_path / "plain" / "state" / "last.pt")["class_weights"] == {}
    assert math.isfinite(summary_of(tmp_path / "weighed")["avg_miou"])


def first_terms(name: str, **fields: Any) -> dict[str, float]:
    """The terms of a method's first step on a batch with these fields changed."""
    of = domains(3, 4, images=8, labelled=4)
    settings = METHODS[name].Settings.model_validate({"name": name, **needs(name, of)})
    network, rng = model(of), torch.Generator().manual_seed(0)
    made = build(settings, of, 4)
    made.prepare(network, rng)
    phases = [p for p in made.phases(4) if p.stop > p.start]
    made.begin(phases[0], network, rng)
    (batch,) = steps(of, phases, network=network)[0]
    torch.manual_seed(0)
    terms = made.step(network.train(), replace(batch, **fields), rng)
    return {term: value.item() for term, value in terms.items()}


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_methods_labels_are_weighed(name: str) -> None:
    once, twice = (
        first_terms(name, class_weights={k: torch.full((c,), weight) for k, c in enumerate((3, 4))})
        for weight in (1.0, 2.0)
    )
    assert once["supervised"] > 0
    assert twice["supervised"] == pytest.approx(2 * once["supervised"], rel=1e-4)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_has_the_focal_and_the_dice_loss(name: str) -> None:
    plain, focal, dice, twice = (
        first_terms(name, loss=LossSettings(**options))["supervised"]
        for options in ({}, {"gamma": 2}, {"dice": 1}, {"dice": 2})
    )
    assert 0 < focal < plain < dice
    assert twice - plain == pytest.approx(2 * (dice - plain), rel=1e-3)
