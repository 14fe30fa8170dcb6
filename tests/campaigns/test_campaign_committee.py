"""Who looks at the pool: generations, the student, several networks of one training."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from campaigns import SQUARES, questions_of, settings
from ondisk import weights_of

from fewmask.acquisition.scores import SCORES
from fewmask.campaigns import campaign, rounds
from fewmask.campaigns.networks import committee
from fewmask.engine.checkpoint import load_weights
from fewmask.engine.committee import Committee
from fewmask.engine.fit import ProgressEvent
from fewmask.engine.pool import score_pool
from fewmask.engine.run import load_domains
from fewmask.runs import RunFolder


def test_the_difficulty_branch_is_the_networks_own(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a committee of generations, each one's features go through the branch that was trained on them."""
    committees = lookers(monkeypatch)
    ask = {**SQUARES, "score": "difficulty"}
    config = settings(data, "deal", ["a"], ask=ask, pool={"scales": [1.0], "generations": 2})
    campaign(config, tmp_path / "run")
    assert [len(committee.members) for committee in committees] == [1, 2]
    files = RunFolder(tmp_path / "run")
    for member, number in zip(committees[-1].members, (1, 0), strict=True):
        stored = weights_of(files.round(number).folder)
        assert all(torch.equal(v.cpu(), stored[n]) for n, v in member.network.state_dict().items())
        assert isinstance(member.difficulty, torch.nn.Module)
        branch = member.difficulty.state_dict()
        kept = load_weights(files.round(number).module_weights("difficulty"))
        assert branch.keys() == kept.keys()
        assert all(torch.equal(branch[n], kept[n]) for n in kept)
    assert (tmp_path / "run" / "difficulty.safetensors").read_bytes() == files.round(2).module_weights(
        "difficulty"
    ).read_bytes()
    assert all(isinstance(q.score, float) and 0 < q.score < 1 for q in questions_of(tmp_path / "run"))


def test_generations_vote_as_soon_as_there_are_two(data: Path, tmp_path: Path) -> None:
    """A single network has nobody to disagree with: the first look asks by entropy and says so."""
    events: list[ProgressEvent] = []
    ask = {**SQUARES, "score": "disagreement"}
    config = settings(data, "joint", ["a"], ask=ask, pool={"scales": [1.0], "generations": 2})
    config = config.model_copy(update={"seed": 1})  # with this seed the two do not vote alike in every pixel
    campaign(config, tmp_path / "run", events.append)
    looks = [m for m in events if "score pool" in m.stage]
    assert list(dict.fromkeys(m.stage for m in looks)) == ["round 2/3 score pool by entropy", "round 3/3 score pool"]
    assert not any(m.later for m in looks)

    (domain,) = load_domains(config).values()
    by_entropy = committee(config, {"a": domain}, [RunFolder(tmp_path / "run").round(0)], torch.device("cpu"))
    for question in questions_of(tmp_path / "run", 1):
        logits = by_entropy(torch.from_numpy(domain.image(question.stem)).permute(2, 0, 1)[None], "a", 0).logits
        score = SCORES["entropy"](logits)[0].numpy()
        assert question.score == pytest.approx(question.window(score).mean(), rel=1e-3)
    for question in questions_of(tmp_path / "run", 2):  # of two votes a pixel has log 2 of entropy, or none
        y0, x0, y1, x1 = question.box
        disputed = question.score * (y1 - y0) * (x1 - x0) / math.log(2)
        assert disputed == pytest.approx(round(disputed), abs=1e-2)
    assert any(question.score > 0 for question in questions_of(tmp_path / "run", 2))


def lookers(monkeypatch: pytest.MonkeyPatch) -> list[Committee]:
    """Who looks at the pool from here on, look by look."""
    committees: list[Committee] = []
    own = score_pool

    def watched(committee: Committee, *arguments: Any, **options: Any) -> Any:
        committees.append(committee)
        return own(committee, *arguments, **options)

    monkeypatch.setattr(rounds, "score_pool", watched)
    return committees


def test_the_student_may_look_in_the_teachers_place(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    committees = lookers(monkeypatch)
    method = {"name": "s4al", "ema": 0.9}
    config = settings(data, method, ["a"], rounds=2, ask=SQUARES, pool={"scales": [1.0], "network": "student"})
    campaign(config, tmp_path / "run")
    run = RunFolder(tmp_path / "run").round(0)
    student = load_weights(run.module_weights("student"))
    looked = committees[0].members[0].network.state_dict()
    assert all(torch.equal(looked[n], student[n]) for n in student)
    assert any(not torch.equal(looked[n], weights_of(run.folder)[n]) for n in student)


def test_several_networks_of_one_training_form_a_committee(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one generation already: what two networks that teach each other disagree on is asked for."""
    committees = lookers(monkeypatch)
    both = {"scales": [1.0], "network": ["model", "second"]}
    ask = {**SQUARES, "score": "disagreement"}
    events: list[ProgressEvent] = []
    method = {"name": "co-training", "labels_in": "train"}
    campaign(settings(data, method, ["a"], rounds=2, ask=ask, pool=both), tmp_path / "run", events.append)
    run = RunFolder(tmp_path / "run").round(0)
    expected = (weights_of(run.folder), load_weights(run.module_weights("second")))
    for member, weights in zip(committees[0].members, expected, strict=True):
        own_weights = member.network.state_dict()
        assert all(torch.equal(own_weights[name], values) for name, values in weights.items())
    assert not [m.stage for m in events if "by entropy" in m.stage]
    assert all(question.score > 0 for question in questions_of(tmp_path / "run"))
    one = {"scales": [1.0], "network": ["second", "second"]}
    with pytest.raises(ValueError, match="disagreement compares 2 opinions or more, and 1 network has 1 here"):
        campaign(settings(data, "co-training", ["a"], rounds=2, ask=ask, pool=one), tmp_path / "alone")
