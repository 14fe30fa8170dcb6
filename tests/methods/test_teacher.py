"""The mean teacher: parameters and buffers follow, in eval mode, and nothing that is not finite ever reaches it.

Shapes: see `methods.common.base`.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers import domains, model, run, same, train_settings
from ondisk import assert_same_run, plain, two_domains, weights_of
from safetensors.torch import load_file
from torch import nn

from fewmask.config import Config
from fewmask.data.batch import Batch
from fewmask.data.domain import Domain
from fewmask.engine import fit
from fewmask.engine.fit import NonFiniteError, ProgressEvent, train
from fewmask.methods import METHODS, parse_config
from fewmask.methods.common.teacher import MeanTeacherMethod, Teacher
from fewmask.models.universal import UniversalSegmenter

TAUGHT = {
    "fixmatch": {"ema": 0.9, "threshold": 0},
    "unimatch": {"ema": 0.9, "threshold": 0},
    "s4al": {"ema": 0.99, "cold": 0.25},
    "univ-teacher": {"ema": 0.99, "threshold": 0},
}


def taught(name: str, of: dict[str, Domain], **options: object) -> MeanTeacherMethod:
    made = METHODS[name](METHODS[name].Settings.model_validate({"name": name, **TAUGHT[name], **options}), of)
    assert isinstance(made, MeanTeacherMethod)
    return made


def moved(network: UniversalSegmenter, seed: int) -> None:
    """Another student: all its weights, and a forward that moves the statistics of its batch normalisation."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=rng))
    network.train()
    network.encode(torch.randint(0, 256, (2, 3, 32, 32), generator=rng, dtype=torch.uint8))


def test_parameters_and_buffers_are_averaged_with_a_decay_that_grows_to_its_momentum() -> None:
    network = model(domains(3, 4))
    teacher = Teacher(network, 0.6)
    expected = {n: v.clone().double() for n, v in network.state_dict().items()}
    for step in range(5):
        moved(network, step)
        teacher.follow(network)
        decay = min(1 - 1 / (step + 1), 0.6)
        for name, value in network.state_dict().items():
            new = value.double()
            expected[name] = decay * expected[name] + (1 - decay) * new if value.is_floating_point() else new
        if step == 0:
            assert same(teacher.model.state_dict(), network.state_dict())
    got = teacher.model.state_dict()
    for name, value in expected.items():
        torch.testing.assert_close(got[name].double(), value, rtol=1e-5, atol=1e-5, msg=name)
    assert any("running_var" in name for name in expected)
    assert not torch.equal(got["heads.of_a.weight"], network.state_dict()["heads.of_a.weight"])
    assert int(teacher.updates) == 5


def test_it_stays_in_eval_mode_and_has_no_gradient() -> None:
    network = model(domains(3))
    around = nn.Sequential(Teacher(network, 0.9))
    around.train()
    assert around.training
    assert not any(m.training for m in around[0].modules())
    assert not any(p.requires_grad for p in around.parameters())
    assert all(p.requires_grad for p in network.parameters())
    assert network.training


def test_a_student_that_goes_on_does_not_move_the_teacher() -> None:
    network = model(domains(3))
    teacher = Teacher(network, 0.9)
    before = {n: v.clone() for n, v in teacher.state_dict().items()}
    moved(network, 0)
    assert same(before, teacher.state_dict())


@pytest.mark.parametrize("name", TAUGHT)
def test_who_answers_is_a_setting(name: str) -> None:
    of = domains(3, 4)
    network = model(of)
    for answers in ("teacher", "student"):
        made = taught(name, of, answers=answers)
        made.prepare(network, torch.Generator())
        assert made.teacher is not None
        pair = {"teacher": made.teacher.model, "student": network}
        assert made.inference_model(network) is pair[answers]
        other = "student" if answers == "teacher" else "teacher"
        assert {n: id(m) for n, m in made.extra_modules(network).items()} == {other: id(pair[other])}


@pytest.mark.parametrize("name", ["fixmatch", "unimatch"])
def test_without_a_teacher_the_student_answers(name: str) -> None:
    of = domains(3)
    network = model(of)
    made = taught(name, of, ema=None)
    made.prepare(network, torch.Generator())
    assert made.inference_model(network) is network
    assert made.extra_modules(network) == {}
    assert not list(made.parameters())


@pytest.mark.parametrize("name", TAUGHT)
def test_the_labels_are_the_teachers(name: str) -> None:
    """With another teacher the terms of the pool change, and the supervised one does not."""
    of = domains(3, 4)
    network = model(of)
    made = taught(name, of, threshold=0)
    one = run(made, network, of, 2, train_settings(batch_size=4))
    assert made.teacher is not None
    assert int(made.teacher.updates) == 2
    pool = {"s4al": "pseudo", "univ-teacher": "within"}.get(name, "strong")
    again = taught(name, of, threshold=0)
    after = again.prepare

    def prepare(student: UniversalSegmenter, rng: torch.Generator) -> None:
        after(student, rng)
        assert again.teacher is not None
        moved(again.teacher.model, 9)
        again.teacher.eval()
        again.teacher.follow = lambda student: None  # type: ignore[method-assign]

    again.prepare = prepare  # type: ignore[assignment,method-assign]
    two = run(again, model(of), of, 2, train_settings(batch_size=4))
    first = next(i for i, terms in enumerate(one) if pool in terms)
    assert one[first]["supervised"] == two[first]["supervised"] or first > 0
    assert one[first][pool] != two[first][pool]


# ── In a run ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_domains(tmp_path_factory.mktemp("data"))


def settings(data: Path, name: str, **options: object) -> Config:
    made = plain(data, {"name": name, **TAUGHT[name], **options}, steps=4, checkpoint_every=1)
    return parse_config(made)


@pytest.mark.parametrize("name", TAUGHT)
def test_a_loss_that_is_not_finite_never_reaches_the_teacher(
    name: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[fit._Fit] = []
    step = fit._Fit._step

    def watched(self: fit._Fit, batches: list[Batch]) -> dict[str, float]:
        made.append(self)
        if self.done == 2:
            before = {n: v.clone() for n, v in self.method.state_dict().items()}
            with torch.no_grad():
                next(iter(self.model.heads.parameters())).fill_(float("nan"))
            try:
                return step(self, batches)
            finally:
                assert same(before, self.method.state_dict())
        return step(self, batches)

    monkeypatch.setattr(fit._Fit, "_step", watched)
    with pytest.raises(NonFiniteError, match="step 2"):
        train(settings(data, name), tmp_path / "run")
    teacher = made[-1].method.teacher
    assert isinstance(teacher, Teacher)
    assert int(teacher.updates) == 2
    assert all(v.isfinite().all() for v in teacher.state_dict().values())


def test_the_teacher_is_the_runs_model_and_the_student_lies_beside_it(data: Path, tmp_path: Path) -> None:
    train(settings(data, "s4al"), tmp_path / "run")
    train(settings(data, "s4al", answers="student"), tmp_path / "other")
    (student,) = (tmp_path / "run").rglob("student.safetensors")
    (teacher,) = (tmp_path / "other").rglob("teacher.safetensors")
    assert same(weights_of(tmp_path / "other"), load_file(student))
    assert same(weights_of(tmp_path / "run"), load_file(teacher))
    assert not same(weights_of(tmp_path / "run"), weights_of(tmp_path / "other"))


def test_with_auto_validation_chooses_between_teacher_and_student(data: Path, tmp_path: Path) -> None:
    """The one that is not chosen lies beside the model, and the scores are those of the chosen one."""
    made = plain(data, {"name": "s4al", **TAUGHT["s4al"], "answers": "auto"}, steps=4, evaluate_every=4)
    config = parse_config(made)
    summary = train(config, tmp_path / "run")
    (last,) = summary["validation"]
    pair = {
        "last": train(settings_like(config, "teacher"), tmp_path / "teacher"),
        "other": train(settings_like(config, "student"), tmp_path / "student"),
    }
    scores = {name: one["validation"][-1]["avg_miou"] for name, one in pair.items()}
    assert last["weights"] == pytest.approx(scores)
    chosen = max(scores, key=lambda name: scores[name])
    folders = {"last": "teacher", "other": "student"}
    assert same(weights_of(tmp_path / "run"), weights_of(tmp_path / folders.pop(chosen)))
    (beside,) = (tmp_path / "run").rglob("other.safetensors")
    assert same(load_file(beside), weights_of(tmp_path / folders.popitem()[1]))


def settings_like(config: Config, answers: str) -> Config:
    return config.model_copy(update={"method": config.method.model_copy(update={"answers": answers})})


def test_the_student_of_a_stopped_run_is_that_of_one_that_was_not(data: Path, tmp_path: Path) -> None:
    """Its teacher is compared with all methods' in tests/engine/test_resuming.py."""

    def stop(event: ProgressEvent) -> None:
        if event.step == 3 and event.stage != "evaluate":
            raise KeyboardInterrupt

    whole = settings(data, "s4al", adaptive="always", tail_share=0.5, threshold=0.3)
    train(whole, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(whole, tmp_path / "run", stop)
    train(whole, tmp_path / "run")
    assert_same_run(tmp_path / "whole", tmp_path / "run")
    (one,), (other,) = ((tmp_path / run).rglob("student.safetensors") for run in ("whole", "run"))
    assert same(load_file(one), load_file(other))


def test_every_method_with_a_teacher_is_tested_here() -> None:
    assert {n for n, m in METHODS.items() if issubclass(m, MeanTeacherMethod)} == set(TAUGHT)
