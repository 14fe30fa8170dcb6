"""Weights are selected on validation, and test is looked at once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import helpers
import pytest
from ondisk import (
    Stop,
    metrics_of,
    stop_at,
    two_domains,
    weights_of,
)
from torch import Tensor
from variants import QUICK, VARIANTS, small

from fewmask.config import Config
from fewmask.data.domain import Domain
from fewmask.engine import fit
from fewmask.engine.fit import train
from fewmask.engine.run import load_domains, load_model
from fewmask.models.universal import UniversalSegmenter


class Counting:
    """A source that writes down which masks it was asked for."""

    def __init__(self, source: Any, events: list[tuple[str, Any]]) -> None:
        self.source, self.events = source, events

    def mask(self, stem: str) -> Any:
        self.events.append(("mask", stem))
        return self.source.mask(stem)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.source, name)


def counted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    events: list[tuple[str, Any]] = []

    def counting(settings: Config) -> dict[str, Domain]:
        return {n: replace(d, source=Counting(d.source, events)) for n, d in load_domains(settings).items()}

    monkeypatch.setattr(fit, "load_domains", counting)
    return events


@pytest.mark.parametrize("variant", QUICK)
def test_test_is_looked_at_once_at_the_end_and_the_pool_never(
    variant: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, domains: dict[str, Domain]
) -> None:
    events = counted(monkeypatch)
    train(
        small(data, VARIANTS[variant], steps=4, evaluate_every=1),
        tmp_path / "run",
        lambda event: events.append((event.stage, event.step)),
    )
    last = max(i for i, (what, _) in enumerate(events) if what not in ("mask", "evaluate"))
    reads = [(i, stem) for i, (what, stem) in enumerate(events) if what == "mask"]
    test = [(i, stem) for i, stem in reads if stem.startswith("test")]
    trained = 1 if variant.startswith("supervised") else 2
    assert sorted(stem for _, stem in test) == sorted(trained * ["test0", "test1"])
    assert all(i > last for i, _ in test)
    stems = {stem for _, stem in reads}
    assert not stems & {"train4", "train5"}  # the unlabelled ones
    assert {"val0", "val1"} <= stems


def scripted(monkeypatch: pytest.MonkeyPatch, scores: dict[str, list[float]]) -> list[dict[str, Tensor]]:
    """Validation gives these scores, one after the other; returns the weights that it saw."""
    weights: list[dict[str, Tensor]] = []
    real = fit.evaluate

    def evaluate(model: UniversalSegmenter, domains: dict[str, Domain], split: str, **options: Any) -> dict[str, Any]:
        result = real(model, domains, split, **options)
        if split == "val":
            for name, of in scores.items():
                result["domains"][name]["miou"] = of[len(weights)]
            weights.append({n: v.detach().clone() for n, v in model.state_dict().items()})
        return result

    monkeypatch.setattr(fit, "evaluate", evaluate)
    return weights


@pytest.mark.parametrize(
    ("scores", "chosen"),
    [
        ({"a": [0.1, 0.5, 0.2, 0.3], "b": [0.1, 0.5, 0.2, 0.3]}, 2),
        ({"a": [0.1, 0.2, 0.3, 0.4], "b": [0.1, 0.2, 0.3, 0.4]}, 4),
        ({"a": [0.4, 0.4, 0.4, 0.4], "b": [0.1, 0.1, 0.1, 0.1]}, 1),  # of equals the first
        ({"a": [0.9, 0.2, 0.6, 0.1], "b": [0.1, 0.4, 0.6, 0.1]}, 3),  # the mean over domains counts
    ],
)
def test_the_weights_that_validation_found_best_are_scored_and_kept(
    scores: dict[str, list[float]], chosen: int, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = scripted(monkeypatch, scores)
    summary = train(small(data, "joint", steps=4, evaluate_every=1), tmp_path / "run")
    assert summary["selected_step"] == chosen
    assert helpers.same(weights[chosen - 1], weights_of(tmp_path / "run"))
    assert [h["step"] for h in summary["validation"]] == [1, 2, 3, 4]
    assert [p.name for p in (tmp_path / "run" / "state").glob("best*")] == [f"best-{chosen}.safetensors"]
    # What was scored on test are these weights.
    of = load_domains(small(data, "joint"))
    again = fit.evaluate(load_model(tmp_path / "run"), of, "test", workers=0, precision="fp32")
    assert again["domains"] == summary["domains"]


def test_a_best_step_that_a_resumed_run_does_not_find_again_is_not_taken(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU a resumed run may differ: the weights kept are those of the step that the state names."""
    settings = small(data, "joint", steps=4, evaluate_every=1, checkpoint_every=2)
    with monkeypatch.context() as patch:
        first = scripted(patch, {n: [0.2, 0.3, 0.9] for n in "ab"})
        with pytest.raises(Stop):
            train(settings, tmp_path / "run", stop_at(3))
    scripted(monkeypatch, {n: [0.1, 0.1] for n in "ab"})
    summary = train(settings, tmp_path / "run")
    assert summary["selected_step"] == 2
    assert helpers.same(first[1], weights_of(tmp_path / "run"))


def test_fine_tuning_shows_what_is_forgotten(data: Path, tmp_path: Path) -> None:
    """Both domains at the end of both phases; only weights that have seen the last domain may be chosen."""
    summary = train(small(data, "fine-tune", steps=6, evaluate_every=2), tmp_path / "run")
    steps = [h["step"] for h in summary["validation"]]
    assert {3, 6} <= set(steps)
    assert all(set(h["miou"]) == {"a", "b"} for h in summary["validation"])
    assert summary["selected_step"] > 3
    assert set(summary["domains"]) == {"a", "b"}
    logged = [line for line in metrics_of(tmp_path / "run") if "validation" in line]
    assert [line["step"] for line in logged] == steps


def test_without_validation_the_last_weights_are_kept_and_a_domain_without_test_is_scored_on_val(
    tmp_path: Path,
) -> None:
    root = two_domains(tmp_path / "data", val=0)
    summary = train(small(root, "joint", steps=2), tmp_path / "run")
    assert summary["validation"] == []
    assert summary["selected_step"] == 2
    assert {d["split"] for d in summary["domains"].values()} == {"test"}

    (root / "a" / "splits" / "val.txt").write_text("test0\n")
    (root / "a" / "splits" / "test.txt").unlink()
    summary = train(small(root, "joint", steps=2), tmp_path / "other")
    assert {n: d["split"] for n, d in summary["domains"].items()} == {"a": "val", "b": "test"}


def test_a_run_without_anything_to_score_still_trains(tmp_path: Path) -> None:
    root = two_domains(tmp_path / "data", val=0, test=0)
    summary = train(small(root, "joint", steps=1), tmp_path / "run")
    assert summary["domains"] == {}
    assert summary["avg_miou"] is None
    assert weights_of(tmp_path / "run")
