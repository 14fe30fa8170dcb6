"""`method: auto`, `train.steps: auto` and early stopping: what they come to, and that a run says so and goes on.

Shapes: H×W pixels.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import domain, domains
from hypothesis import given, settings
from hypothesis import strategies as st
from ondisk import assert_same_run, plain, two_domains, write_domain
from PIL import Image

from fewmask import config as configuration
from fewmask.config import SETTINGS, Config, TrainSettings
from fewmask.config.choices import CHOICES, Choice, choose_method
from fewmask.engine.automatic import LONGEST, PATIENCE, SHORTEST, SHOWN, labelled_pixels, resolve_auto
from fewmask.engine.fit import ProgressEvent, train
from fewmask.engine.run import load_config, load_domains
from fewmask.labels import NOT_LABELLED
from fewmask.methods import METHODS, parse_config
from fewmask.runs.settings import settings_of


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_domains(tmp_path_factory.mktemp("data"))


def small(data: Path, method: Any = "auto", **train: Any) -> Config:
    made = plain(data, method, **train)
    return parse_config(made)


# ── The table of choices ─────────────────────────────────────────────────────────────────────────────────────────────


@given(st.integers(1, 9), st.floats(0, 10**5), st.floats(0, 10**6))
def test_there_is_a_choice_for_all_data_and_it_is_the_first_that_fits(domains: int, masks: float, pool: float) -> None:
    choice = choose_method(domains, masks, pool)
    assert choice.fits(domains, masks, pool)
    assert not any(one.fits(domains, masks, pool) for one in CHOICES[: CHOICES.index(choice)])
    assert choice.method["name"] != "supervised" or domains == 1  # it trains on one domain alone


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_is_a_method_with_its_settings(choice: Choice) -> None:
    assert choice.method["name"] in METHODS
    SETTINGS[str(choice.method["name"])].model_validate(choice.method)
    TrainSettings.model_validate(choice.train)
    assert choice.why and bool(choice.why_train) == bool(choice.train)


def test_a_choice_fits_between_its_ends() -> None:
    choice = Choice(method={}, why="", domains=(2, 3), masks=(10, 30), pool=4)
    assert all(choice.fits(*data) for data in ((2, 10, 4), (3, 30, 9)))
    assert not any(choice.fits(*data) for data in ((1, 10, 4), (4, 10, 4), (2, 9.5, 4), (2, 30.5, 4), (2, 10, 3.9)))


# ── The number of steps ──────────────────────────────────────────────────────────────────────────────────────────────


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(8, 64), st.sampled_from([1, 8, 300]), st.sampled_from([32, 100]))
def test_steps_show_each_labelled_pixel_as_often_as_they_say(images: int, side: int, times: int, crop: int) -> None:
    one = domain("a", images=images, labelled=images, size=(side, 2 * side))
    many = replace(one, labelled=one.labelled * times)  # so many of the same masks
    config = parse_config(plain(Path(), "joint", steps="auto", batch_size=2, crop=[crop, crop]))
    resolved_config, (line,) = resolve_auto(config, {"a": many})
    pixels, a_step, steps = images * times * 2 * side**2, 2 * crop**2, resolved_config.train.steps
    assert labelled_pixels(many) == pixels
    assert SHORTEST <= steps <= LONGEST
    assert steps % 100 == 0
    if SHORTEST < steps < LONGEST:
        assert (steps - 100) * a_step < SHOWN * pixels <= steps * a_step
    assert f"{steps:,}" in line
    assert f"{pixels:,}" in line
    assert resolved_config.train.patience == PATIENCE


def test_pixels_of_images_that_are_labelled_in_part_count_in_part() -> None:
    one = domain("a", images=4, labelled=2, size=(10, 20))
    assert labelled_pixels(replace(one, partial={one.labelled[0]: 0.25})) == 250
    assert labelled_pixels(replace(one, labelled=())) == 0


def test_what_is_given_stays_and_nothing_is_settled_twice() -> None:
    of = domains(3, 4)
    config = parse_config(plain(Path(), "univ-full", steps=7))
    assert resolve_auto(config, of) == (config, [])
    auto = parse_config(plain(Path(), "auto", steps="auto", patience=2))
    once, lines = resolve_auto(auto, of)
    assert once.train.patience == 2
    assert [line.partition(":")[0] for line in lines] == ["method", "train", "train.steps"]
    assert resolve_auto(once, of) == (once, [])


def test_the_settings_of_a_choice_apply_unless_the_configuration_gives_others() -> None:
    of = domains(3, 4)
    plain_auto, (first, line) = resolve_auto(parse_config(plain(Path(), "auto", steps=7)), of)
    assert plain_auto.train.class_weights.exponent == 0.5
    assert plain_auto.train.average.lag == 0.02
    assert first.startswith("method: auto takes joint: ")
    assert line.startswith(
        "train: method auto takes class_weights.exponent 0.5, average.lag 0.02: with 30 masks they gain"
    )
    given = parse_config(plain(Path(), "auto", steps=7, class_weights={"exponent": 0.0}))
    resolved, (_, line) = resolve_auto(given, of)
    assert resolved.train.class_weights == given.train.class_weights
    assert resolved.train.average.lag == 0.02
    assert "class_weights" not in line
    both = parse_config(plain(Path(), "auto", steps=7, class_weights={}, average={}))
    resolved, lines = resolve_auto(both, of)
    assert resolved.train == both.train and len(lines) == 1
    named = parse_config(plain(Path(), "joint", steps=7))
    assert resolve_auto(named, of) == (named, [])  # a method that is named keeps the defaults


def test_auto_is_written_as_it_is_read_and_zero_steps_are_refused() -> None:
    config = parse_config(plain(Path(), "auto", steps="auto"))
    assert "steps: auto" in configuration.dump(config)
    for wrong in (0, True, "automatic", -1):
        with pytest.raises(ValueError, match=r"train\.steps: input should be"):
            parse_config(plain(Path(), "joint", steps=wrong))


# ── In a run ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_runs_configuration_says_what_was_taken(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fewmask.engine.automatic.SHORTEST", 3)
    monkeypatch.setattr("fewmask.engine.automatic.SHOWN", 0)
    summary = train(small(data, steps="auto"), tmp_path / "run")
    there = load_config(tmp_path / "run")
    assert (there.method.name, there.train.steps, there.train.patience) == ("joint", 3, PATIENCE)
    assert (summary["method"], summary["steps"]) == ("joint", 3)
    assert train(small(data, steps="auto"), tmp_path / "run") == summary  # the same data decides the same again


def still(data: Path, **changes: Any) -> Config:
    """Of rates so small that nothing is learnt: an early validation stays the best one."""
    slow = {"lr": 1e-12, "head_lr": 1e-12, "weight_decay": 0}
    options = {"steps": 12, "evaluate_every": 2, "patience": 2, "checkpoint_every": 1, "optimiser": slow}
    return small(data, "joint", **{**options, **changes})


def test_validations_without_a_better_one_end_the_training(data: Path, tmp_path: Path) -> None:
    summary = train(still(data), tmp_path / "run")
    steps = [one["step"] for one in summary["validation"]]
    assert summary["steps"] == steps[-1] < 12
    assert [step for step in steps if step > summary["selected_step"]] == steps[-2:]
    assert train(still(data, patience=None), tmp_path / "whole")["steps"] == 12


@pytest.mark.parametrize("at", [3, 5])
def test_a_stopped_training_ends_where_one_that_was_not_ends(at: int, data: Path, tmp_path: Path) -> None:
    def stop(event: ProgressEvent) -> None:
        if event.step == at and event.stage != "evaluate":
            raise KeyboardInterrupt

    train(still(data), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(still(data), tmp_path / "run", stop)
    train(still(data), tmp_path / "run")
    assert_same_run(tmp_path / "whole", tmp_path / "run")


def test_patience_waits_for_the_last_phase(data: Path, tmp_path: Path) -> None:
    """Labels alone may stop improving; what the method adds then has not begun."""
    slow = {"lr": 1e-12, "head_lr": 1e-12, "weight_decay": 0}
    options = {"steps": 12, "evaluate_every": 1, "patience": 2, "optimiser": slow}
    method = {"name": "fixmatch", "begin": 0.5}
    summary = train(small(data, method, **options), tmp_path / "run")
    assert summary["steps"] == 8  # two validations after the six steps of labels alone


def test_more_steps_go_on_where_patience_ended_and_is_lifted(data: Path, tmp_path: Path) -> None:
    ended = train(still(data), tmp_path / "run")
    before = (tmp_path / "run" / "summary.json").read_bytes()
    with pytest.raises(ValueError, match=r"train\.patience: 2 validations .* set train\.patience=null to go on"):
        train(still(data, steps=20), tmp_path / "run")
    assert (tmp_path / "run" / "summary.json").read_bytes() == before
    assert ended["steps"] < train(still(data, steps=20, patience=None), tmp_path / "run")["steps"] == 20


def test_masks_that_are_labelled_in_part_count_in_part(tmp_path: Path) -> None:
    root = write_domain(tmp_path / "a")
    for path in (root / "labels").glob("*.png"):
        with Image.open(path) as picture:
            pixels = np.array(picture)
        pixels[:, 1:] = NOT_LABELLED
        Image.fromarray(pixels).save(path)
    given = {**plain(tmp_path, "joint", steps="auto"), "domains": {"a": {"layout": "folder", "root": str(root)}}}
    config = parse_config(given)
    _, (line,) = resolve_auto(config, load_domains(config))
    height, images = pixels.shape[0], len(load_domains(config)["a"].labelled)
    assert f"{height * images:,} labelled pixels" in line


def test_trainings_whose_steps_the_data_decides_are_of_one_method(data: Path, tmp_path: Path) -> None:
    one, other = (
        resolve_auto(small(data, "joint", steps="auto"), domains(3, 4))[0].model_dump(
            mode="json", serialize_as_any=True
        )
        for _ in range(2)
    )
    other["train"]["steps"] += 100
    assert settings_of(one) == settings_of(other)
    by_hand = small(data, "joint", steps=one["train"]["steps"]).model_dump(mode="json", serialize_as_any=True)
    assert settings_of(by_hand)["train.steps"] == one["train"]["steps"]
