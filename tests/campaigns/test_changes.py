"""Settings that change between the rounds of a campaign, and trainings that go on beyond their steps."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import campaigns
import helpers
import numpy as np
import pytest
import torch
import yaml
from campaigns import BY_CHANCE, SQUARES, settings_of
from ondisk import metrics_of, plain, two_domains, weights_of
from PIL import Image

from fewmask.annotation.ledger import Ledger
from fewmask.annotation.questions import Answer
from fewmask.campaigns import campaign
from fewmask.engine.fit import ProgressEvent, train
from fewmask.engine.run import load_config, load_model
from fewmask.methods import parse_config
from fewmask.models.universal import NEVER, know_classes, with_new_classes
from fewmask.runs import RunFolder


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_domains(tmp_path_factory.mktemp("data"), train=4, pool=1)


def changed(plain: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A copy with other values at dotted keys, written with two underscores."""
    copy = json.loads(json.dumps(plain))
    for key, value in changes.items():
        *rooms, last = key.split("__")
        at = copy
        for room in rooms:
            at = at[room]
        at[last] = value
    return copy


def answered(folder: Path) -> None:
    """Class 0 to every open question."""
    with Ledger(RunFolder(folder).ledger) as ledger:
        questions = ledger.questions(open_only=True)
        ledger.answer([Answer(q.id, "ann", f"t{q.id}", np.zeros(q.inside.shape, np.uint8)) for q in questions])


@pytest.fixture(scope="session")
def begun(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], dict[str, Any]]:
    """Copies a campaign of people whose first round is trained and whose second waits for answers."""
    made = settings_of(data, annotator="people", ask=SQUARES, start="warm")
    folder = tmp_path_factory.mktemp("begun") / "run"
    assert campaign(parse_config(made), folder)["state"] == "waiting"

    def copied(to: Path) -> dict[str, Any]:
        shutil.copytree(folder, to)
        return made

    return copied


FREE: dict[str, Any] = {
    "train__steps": 3,
    "train__batch_size": 4,
    "train__optimiser": {"lr": 0.01},
    "train__crop": [48, 32],
    "name": "another",
    "method": "entropy-min",
    "campaign__rounds": 4,
    "campaign__ask__budget__amount": 300,
    "campaign__need": "equal",
    "campaign__start": "fresh",
    "campaign__pool": {"scales": [0.5, 1.0]},
}


@pytest.mark.parametrize("key", FREE)
def test_what_no_answer_depends_on_may_change_and_is_written_down(
    key: str, begun: Callable[[Path], dict[str, Any]], tmp_path: Path
) -> None:
    made = begun(tmp_path / "run")
    questions = campaigns.identities(campaigns.questions_of(tmp_path / "run"))
    now = parse_config(changed(made, **{key: FREE[key]}))
    summary = campaign(now, tmp_path / "run")
    assert campaigns.identities(campaigns.questions_of(tmp_path / "run")) == questions
    assert load_config(tmp_path / "run") == now
    changes = RunFolder(tmp_path / "run").read_changes()
    assert {change.round for change in changes} == {2}
    assert all(change.key.startswith(key.replace("__", ".").removesuffix(".lr")) for change in changes)
    assert all(change.before != change.now for change in changes)
    assert summary["changes"] == json.loads((tmp_path / "run" / "changes.json").read_text())["changes"]
    campaign(now, tmp_path / "run")
    assert RunFolder(tmp_path / "run").read_changes() == changes


FIXED: dict[str, tuple[Any, str]] = {
    "seed": (3, "labelled from the start"),
    "labelled__images": (2, "labelled from the start"),
    "campaign__annotator": ("oracle", "who answers"),
    "campaign__answers": ({"each": 2}, "counted by it"),
    "campaign__cost": ({"seconds_per_click": 3.0}, "counted by it"),
    "campaign__ask__budget__unit": ("clicks", "counted in it"),
    "campaign__ask__regions": ("squares:8", "open questions are about the former; answer them, or add --enough"),
    "campaign__rounds": (1, "set 2 or more"),
}


@pytest.mark.parametrize("key", FIXED)
def test_what_answers_depend_on_is_refused_with_the_reason(
    key: str, begun: Callable[[Path], dict[str, Any]], tmp_path: Path
) -> None:
    made, (value, reason) = begun(tmp_path / "run"), FIXED[key]
    before = campaigns.files_of(tmp_path / "run")
    with pytest.raises(ValueError, match=reason) as raised:
        campaign(parse_config(changed(made, **{key: value})), tmp_path / "run")
    assert str(raised.value).startswith(key.replace("__", "."))
    assert "; " in str(raised.value)
    assert campaigns.files_of(tmp_path / "run") == before


def test_other_domains_are_refused(begun: Callable[[Path], dict[str, Any]], tmp_path: Path) -> None:
    made = begun(tmp_path / "run")
    domains = made["domains"]
    for other in ({"a": domains["a"]}, {**domains, "c": domains["a"]}, {"a": domains["a"], "x": domains["b"]}):
        with pytest.raises(ValueError, match="begin another campaign"):
            campaign(parse_config(changed(made, domains=other)), tmp_path / "run")


def test_regions_may_change_once_nothing_is_open(begun: Callable[[Path], dict[str, Any]], tmp_path: Path) -> None:
    made = begun(tmp_path / "run")
    answered(tmp_path / "run")
    summary = campaign(parse_config(changed(made, campaign__ask__regions="squares:8")), tmp_path / "run")
    assert summary["round"] == 2
    assert {q.kind for q in campaigns.questions_of(tmp_path / "run", 2)} == {"squares:8"}


def test_the_next_training_has_the_new_settings(begun: Callable[[Path], dict[str, Any]], tmp_path: Path) -> None:
    made = begun(tmp_path / "run")
    answered(tmp_path / "run")
    summary = campaign(parse_config(changed(made, train__steps=5)), tmp_path / "run")
    steps = [json.loads((tmp_path / "run/rounds" / n / "summary.json").read_text())["steps"] for n in ("00", "01")]
    assert steps == [2, 5]
    assert [(c["round"], c["key"], c["before"], c["now"]) for c in summary["changes"]] == [(2, "train.steps", 2, 5)]


def test_data_may_move_as_long_as_it_is_the_same(
    data: Path, begun: Callable[[Path], dict[str, Any]], tmp_path: Path
) -> None:
    made = begun(tmp_path / "run")
    shutil.copytree(data, tmp_path / "moved")
    moved = changed(made, domains={n: {**d, "root": str(tmp_path / "moved" / n)} for n, d in made["domains"].items()})
    stem = campaigns.questions_of(tmp_path / "run")[0].stem
    image = tmp_path / "moved" / campaigns.questions_of(tmp_path / "run")[0].domain / "images" / f"{stem}.png"
    whole = image.read_bytes()
    Image.fromarray(np.asarray(Image.open(image))[::-1]).save(image)
    with pytest.raises(ValueError, match=f"other data than people were asked about: .*{stem}"):
        campaign(parse_config(moved), tmp_path / "run")
    image.write_bytes(whole)
    campaign(parse_config(moved), tmp_path / "run")
    assert {c.key for c in RunFolder(tmp_path / "run").read_changes()} == {"domains.a.root", "domains.b.root"}


@pytest.mark.parametrize("start", ["warm", "fresh"])
def test_a_class_may_be_added_behind_the_others(start: str, tmp_path: Path) -> None:
    root = two_domains(tmp_path / "data", train=4, pool=1)
    made = settings_of(
        root, domains=["a"], annotator="people", ask=SQUARES, start=start, pool={"scales": [1.0], "generations": 2}
    )
    campaign(parse_config(made), tmp_path / "run")
    file = root / "a" / "classes.yaml"
    classes = yaml.safe_load(file.read_text())
    wrong = {"classes": {**{i + 1: c for i, c in classes["classes"].items()}, 0: {"name": "first"}}}
    file.write_text(yaml.safe_dump({"classes": dict(sorted(wrong["classes"].items()))}))
    with pytest.raises(ValueError, match=r"domains\.a\.classes: .* store the index of a class; restore the former"):
        campaign(parse_config(made), tmp_path / "run")
    count = len(classes["classes"])
    classes["classes"][count] = {"name": "bus"}
    file.write_text(yaml.safe_dump(classes))
    campaign(parse_config(made), tmp_path / "run")
    with Ledger(RunFolder(tmp_path / "run").ledger) as ledger:
        (question, *_) = ledger.questions(open_only=True)
        ledger.answer([Answer(question.id, "ann", "bus", np.full(question.inside.shape, count, np.uint8))])
        with pytest.raises(sqlite3.IntegrityError, match="only grows"):
            ledger._store._db.execute("UPDATE domains SET classes = '[]'")
    answered(tmp_path / "run")
    summary = campaign(parse_config(made), tmp_path / "run")
    assert (summary["state"], summary["round"]) == ("waiting", 2)
    assert load_model(tmp_path / "run").spaces["a"].names[-1] == "bus"
    answered(tmp_path / "run")
    summary = campaign(parse_config(made), tmp_path / "run")
    assert summary["state"] == "done"
    assert [(c["round"], c["key"]) for c in summary["changes"]] == [(2, "domains.a.classes")]


def test_a_network_knows_added_classes_and_never_says_them() -> None:
    few, more = helpers.domains(3, 4), helpers.domains(5, 4)
    network, image = helpers.model(few).eval(), torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        before = network(image, "a")
        stored = {name: value.clone() for name, value in network.state_dict().items()}
        know_classes(network, {name: domain.space for name, domain in more.items()})
        after = network(image, "a")
    torch.testing.assert_close(after[:, :3], before)
    assert bool((after[:, 3:] <= NEVER / 2).all())
    assert bool((after.softmax(1)[:, 3:] == 0).all())
    own = helpers.model(more, seed=1).state_dict()
    made = with_new_classes(own, stored)
    assert {n for n in made if made[n].shape != stored[n].shape} == {"heads.of_a.weight", "heads.of_a.bias"}
    assert torch.equal(made["heads.of_a.weight"][:3], stored["heads.of_a.weight"])
    assert torch.equal(made["heads.of_a.weight"][3:], own["heads.of_a.weight"][3:])


class Stop(Exception):
    pass


def stop_at(step: int, stage: str) -> Callable[[ProgressEvent], None]:
    def observe(event: ProgressEvent) -> None:
        if event.step == step and stage in event.stage and "evaluate" not in event.stage:
            raise Stop

    return observe


def test_a_round_that_is_half_trained_keeps_its_settings(data: Path, tmp_path: Path) -> None:
    made = settings_of(data, rounds=2, first=BY_CHANCE, ask=SQUARES, train={"steps": 4, "checkpoint_every": 2})
    with pytest.raises(Stop):
        campaign(parse_config(made), tmp_path / "run", stop_at(3, "round 1/2 train"))
    with pytest.raises(ValueError, match=r"round 1 is half trained with the former; put it back .* or remove"):
        campaign(parse_config(changed(made, train__batch_size=4)), tmp_path / "run")
    with pytest.raises(Stop):  # nothing of the second round is saved: it may begin again with other settings
        campaign(parse_config(made), tmp_path / "run", stop_at(1, "round 2/2 train"))
    summary = campaign(parse_config(changed(made, train__batch_size=4)), tmp_path / "run")
    assert summary["state"] == "done"
    assert [load_config(tmp_path / "run/rounds" / n).train.batch_size for n in ("00", "01")] == [2, 4]


def test_a_look_that_has_begun_keeps_its_settings(data: Path, tmp_path: Path) -> None:
    made = settings_of(data, rounds=2, ask=SQUARES)
    with pytest.raises(Stop):
        campaign(parse_config(made), tmp_path / "run", stop_at(4, "score pool"))
    (tmp_path / "run/pool/01/scores/a").mkdir(parents=True, exist_ok=True)
    other = parse_config(changed(made, campaign__ask__score="margin"))
    with pytest.raises(ValueError, match=r"campaign\.ask\.score: .* the scoring before round 2 began .* remove"):
        campaign(other, tmp_path / "run")
    shutil.rmtree(tmp_path / "run/pool/01")
    assert campaign(other, tmp_path / "run")["state"] == "done"


# ── More steps ───────────────────────────────────────────────────────────────────────────────────────────────────────


def short(data: Path, method: str = "joint", **train: Any) -> dict[str, Any]:
    return plain(data, method, **{"steps": 4, "evaluate_every": 2, **train})


def test_more_steps_of_a_constant_schedule_are_bit_for_bit_those_of_one_training(data: Path, tmp_path: Path) -> None:
    few, many = (parse_config(short(data, steps=s, optimiser={"schedule": "constant"})) for s in (4, 8))
    first = train(few, tmp_path / "run")
    for step in (5, 6):
        with pytest.raises(Stop):
            train(many, tmp_path / "run", stop_at(step, "train"))
    summary = train(many, tmp_path / "run")
    whole = train(many, tmp_path / "whole")
    for key in ("steps", "selected_step", "validation", "domains"):
        assert summary[key] == whole[key]
    assert helpers.same(weights_of(tmp_path / "run"), weights_of(tmp_path / "whole"))
    assert [line["step"] for line in metrics_of(tmp_path / "run") if "loss" in line] == list(range(1, 9))
    assert json.loads((tmp_path / "run" / "summary-4.json").read_text())["domains"] == first["domains"]
    assert load_config(tmp_path / "run") == many
    assert train(many, tmp_path / "run")["steps"] == 8


def test_more_steps_follow_the_schedule_of_all_of_them(data: Path, tmp_path: Path) -> None:
    train(parse_config(short(data, steps=4, optimiser={"lr": 0.001, "power": 1})), tmp_path / "run")
    train(parse_config(short(data, steps=8, optimiser={"lr": 0.001, "power": 1})), tmp_path / "run")
    rates = [line["lr"] for line in metrics_of(tmp_path / "run") if "lr" in line]
    assert rates == pytest.approx([0.001 * f for f in (1, 3 / 4, 1 / 2, 1 / 4, 4 / 8, 3 / 8, 2 / 8, 1 / 8)])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train__steps": 3}, "another configuration"),
        ({"train__steps": 8, "train__batch_size": 2}, "another configuration"),
    ],
)
def test_fewer_steps_or_more_than_steps_are_another_run(
    changes: dict[str, Any], message: str, data: Path, tmp_path: Path
) -> None:
    train(parse_config(short(data)), tmp_path / "run")
    with pytest.raises(ValueError, match=message):
        train(parse_config(changed(short(data), **changes)), tmp_path / "run")


def test_phases_that_would_begin_elsewhere_are_refused(data: Path, tmp_path: Path) -> None:
    train(parse_config(short(data, "fine-tune")), tmp_path / "run")
    before = campaigns.files_of(tmp_path / "run")
    with pytest.raises(ValueError, match=r"train\.steps: 4 so far, 8 now: fine-tune .* phases, .* put 4 back"):
        train(parse_config(short(data, "fine-tune", steps=8)), tmp_path / "run")
    assert campaigns.files_of(tmp_path / "run") == before
