"""A campaign whose ledger, images or masks are not what they were: it says so, and loses nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from campaigns import BY_CHANCE, SQUARES, files_of, paint, settings
from ondisk import write_domain
from PIL import Image

from fewmask.annotation.ledger import Ledger
from fewmask.annotation.tools import TOOLS
from fewmask.campaigns import campaign
from fewmask.config import Config
from fewmask.engine.run import load_domains
from fewmask.runs import RunFolder


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A campaign with people that has learnt once and waits again: beside it the ledger at the beginning (`asked`),
    and halfway through the first answers (`half`)."""
    place = tmp_path_factory.mktemp("played")
    write_domain(place / "data" / "a", pool=0)
    config, run = config_of(place), place / "run"
    campaign(config, run)
    shutil.copy(run / "ledger.sqlite", place / "asked")
    paint(config, run, place / "first", slice(0, 2))
    shutil.copy(run / "ledger.sqlite", place / "half")
    paint(config, run, place / "second")
    assert campaign(config, run)["state"] == "waiting"
    assert files_of(run / "labels")
    return place


@pytest.fixture
def place(played: Path, tmp_path: Path) -> Path:
    """A copy of its own; the data keeps its place, which the run's configuration names."""
    shutil.copytree(played / "run", tmp_path / "run")
    return tmp_path


def config_of(place: Path) -> Config:
    return settings(place / "data", "joint", ["a"], 1, rounds=2, first=BY_CHANCE, ask=SQUARES, annotator="people")


def other_answers(config: Config, run: Path, ledger: Path, out: Path) -> None:
    """The older ledger gets as many answers as the run knows, but other ones."""
    shutil.copy(ledger, run / "ledger.sqlite")
    paint(config, run, out, who="bob")


@pytest.mark.parametrize("older", ["asked", "half", "empty", "cut", "missing", "others"])
def test_a_ledger_that_knows_less_is_refused_and_nothing_changes(older: str, played: Path, place: Path) -> None:
    config, run = config_of(played), place / "run"
    ledger = run / "ledger.sqlite"
    if older == "missing":
        ledger.unlink()
    elif older == "others":
        other_answers(config, run, played / "asked", place / "q")
    elif older in ("empty", "cut"):
        ledger.write_bytes(ledger.read_bytes()[: 0 if older == "empty" else 5000])
    else:
        shutil.copy(played / older, ledger)
    before = files_of(run)
    with pytest.raises(ValueError, match=r"ledger\.sqlite: .*[Pp]ut the (newest|last) copy"):
        campaign(config, run, enough=True)
    assert files_of(run) == before


def test_an_older_ledger_that_is_accepted_shrinks_the_view_and_keeps_the_old_masks(played: Path, place: Path) -> None:
    config, run = config_of(played), place / "run"
    masks = files_of(run / "labels")
    shutil.copy(played / "half", run / "ledger.sqlite")
    with pytest.raises(ValueError, match="--accept-older-ledger"):
        campaign(config, run)
    summary = campaign(config, run, accept_older_ledger=True, enough=True)
    assert summary["state"] in ("waiting", "done")
    assert files_of(run / "before-1-labels") == masks
    assert campaign(config, run, enough=True)["state"] == "done"  # no one asks again whether it is meant
    with Ledger(run / "ledger.sqlite") as ledger:
        stems = ledger.answered_stems("a")
    assert sorted(files_of(run / "labels")) == [f"a/{stem}.png" for stem in stems]


def test_a_damaged_mask_is_made_again_and_one_that_nobody_noted_stays(played: Path, place: Path) -> None:
    config, run = config_of(played), place / "run"
    masks = files_of(run / "labels")
    first, *_ = sorted((run / "labels" / "a").glob("*.png"))
    first.write_bytes(first.read_bytes()[:30])
    paint(config, run, place / "q")
    assert campaign(config, run)["state"] == "done"
    assert first.read_bytes()[:8] == masks[f"a/{first.name}"][:8]
    assert Image.open(first).size


# ── Images ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def turned(played: Path, place: Path) -> tuple[Config, Path, str]:
    """The data in a place of its own, with one asked image upside down."""
    shutil.copytree(played / "data", place / "data")
    config, run = config_of(place), place / "run"
    campaign(config, run)
    with Ledger(run / "ledger.sqlite") as ledger:
        stem = ledger.questions()[0].stem
    return config, run, stem


def turn(place: Path, stem: str) -> None:
    path = place / "data" / "a" / "images" / f"{stem}.png"
    Image.fromarray(np.ascontiguousarray(np.array(Image.open(path))[::-1])).save(path)


def test_answers_about_an_image_that_changed_are_not_taken(played: Path, tmp_path: Path) -> None:
    config, run, stem = turned(played, tmp_path)
    domains = load_domains(config)
    with Ledger(run / "ledger.sqlite") as ledger:
        TOOLS["folder"].write_questions(ledger, domains, tmp_path / "q")
        for path in (tmp_path / "q/a/labels").glob("*.png"):
            size = Image.open(path).size[::-1]
            Image.fromarray(np.full(size, min(domains["a"].space.raw_ids), np.uint8)).save(path)
        turn(tmp_path, stem)
        with pytest.raises(ValueError, match=rf"nothing was imported:\n.*other pixels than when .*{stem}\.png"):
            TOOLS["folder"].read_answers(ledger, domains, tmp_path / "q", "ann")
        assert not ledger.answers()


def test_a_round_does_not_begin_with_an_image_that_changed(played: Path, tmp_path: Path) -> None:
    config, run, stem = turned(played, tmp_path)
    paint(config, run, tmp_path / "q")
    turn(tmp_path, stem)
    with pytest.raises(ValueError, match=rf"other pixels than when they were asked about: .*{stem}\.png"):
        campaign(config, run)
    assert not RunFolder(run).record(0).exists()
    turn(tmp_path, stem)  # as it was
    assert campaign(config, run)["state"] == "waiting"
