"""The training loop: non-finite losses, accumulation, what an observer hears.

Shapes: B rows of a batch · K domains.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import helpers
import pytest
import torch
from ondisk import (
    metrics_of,
    plain,
    summary_of,
)
from torch import Tensor
from variants import QUICK, VARIANTS, captured, small

from fewmask.data.batch import Batch, mean_counts
from fewmask.engine import fit
from fewmask.engine.checkpoint import load_state
from fewmask.engine.fit import NonFiniteError, ProgressEvent, train
from fewmask.labels import NOT_LABELLED, VOID
from fewmask.methods import METHODS, SETTINGS, parse_config
from fewmask.methods.common.base import Method
from fewmask.models.universal import UniversalSegmenter
from fewmask.runs import RunFolder

# Images of each forward in train mode of a step, where it is not one with the 4 labelled ones alone.
FORWARDS: dict[str, list[list[int]]] = {
    "entropy-min": [[6]] * 4,
    "univ-full, one forward": [[4], [4], [6], [6]],
    "pseudo-label": [[4], [6], [6], [6]],
    "fixmatch": [[6 + 2]] * 4,
    "fixmatch, teacher": [[4, 2]] * 4,
    "unimatch": [[4], [6, 4], [6, 4], [6, 4]],
    "unimatch, second version": [[4, 4]] * 4,
    "s4al": [[4], [4, 2], [4, 2], [4, 2]],
    "hung2018": [[4], [4], [6], [6]],
    "souly2017": [[6, 2]] * 4,
    "cycada": [[4], [], [], [6]],
    "souly2017, two terms": [[6, 2, 2]] * 4,
    "mmd": [[6]] * 4,
    "adversarial-align": [[6]] * 4,
    "co-training": [[4], [4], [6], [6]],
    "co-training, mean": [[2, 6]] * 4,
    "distill": [[6]] * 4,
    "s4al, replay": [[4], [4, 2, 2], [4, 2, 2], [4, 2, 2]],
}


# ── A loss or a gradient that is not finite ──────────────────────────────────────────────────────────────────────────

BROKEN: dict[str, Callable[[Tensor], Tensor]] = {
    "the term 'odd' is nan": lambda zero: zero / zero.detach(),
    "the term 'odd' is inf": lambda zero: zero + math.inf,
    "the gradient's norm is": lambda zero: zero.sqrt(),  # 0, with an infinite gradient
}


@pytest.mark.parametrize(("message", "clip"), [*((m, None) for m in BROKEN), ("the gradient's norm is", 1.0)])
def test_a_non_finite_step_names_itself_and_updates_nothing(
    message: str, clip: float | None, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before: dict[str, Any] = {}
    made = captured(monkeypatch)
    univ = METHODS["univ-full"]
    step, broken_at = univ.step, 3

    def breaks(self: Method, model: UniversalSegmenter, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        terms = step(self, model, batch, rng)
        zero = sum((p.sum() for p in model.heads.parameters()), torch.zeros(())) * 0
        odd = zero
        if batch.step == broken_at:
            before["names"] = batch.names
            before["parameters"] = {n: p.detach().clone() for n, p in made[0].training.named_parameters()}
            before["method"] = {n: v.clone() for n, v in self.state_dict().items()}
            before["optimiser"] = optimiser_tensors(made[0].optimisers.main)
            odd = BROKEN[message](zero)
        return {**terms, "odd": odd}

    monkeypatch.setattr(univ, "step", breaks)
    settings = small(data, VARIANTS["univ-full"], steps=6, checkpoint_every=1, optimiser={"clip_norm": clip})
    with pytest.raises(NonFiniteError) as raised:
        train(settings, tmp_path / "run")
    text = str(raised.value)
    assert text.startswith(f"step {broken_at}: {message}")
    assert "nothing was updated" in text
    assert before["names"]
    assert all(name in text for name in before["names"])

    assert helpers.same(before["parameters"], dict(made[0].training.named_parameters()))
    assert helpers.same(before["method"], made[0].method.state_dict())
    assert before["optimiser"].keys() == optimiser_tensors(made[0].optimisers.main).keys()
    assert helpers.same(before["optimiser"], optimiser_tensors(made[0].optimisers.main))

    state = load_state(RunFolder(tmp_path / "run").state)
    assert state["step"] == broken_at
    on_disk = {f"model.{n}": v for n, v in state["model"].items()}
    parameters = {n: v for n, v in before["parameters"].items() if n.startswith("model.")}
    assert helpers.same(parameters, {n: on_disk[n] for n in parameters})
    assert helpers.same(before["method"], state["method"])
    assert [line["step"] for line in metrics_of(tmp_path / "run")] == [1, 2, 3]


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    state = optimiser.state_dict()["state"]
    return {f"{i}.{name}": v.clone() for i, own in state.items() for name, v in own.items() if isinstance(v, Tensor)}


# ── One forward; micro-batches ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("variant", QUICK)
def test_the_forwards_of_a_step(variant: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Labelled images of all domains go through together, those of the pool with them or, where a method has it so, by
    themselves; and what is refused for batch normalisation goes by these."""
    rows: list[list[int]] = []
    domains_seen: list[set[int]] = []
    forward = fit.Training.forward

    def counting(self: fit.Training, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        rows.append([])
        hook = self.model.encoder.register_forward_hook(
            lambda encoder, inputs, _: rows[-1].append(len(inputs[0])) if encoder.training else None
        )
        domains_seen.append(set(batch.domain.tolist()))
        try:
            return forward(self, batch, rng)
        finally:
            hook.remove()

    monkeypatch.setattr(fit.Training, "forward", counting)
    settings = small(data, VARIANTS[variant], steps=4)
    made = captured(monkeypatch)
    train(settings, tmp_path / "run")
    aligned = variant.startswith("univ-")
    assert rows == FORWARDS.get(variant, [[4], [4], [4, 2], [4, 2]] if aligned else [[4]] * 4)
    (fitted,) = made
    drawn = [next(2 * bool(p.unlabelled) for p in fitted.phases if step < p.stop) for step in range(4)]
    sizes = [list(fitted.method.forward_batch_sizes(4, unlabelled)) for unlabelled in drawn]
    # Where translators learn, the network stands still.
    assert [row or wanted for row, wanted in zip(rows, sizes, strict=True)] == sizes
    if aligned:
        assert domains_seen == [{0, 1}] * 4


def accumulated(
    network: UniversalSegmenter, made: Method, batches: list[Batch], weight: float
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Gradients of a step as the loop makes them, and the means of its terms."""
    training = fit.Training(network, made)
    training.zero_grad()
    counts = mean_counts(batches)
    totals: dict[str, float] = {}
    for batch in batches:
        terms = training(replace(batch, counts=counts), torch.Generator().manual_seed(0))
        (torch.stack(list(terms.values())).sum() * weight).backward()
        for name, term in terms.items():
            totals[name] = totals.get(name, 0) + float(term.detach()) / len(batches)
    return {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}, totals


@pytest.mark.parametrize("name", ["joint", "univ-full", "entropy-min", "univ-full, faithful"])
@pytest.mark.parametrize("parts", [2, 4])
def test_micro_batches_equal_one_batch_however_the_labels_lie(name: str, parts: int) -> None:
    """Some rows are void in a quarter, some wholly, some half labelled: a mean of the parts' means would differ.

    In eval mode, where batch normalisation does not make rows depend on each other.
    """
    of = helpers.domains(3, 4)
    network = helpers.model(of).eval()
    option = VARIANTS[name]
    made = METHODS[option["name"]](SETTINGS[option["name"]].model_validate({**option, **pretrain(option)}), of)
    made.prepare(network, torch.Generator().manual_seed(1))
    phases = made.phases(4)
    made.begin(phases[-1], network, torch.Generator().manual_seed(2))
    settings = helpers.train_settings(batch_size=8, unlabelled_batch_size=4)
    (whole,) = helpers.steps(of, phases, settings, network)[3]
    label = whole.label.clone()
    for row in range(8):
        label[row, : [8, 32, 0, 20][row % 4]] = VOID
        label[row, 24:, : 4 * row] = NOT_LABELLED
    whole = helpers.relabelled(whole, label, network)
    size = len(whole.label) // parts
    split = []
    for part in range(parts):
        rows = slice(part * size, (part + 1) * size)
        owned = list(zip(whole.domain[rows].tolist(), whole.label[rows], strict=True))
        split.append(helpers.batch(owned, whole.image[rows], network, 2, step=3, of=4, phase=whole.phase))
    expected, terms = accumulated(network, made, [whole], 1)
    got, means = accumulated(network, made, split, 1 / parts)
    assert means == pytest.approx(terms, rel=1e-5)
    assert expected.keys() == got.keys()
    for n in expected:
        torch.testing.assert_close(got[n], expected[n], rtol=2e-4, atol=2e-6, msg=lambda m, n=n: f"{n}: {m}")
    # A mean of the parts' own means is something else, so the comparison above can fail.
    unweighted = [accumulated(network, made, [part], 1)[1]["supervised"] for part in split]
    assert sum(unweighted) / parts != pytest.approx(terms["supervised"], rel=1e-4)


def pretrain(option: dict[str, Any]) -> dict[str, float]:
    return {"pretrain": 0.25} if option["name"].startswith("univ") else {}


def test_accumulation_trains(data: Path, tmp_path: Path) -> None:
    summary = train(small(data, "univ-full", steps=3, accumulate=2, unlabelled_batch_size=4), tmp_path / "run")
    assert summary["steps"] == 3
    assert all(math.isfinite(line["loss"]) for line in metrics_of(tmp_path / "run") if "loss" in line)


# ── What an observer hears, and what the run's folder says ───────────────────────────────────────────────────────────


def test_an_observer_hears_every_step_with_its_terms(data: Path, tmp_path: Path) -> None:
    moments: list[ProgressEvent] = []
    train(small(data, VARIANTS["univ-full"], steps=4), tmp_path / "run", moments.append)
    steps = [m for m in moments if m.stage != "evaluate"]
    assert [(m.stage, m.step, m.steps) for m in steps] == [
        ("pretrain", 1, 4),
        ("pretrain", 2, 4),
        ("align", 3, 4),
        ("align", 4, 4),
    ]
    assert set(steps[0].terms) == {"supervised", "anchor"}
    assert set(steps[-1].terms) == {"supervised", "anchor", "cross", "within"}
    assert all(m.loss == sum(m.terms.values()) and m.memory_mib > 0 and m.steps_per_second > 0 for m in steps)
    assert steps[-1].seconds_left == 0
    logged = [line for line in metrics_of(tmp_path / "run") if "loss" in line]
    assert [line["loss"] for line in logged] == [m.loss for m in steps]
    assert "marginal_entropy" in logged[-1]


def test_metrics_are_logged_every_so_often_and_at_the_end(data: Path, tmp_path: Path) -> None:
    train(small(data, "joint", steps=5, log_every=2), tmp_path / "run")
    assert [line["step"] for line in metrics_of(tmp_path / "run") if "loss" in line] == [2, 4, 5]


def test_the_summary_says_what_was_done(data: Path, tmp_path: Path) -> None:
    returned = train(small(data, "joint", steps=1), tmp_path / "run")
    summary = summary_of(tmp_path / "run")
    assert summary == {k: v for k, v in returned.items() if k not in ("seconds", "memory_mib")}
    assert (summary["method"], summary["seed"], summary["steps"]) == ("joint", 0, 1)
    assert summary["labelled"] == {"a": 4, "b": 4}
    assert summary["unlabelled"] == {"a": 2, "b": 2}
    assert set(summary["domains"]["a"]["iou"]) == {"c0", "c1", "c2"}
    assert summary["avg_miou"] == pytest.approx(sum(d["miou"] for d in summary["domains"].values()) / 2)
    assert summary["hardware"]["device"] == "cpu"
    assert summary["versions"]["torch"] == torch.__version__


# ── Batch normalisation needs two values ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("method", "changes", "refused"),
    [
        ("joint", {"batch_size": 1}, True),
        ("joint", {"batch_size": 4, "accumulate": 4, "unlabelled_batch_size": 4}, True),
        ("joint", {"batch_size": 2}, False),
        ("entropy-min", {"batch_size": 1, "unlabelled_batch_size": 1}, False),  # two rows in one forward
        ("univ-full", {"batch_size": 1, "unlabelled_batch_size": 1}, True),  # one of them during the pretraining
        ({"name": "fixmatch", "forward": "joint"}, {"batch_size": 1, "unlabelled_batch_size": 1}, False),
        ("fixmatch", {"batch_size": 2, "unlabelled_batch_size": 1}, True),  # its strong view is alone
        ("unimatch", {"batch_size": 2, "unlabelled_batch_size": 1}, False),
        ("s4al", {"batch_size": 4, "accumulate": 2, "unlabelled_batch_size": 2}, True),
    ],
)
def test_a_single_image_a_micro_batch_is_refused_where_batch_normalisation_has_one_value(
    method: str | dict[str, Any], changes: dict[str, Any], refused: bool, data: Path, tmp_path: Path
) -> None:
    settings = small(data, method, steps=4, **changes)
    if not refused:
        train(settings, tmp_path / "run")
        return
    alone = "batch_size" if settings.train.batch_size == settings.train.accumulate else "unlabelled_batch_size"
    with pytest.raises(ValueError, match=rf"train.{alone}: with one image of 32×32 .* take at least two images"):
        train(settings, tmp_path / "run")
    assert not (tmp_path / "run").exists()  # the fixed command may use the same folder
    train(small(data, method, steps=1, batch_size=2, unlabelled_batch_size=2), tmp_path / "run")


def test_a_single_image_is_fine_for_a_decoder_without_a_pooled_branch(data: Path, tmp_path: Path) -> None:
    settings = plain(data, "joint", steps=1, batch_size=1, crop=[64, 64])
    settings["model"] = {"encoder": helpers.ENCODER, "decoder": "fpn", "output_stride": 32}
    train(parse_config(settings), tmp_path / "run")
