"""Distillation: the loss against a loop, which teachers are heard and refused, and what labels alone do not teach.

Shapes: B rows of a batch · C_k classes of domain k · H×W pixels.
"""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import (
    batch,
    domain,
    domains,
    in_parts,
    model,
    needs,
    relabelled,
    run,
    same,
    saved,
    steps,
    train_settings,
)
from ondisk import config, plain, teacher, two_domains
from safetensors.torch import load
from semi_supervised import opinionated, rng, supervised_loop
from test_co_training import Pointwise
from torch import Tensor

from fewmask.config import Config
from fewmask.data.batch import Batch
from fewmask.data.domain import Domain
from fewmask.engine.checkpoint import load_state
from fewmask.engine.fit import ProgressEvent, train
from fewmask.engine.run import load_domains, save_model
from fewmask.labels import NOT_LABELLED, VOID
from fewmask.methods import METHODS, parse_config, read_config
from fewmask.methods.distill import Distill
from fewmask.models.universal import UniversalSegmenter
from fewmask.runs import RunFolder


def method(of: dict[str, Domain], **options: Any) -> Distill:
    made = METHODS["distill"](Distill.Settings.model_validate({**needs("distill", of), **options}), of)
    assert isinstance(made, Distill)
    return made


def prepared(
    of: dict[str, Domain], network: UniversalSegmenter, *teachers: UniversalSegmenter, **options: Any
) -> Distill:
    made = method(of, teachers=[saved(opinionated(t)) for t in teachers], **options)
    made.prepare(opinionated(network).eval(), rng())
    return made


def drawn(of: dict[str, Domain], network: UniversalSegmenter, made: Distill, rows: int = 4) -> Batch:
    """A step's batch with void, holes in the labels and an answer in the pool."""
    settings = train_settings(batch_size=rows, unlabelled_batch_size=rows)
    (part,) = steps(of, made.phases(4), settings, network)[3]
    label = part.label.clone()
    label[0, 16:, :9] = NOT_LABELLED
    label[1, :9] = VOID
    label[-1, 4:12, 4:12] = 1
    label[-2, :, 20:] = VOID
    return relabelled(part, label, network)


# ── The terms ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_terms_equal_a_loop() -> None:
    """With three teachers, of which one knows a domain alone and one does not know it."""
    of = domains(3, 4)
    network = model(of)
    knowing = [model(of, 1), model({"b": of["b"], "a": of["a"]}, 2), model({"b": of["b"]}, 3)]
    made = prepared(of, network, *knowing, alpha=0.7, temperature=3)
    part = drawn(of, network, made)
    terms = made.step(network, part, rng())
    assert terms["supervised"].item() == pytest.approx(0.3 * supervised_loop(network, part, len(part.label)), rel=1e-4)
    apart: list[list[float]] = [[], []]
    agreed = []
    for row, k in enumerate(part.domain.tolist()):
        name = list(of)[k]
        with torch.no_grad():
            image = part.image[row : row + 1]
            logits = [t.eval()(image, name)[0].double() for t in knowing if name in t.spaces]
            own = network(image, name)[0].double()
        assert len(logits) == 2 + k
        p = torch.stack([(z / 3).softmax(0) for z in logits]).mean(0)
        q, value = (own / 3).softmax(0), part.label[row]
        for y in range(32):
            for x in range(32):
                if value[y, x] != VOID:
                    pair = zip(p[:, y, x].tolist(), q[:, y, x].tolist(), strict=True)
                    apart[k].append(sum(a * math.log(a / b) for a, b in pair if a))
                    agreed.append(bool(p[:, y, x].argmax() == own[:, y, x].argmax()))
    expected = 0.7 * 9 * sum(sum(v) / len(v) for v in apart)
    assert terms["soft"].item() == pytest.approx(expected, rel=1e-4)
    assert float(made.metrics["agreement"]) == pytest.approx(sum(agreed) / len(agreed))
    assert 0 < sum(agreed) < len(agreed)


def test_the_gradient_keeps_its_size_at_any_temperature() -> None:
    """That is what T² is for; without it the gradient would fall to a sixteenth from 20 to 80."""
    of = domains(3)
    network = model(of)
    sizes = []
    for temperature in (20.0, 80.0):
        made = method(of, teachers=[saved(model(of, 1))], alpha=1, temperature=temperature)
        made.prepare(network.eval(), rng())
        network.zero_grad()
        made.step(network, drawn(of, network, made), rng())["soft"].backward()
        sizes.append(float(network.heads["of_a"].weight.grad.norm()))  # type: ignore[union-attr]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.05)


def test_a_student_that_equals_its_teacher_has_nothing_to_learn() -> None:
    of = domains(3, 4)
    network = model(of).eval()
    made = method(of, teachers=[saved(network)])
    made.prepare(network, rng())
    soft = made.step(network, drawn(of, network, made), rng())["soft"]
    assert soft.item() == pytest.approx(0, abs=1e-5)
    assert float(made.metrics["agreement"]) == 1


@pytest.mark.parametrize("classes", [(3,), (3, 4)])
def test_an_alpha_of_zero_is_joint_training_bit_for_bit(classes: tuple[int, ...]) -> None:
    of = domains(*classes)
    one, other = model(of), model(of)
    joint = METHODS["joint"](METHODS["joint"].Settings(name="joint"), of)
    assert run(joint, one, of, 3) == run(method(of, alpha=0), other, of, 3)
    assert same(one.state_dict(), other.state_dict())


def test_void_never_enters_and_a_batch_of_it_gives_zero() -> None:
    of = domains(3, 4)
    network = model(of)
    made = prepared(of, network, model(of, 1))
    part = drawn(of, network, made)
    terms = made.step(network, relabelled(part, torch.full_like(part.label, VOID), network), rng())
    assert all(t.item() == 0 for t in terms.values())
    torch.stack(list(terms.values())).sum().backward()
    assert not any(p.grad.any() for p in network.parameters() if p.grad is not None)
    assert made.metrics["agreement"].item() == 0


@pytest.mark.parametrize("parts", [2, 4])
def test_micro_batches_equal_one_batch_however_the_labels_lie(parts: int) -> None:
    of = domains(3, 4)
    network = model(of)
    made = prepared(of, network, model(of, 1))
    whole = drawn(of, network, made, rows=8)
    expected = {n: t.item() for n, t in made.step(network, whole, rng()).items()}
    assert in_parts(made, network, whole, parts) == pytest.approx(expected, rel=1e-4)


# ── The teachers ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_teachers_are_frozen_and_belong_to_nobody() -> None:
    of = domains(3, 4)
    network, own = model(of), model(of, 1)
    made = method(of, teachers=[saved(own)])
    run(made, network, of, 3)
    (loaded,) = made.teachers
    assert same(loaded.state_dict(), own.state_dict())
    made.train()
    assert not any(m.training for m in loaded.modules())
    assert not any(p.requires_grad or p.grad is not None for p in loaded.parameters())
    assert not list(made.modules())[1:]
    assert sum(v.numel() for v in made.state_dict().values()) == 32


def test_teachers_of_other_classes_or_of_none_are_refused_all_at_once(tmp_path: Path) -> None:
    of = domains(3, 4, 2)
    wrong = saved(model({"a": domain("a", 4), "b": of["b"]}), tmp_path / "wrong")
    made = method(of, teachers=[wrong])
    with pytest.raises(ValueError, match="other classes of a") as raised:
        made.prepare(model(of), rng())
    first, second = str(raised.value).splitlines()
    assert first.startswith(f"method.teachers: {wrong} has other classes of a (a0, a1, a2, a3, here a0, a1, a2)")
    assert second == "method.teachers: no teacher was trained on c; add a run that was"
    with pytest.raises(ValueError, match="no trained model in it"):
        method(of, teachers=[tmp_path / "nowhere"]).prepare(model(of), rng())


# ── The method's idea ────────────────────────────────────────────────────────────────────────────────────────────────


def test_unlabelled_images_teach_what_labels_alone_do_not() -> None:
    """All labels are of dark points; the teacher has another opinion of bright ones, which the pool alone shows."""
    of = domains(2)
    knowing = Pointwise(of, 5)

    def colours(low: int, high: int, seed: int) -> Tensor:
        return low + (high - low) * torch.rand(3, 400, 1, generator=rng(seed))

    with torch.no_grad():
        dark, pool, test = colours(0, 60, 1), colours(0, 255, 2), colours(0, 255, 3)
        label = knowing(dark[None], "a").argmax(1)[0].to(torch.uint8)
        truth = knowing(test[None], "a").softmax(1)
    assert 0.1 < float((truth.argmax(1) == 0).float().mean()) < 0.9
    differences = {}
    for alpha in (0.0, 0.9):
        network, made = Pointwise(of, 6), method(of, alpha=alpha, temperature=1)
        made.teachers = (knowing,)
        part = batch([(0, label), (0, torch.full_like(label, NOT_LABELLED))], torch.stack([dark, pool]), network, 1)
        optimiser = torch.optim.Adam(network.parameters(), lr=0.03)
        for step in range(200):
            optimiser.zero_grad()
            torch.stack(list(made.step(network, part, rng(step)).values())).sum().backward()
            optimiser.step()
        with torch.no_grad():
            differences[alpha] = (network(test[None], "a").softmax(1) - truth).abs().mean().item()
    assert differences[0.0] > 0.1
    assert differences[0.9] < 0.03


# ── In a run ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_domains(tmp_path_factory.mktemp("data"))


def settings(data: Path, **method_settings: Any) -> Config:
    made = plain(data, {"name": "distill", **method_settings}, steps=3, checkpoint_every=1)
    made["model"] |= {"decoder": "fpn", "decoder_options": {}, "output_stride": 32}  # not the teacher's
    return parse_config(made)


def test_a_teacher_that_changed_is_refused_and_one_that_came_back_is_not(data: Path, tmp_path: Path) -> None:
    """A student of another architecture; the teacher is nowhere in the run, only its hash. That a run which goes on is
    the run that was not stopped, tests/engine/test_resuming.py has of all methods."""
    folder = tmp_path / "teacher"
    shutil.copytree(teacher(data), folder)
    student = settings(data, teachers=[folder])

    def stop(event: ProgressEvent) -> None:
        if event.step == 2 and event.stage != "evaluate":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(student, tmp_path / "run", stop)
    state = load_state(RunFolder(tmp_path / "run").state)
    assert [tuple(v.shape) for v in state["method"].values()] == [(1, 32)]
    before = {file: file.read_bytes() for file in folder.iterdir()}
    weights = folder / "model.safetensors"
    weights.write_bytes(before[weights][:-1] + bytes([before[weights][-1] ^ 1]))
    with pytest.raises(ValueError, match=f"{weights}: differs from what the run wrote"):
        train(student, tmp_path / "run")
    # A network that is whole, of a training of its own: one number in it is another.
    other = load(before[weights])
    next(iter(other.values())).flatten()[0] += 1
    spaces = {name: d.space for name, d in load_domains(student).items()}
    network = UniversalSegmenter(config(data).model, spaces, seed=7)
    network.load_state_dict(other)
    save_model(RunFolder(folder), network)
    with pytest.raises(
        ValueError, match=f"method.teachers: {folder}: differs from the network that this run has learnt from"
    ):
        train(student, tmp_path / "run")
    for file, content in before.items():
        file.write_bytes(content)
    assert train(student, tmp_path / "run")["steps"] == 3


def test_folders_are_relative_to_the_configuration_and_whole_in_the_runs(data: Path, tmp_path: Path) -> None:
    file = tmp_path / "configs" / "student.yaml"
    file.parent.mkdir()
    file.write_text(
        f"name: student\ndomains: {{a: {{layout: folder, root: {data / 'a'}}}}}\n"
        "method: {name: distill, teachers: [../runs/teacher]}\n",
        encoding="utf-8",
    )
    assert read_config(file).method.teachers == (tmp_path / "runs" / "teacher",)
    with pytest.raises(ValueError, match=r"method.teachers: missing; add it"):
        read_config(file, ["method={name: distill}"])
    with pytest.raises(ValueError, match=r"method.teachers"):
        read_config(file, ["method.teachers=[]"])
