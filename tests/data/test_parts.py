"""Masks that are labelled in part when they come: what training, people and the oracle make of what they leave open.

Shapes: H×W pixels of an image.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from campaigns import SQUARES, questions_of, settings, settings_of
from command import Fewmask
from ondisk import assert_same_run, write_config, write_domain
from PIL import Image

from fewmask.annotation.ledger import Ledger
from fewmask.annotation.questions import Answer, Question
from fewmask.annotation.view import answered_domain, write_labels
from fewmask.campaigns import campaign
from fewmask.config import ScenesDomain
from fewmask.data.domain import Domain, read_mask
from fewmask.data.layouts import load_domain
from fewmask.data.parts import with_parts
from fewmask.engine.fit import train
from fewmask.engine.run import load_domains
from fewmask.labels import NOT_LABELLED
from fewmask.runs import RunFolder

SIZE = (40, 48)
ROWS, SQUARE = np.s_[:16], np.s_[8:24, 16:32]
ALL = {**SQUARES, "budget": {"amount": 100_000, "unit": "pixels"}}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Domain a: of train0 the upper 16 rows are labelled, of train1 a square, of train2 nothing, train3 has no mask."""
    root = write_domain(tmp_path / "a", train=3, pool=1, size=SIZE)
    for stem, closed in (("train0", ROWS), ("train1", SQUARE), ("train2", np.s_[:0])):
        path = root / "labels" / f"{stem}.png"
        mask = np.full(SIZE, NOT_LABELLED, np.uint8)
        mask[closed] = read_mask(path)[closed]
        Image.fromarray(mask).save(path)
    return tmp_path


def opened(data: Path) -> Domain:
    return with_parts(load_domains(settings(data, domains=["a"], labelled=None)))["a"]


def answer_all(ledger: Ledger) -> None:
    """Class 1 for all that is asked."""
    for question in ledger.questions(open_only=True):
        values = question.crop(np.ones(SIZE, np.uint8))
        ledger.answer([Answer(question.id, "ann", f"token {question.id}", values=values)])


def test_the_masks_say_which_images_are_labelled_in_part(data: Path) -> None:
    domain = opened(data)
    assert domain.labelled == ("train0", "train1")
    assert domain.partial == {"train0": 16 / 40, "train1": 16 * 16 / (40 * 48)}
    assert domain.whole == ()
    assert domain.unlabelled == ("train0", "train1", "train2", "train3")


def test_what_is_drawn_on_demand_is_not_drawn_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    made = ScenesDomain(layout="scenes", kind="rooms", size=(48, 64), train=2, val=1, test=1)
    scenes = {"rooms": load_domain("rooms", made)}
    monkeypatch.setattr(Domain, "mask", lambda *_: pytest.fail("drawn"))
    assert with_parts(scenes) == scenes


def test_people_are_asked_for_what_masks_leave_open_and_for_nothing_else(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = settings(data, domains=["a"], labelled=None, annotator="people", rounds=2, ask=ALL)
    assert campaign(config, run)["state"] == "waiting"
    times = {stem: np.zeros(SIZE, int) for stem in opened(data).splits["train"]}
    for question in questions_of(run):
        question.window(times[question.stem])[question.inside] += 1
    assert (times["train0"][ROWS] == 0).all() and (times["train0"][16:] == 1).all()
    assert (times["train1"][SQUARE] == 0).all() and times["train1"].sum() == 40 * 48 - 16 * 16
    assert (times["train2"] == 1).all() and (times["train3"] == 1).all()
    with Ledger(RunFolder(run).ledger) as ledger:
        answer_all(ledger)
    first, second = campaign(config, run)["history"]
    assert first["pixels"] == {"a": 16 * 48 + 16 * 16}
    assert second["pixels"] == {"a": 4 * 40 * 48}


def test_an_image_that_answers_complete_is_whole(data: Path, tmp_path: Path) -> None:
    domain = opened(data)
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.add_images(domain, ["train0", "train1"])
        ledger.ask(1, [Question("a", stem, "parts", 0, (16, 0, 40, 48)) for stem in ("train0", "train1")])
        answer_all(ledger)
        write_labels(ledger, {"a": domain}, tmp_path / "labels")
        answered = answered_domain(domain, ledger, tmp_path / "labels")
    assert answered.whole == ("train0",)
    assert answered.partial == {"train1": (24 * 48 + 8 * 16) / (40 * 48)}


def test_the_oracle_is_asked_only_for_what_it_may_know(data: Path, tmp_path: Path) -> None:
    """train0 is labelled from the start; its mask is all that there is to know of it. train1 was not drawn."""
    seeds = (settings(data, domains=["a"], ask=ALL, rounds=2).model_copy(update={"seed": s}) for s in range(99))
    config = next(made for made in seeds if load_domains(made)["a"].labelled == ("train0",))
    summary = campaign(config, tmp_path / "run")
    assert "train1" in {q.stem for q in questions_of(tmp_path / "run")} <= {"train1", "train2"}
    assert [entry["pixels"]["a"] for entry in summary["history"]] == [16 * 48, 16 * 48 + 16 * 16]


def test_training_and_a_campaign_without_questions_read_the_masks_alike(data: Path, tmp_path: Path) -> None:
    """fixmatch draws what is open in train0 and train1 as it does images without a label."""
    config = settings(data, "fixmatch", domains=["a"], labelled=None, rounds=1)
    campaign(config, tmp_path / "campaign")
    summary = train(config.model_copy(update={"campaign": None}), tmp_path / "train")
    assert_same_run(tmp_path / "train", RunFolder(tmp_path / "campaign").round(0).folder)
    assert (summary["labelled"], summary["unlabelled"]) == ({"a": 2}, {"a": 4})


def test_the_doctor_says_how_many_there_are(data: Path, tmp_path: Path, fewmask: Fewmask) -> None:
    done = fewmask("check", write_config(tmp_path / "a.yaml", settings_of(data, domains=["a"])))
    assert "2 of 7 masks are labelled in part" in " ".join(done.out.split())
