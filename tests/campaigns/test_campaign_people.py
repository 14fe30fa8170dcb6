"""Campaigns that wait for people: what they answered counts, and what is open stays open."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import campaigns
import numpy as np
import pytest
from campaigns import BY_CHANCE, SQUARES, STUDENT, Stop, Stops, questions_of, settings
from ondisk import write_domain
from PIL import Image

from fewmask.annotation.folder import read_answers, write_questions
from fewmask.annotation.ledger import Ledger
from fewmask.annotation.questions import Answer
from fewmask.campaigns import campaign, rounds
from fewmask.data.domain import read_mask
from fewmask.data.pictures import write_mask
from fewmask.engine.fit import ProgressEvent
from fewmask.engine.run import load_domains
from fewmask.labels import NOT_LABELLED
from fewmask.runs import RunFolder


def test_masks_that_change_between_rounds_do_not_change_what_rounds_before_were_trained_on(tmp_path: Path) -> None:
    config = settings(write_domain(tmp_path / "a").parent, domains=["a"], annotator="people", ask=SQUARES, rounds=2)
    (stem,) = load_domains(config)["a"].labelled
    before = campaign(config, tmp_path / "run")["history"]
    path = tmp_path / "a" / "labels" / f"{stem}.png"
    with Image.open(path) as picture:
        mask = np.array(picture)
    pixels = int((mask != NOT_LABELLED).sum())
    mask[:20] = NOT_LABELLED
    Image.fromarray(mask).save(path)
    assert before[0]["pixels"] == {"a": pixels}
    after = campaign(config, tmp_path / "run", enough=True)["history"]
    assert after[0] == before[0]
    assert after[1]["pixels"] == {"a": int((mask != NOT_LABELLED).sum())}


def test_people_are_waited_for_and_answer_when_they_like(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two rounds: first all questions but skipped ones are answered; then half of them, which has to be enough."""
    run, out = tmp_path / "run", tmp_path / "painted"
    by_people: dict[str, Any] = {"annotator": "people", "first": BY_CHANCE, "ask": SQUARES, "rounds": 3}
    config = settings(data, domains=["a"], labelled=0, **by_people)
    truth = {
        stem for stem in load_domains(config)["a"].splits["train"] if load_domains(config)["a"].source.has_mask(stem)
    }

    waiting = campaign(config, run)
    questions_ = questions_of(run, 0)
    assert (waiting["state"], waiting["round"], waiting["open"]) == ("waiting", 0, len(questions_))
    assert waiting["history"] == [] and waiting["result"] is None and waiting["forecast"] is None
    before = campaigns.files_of(run)
    assert campaign(config, run) == waiting
    assert campaigns.files_of(run) == before

    # Of an image without a mask people would know, this test does not.
    campaigns.skip(run, [q for q in questions_ if q.stem not in truth])
    campaigns.paint(config, run, out, slice(0, 1))
    still = campaign(config, run)
    assert (
        still["open"]
        == len(questions_of(run, 0, open_only=True))
        == waiting["open"] - len({q.id for q in questions_} - {q.id for q in questions_of(run, open_only=True)})
    )
    campaigns.paint(config, run, out)
    events: list[ProgressEvent] = []
    waiting = campaign(config, run, events.append)
    assert {m.later for m in events} == {0}  # how long people take for the next round nobody knows
    assert (waiting["state"], waiting["round"]) == ("waiting", 1)
    assert len(waiting["history"]) == 1
    answered = sum(int(q.inside.sum()) for q in questions_ if q.stem in truth)
    assert waiting["history"][0]["pixels"] == {"a": answered}
    assert waiting["result"]["round"] == 0

    second = questions_of(run, 1)
    campaigns.skip(run, [q for q in second if q.stem not in truth])
    campaigns.paint(config, run, tmp_path / "second", slice(0, 1))
    late = questions_of(run, 1, open_only=True)
    assert late
    with monkeypatch.context() as patch:
        Stops(patch).at(rounds, "train", lambda *_: "", before=True)
        with pytest.raises(Stop):
            campaign(config, run, enough=True)
    campaigns.paint(config, run, tmp_path / "second", slice(0, 1))  # too late for what has begun
    waiting = campaign(config, run)
    assert (waiting["state"], waiting["round"]) == ("waiting", 2)  # round 2 was trained, the third one asks
    early = sum(int(q.inside.sum()) for q in second if q.stem in truth and q.id not in {x.id for x in late})
    assert waiting["history"][1]["pixels"] == {"a": answered + early}
    assert {(q.stem, q.region) for q in questions_of(run, 2)}.isdisjoint(
        (q.stem, q.region) for q in [*questions_, *second]
    )

    campaigns.skip(run, [q for q in questions_of(run, 2) if q.stem not in truth])
    campaigns.paint(config, run, tmp_path / "third")  # the late ones too
    finished = campaign(config, run)
    assert finished["state"] == "done"
    total = sum(int(q.inside.sum()) for q in questions_of(run) if q.stem in truth)
    assert finished["history"][2]["pixels"] == {"a": total}
    assert finished["history"][1]["pixels"] == {"a": answered + early}


def test_enough_is_said_of_the_questions_that_are_there(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where none of them is open, where nothing was asked, and where the training stops and begins again."""
    by_people: dict[str, Any] = {"annotator": "people", "first": BY_CHANCE, "ask": SQUARES, "rounds": 3}
    config, run = settings(data, domains=["a"], **by_people), tmp_path / "run"
    campaign(config, run)
    campaigns.skip(run, questions_of(run, 0))
    waiting = campaign(config, run, enough=True)
    assert (waiting["state"], waiting["round"]) == ("waiting", 1)
    with monkeypatch.context() as patch:
        Stops(patch).at(rounds, "train", lambda *_: "", before=True)
        with pytest.raises(Stop):
            campaign(config, run, enough=True)
    waiting = campaign(config, run, enough=True)
    assert (waiting["state"], waiting["round"]) == ("waiting", 2)
    assert waiting["open"] == len(questions_of(run, 2))
    finished = campaign(config, run, enough=True)
    assert (finished["state"], finished["open"]) == ("done", len(questions_of(run, 1)) + len(questions_of(run, 2)))

    by_people["first"] = None
    waiting = campaign(settings(data, domains=["a"], **by_people), tmp_path / "nothing", enough=True)
    assert (waiting["state"], waiting["round"]) == ("waiting", 1)


def test_an_answer_that_is_taken_back_after_the_look_leaves_an_image_without_pseudo_labels(
    data: Path, tmp_path: Path
) -> None:
    """It was wholly answered then, and is in the pool again: with what is left of its answers, or with nothing."""
    of_images = {"regions": "image", "budget": {"amount": 1}, "score": "random"}
    config = settings(data, STUDENT, ["a"], 1, annotator="people", rounds=3, first=of_images, ask=of_images)
    run = tmp_path / "run"
    for _ in range(2):
        campaign(config, run)
        truth = load_domains(config)["a"]
        campaigns.skip(run, [q for q in questions_of(run, open_only=True) if not truth.source.has_mask(q.stem)])
        campaigns.paint(config, run, tmp_path / "painted")
    waiting = campaign(config, run, enough=True)
    assert (waiting["state"], waiting["round"]) == ("waiting", 2)
    with Ledger(RunFolder(run).ledger) as ledger:
        given = [a for a in ledger.answers() if a.kind == "answer"]
        assert given
        ledger.answer([Answer(a.question, a.annotator, f"back {a.id}", kind="retract", retracts=a.id) for a in given])
    finished = campaign(config, run, enough=True)
    assert finished["state"] == "done"
    images = [image.size for image in map(truth.image, truth.labelled)]
    assert finished["history"][2]["pixels"] == {"a": sum(images) // 3}


def test_people_may_begin_with_images_alone(tmp_path: Path) -> None:
    """No mask anywhere: what is learnt from is what they answered."""
    write_domain(tmp_path / "a", train=0, pool=4, val=0, test=0)
    config = settings(tmp_path, domains=["a"], labelled=0, rounds=1, annotator="people", first=BY_CHANCE)
    assert campaign(config, tmp_path / "run")["state"] == "waiting"
    domains, out = load_domains(config), tmp_path / "painted"
    with Ledger(RunFolder(tmp_path / "run").ledger) as ledger:
        for question in write_questions(ledger, domains, out):
            path = out / "a" / "labels" / f"{question.stem}.png"
            painted = domains["a"].space.encode(read_mask(path), path)
            np.copyto(question.window(painted), 1, where=question.inside)
            write_mask(path, painted, domains["a"].space)
        read_answers(ledger, domains, out, "ann")
    done = campaign(config, tmp_path / "run")
    assert (done["state"], done["answered"]) == ("done", done["asked"])
    assert done["history"][0]["pixels"]["a"] > 0


def test_enough_is_not_enough_where_nothing_is_labelled(data: Path, tmp_path: Path) -> None:
    config = settings(data, domains=["a"], labelled=0, rounds=1, annotator="people", first=BY_CHANCE)
    assert campaign(config, tmp_path / "run")["state"] == "waiting"
    with pytest.raises(ValueError, match="run: nothing is labelled in a; answer questions there"):
        campaign(config, tmp_path / "run", enough=True)
    domain = load_domains(config)["a"]
    campaigns.skip(tmp_path / "run", [q for q in questions_of(tmp_path / "run") if not domain.source.has_mask(q.stem)])
    campaigns.paint(config, tmp_path / "run", tmp_path / "painted")
    assert campaign(config, tmp_path / "run")["state"] == "done"
