"""Campaigns: rounds of training and asking, with the oracle and with people, over one domain and several.

Shapes: N candidates · H×W pixels.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import campaigns
import helpers
import numpy as np
import pytest
import torch
from campaigns import BY_CHANCE, SQUARES, asked, assert_same_campaign, settings, settings_of
from ondisk import assert_same_run, metrics_of, two_domains, weights_of, write_domain
from PIL import Image

from fewmask.acquisition.regions import Regions, parse_regions
from fewmask.acquisition.scores import SCORES
from fewmask.acquisition.selection import Candidates
from fewmask.annotation.folder import read_answers, write_questions
from fewmask.annotation.ledger import Ledger
from fewmask.annotation.questions import Answer, Question
from fewmask.campaigns import campaign, pool_progress, rounds
from fewmask.campaigns.asking import domains_without_label, questions, ranked_together
from fewmask.campaigns.history import cost_model, cost_of_image, needs
from fewmask.campaigns.networks import committee
from fewmask.campaigns.settings import SEEDS_APART
from fewmask.config import AskSettings, CampaignSettings, Config
from fewmask.data.domain import Domain, read_mask
from fewmask.data.pictures import write_mask
from fewmask.data.pseudo import PseudoFolder
from fewmask.engine import fit, pool
from fewmask.engine.checkpoint import load_weights
from fewmask.engine.committee import Committee, Member
from fewmask.engine.evaluation import evaluate
from fewmask.engine.fit import ProgressEvent, train
from fewmask.engine.pool import score_pool
from fewmask.engine.pool_scores import PoolScores
from fewmask.engine.run import load_domains, load_model
from fewmask.files import Written
from fewmask.labels import NOT_LABELLED
from fewmask.methods import METHODS, SETTINGS, parse_config
from fewmask.models.universal import UniversalSegmenter
from fewmask.runs import Entry, RunFolder

STUDENT = {"name": "s4al-plus", "confidence": 0.0, "contrast": {"weight": 0}}


class Stop(Exception):
    """What an interrupted campaign ends with."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Domains a (3 classes) and b (4): of train 4 masks and an image without one each, of which 1 is labelled."""
    return two_domains(tmp_path_factory.mktemp("data"), train=4, pool=1)


# ── The oracle ───────────────────────────────────────────────────────────────────────────────────────────────────────


class Watched:
    """What a campaign handed to its trainings, which splits were looked at, and what was heard."""

    def __init__(self, config: Config, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.config, self.folder = config, folder
        self.domains: list[dict[str, Domain]] = []
        self.masks: list[dict[str, dict[str, np.ndarray]]] = []
        self.splits: list[list[str]] = []
        self.first: list[dict[str, torch.Tensor]] = []
        self.heard: list[ProgressEvent] = []
        own_train, own_evaluate, own_run = train, evaluate, fit._Fit.run_through

        def watched_train(config: Config, folder: Path, observe: Any, domains: dict[str, Domain], start: Any) -> Any:
            self.domains.append(domains)
            self.masks.append({name: campaigns.masks_of(domain) for name, domain in domains.items()})
            self.splits.append([])
            return own_train(config, folder, observe, domains, start)

        def watched_evaluate(network: Any, domains: Any, split: str, **options: Any) -> Any:
            self.splits[-1].append(split)
            return own_evaluate(network, domains, split, **options)

        def watched_run(trained: Any) -> Any:
            self.first.append({n: v.clone() for n, v in trained.model.state_dict().items()})
            return own_run(trained)

        patch.setattr(rounds, "train", watched_train)
        patch.setattr(fit, "evaluate", watched_evaluate)
        patch.setattr(fit._Fit, "run_through", watched_run)
        self.summary = campaign(config, folder, self.heard.append)


@pytest.fixture(scope="module")
def done(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    with pytest.MonkeyPatch.context() as patch:
        yield Watched(settings(data, ask=SQUARES, target=0.9), tmp_path_factory.mktemp("campaign") / "run", patch)


def test_a_campaign_runs_through_and_says_what_it_did(done: Watched) -> None:
    summary, files = done.summary, RunFolder(done.folder)
    assert summary == json.loads(files.campaign.read_text())
    assert (summary["state"], summary["round"], summary["rounds"], summary["open"]) == ("done", 2, 3, 0)
    assert [entry["round"] for entry in summary["history"]] == [0, 1, 2]
    asked_now = asked(done.folder)
    assert summary["asked"] == summary["answered"] == len(asked_now)
    assert summary["spent"] == sum(q.cost for q in asked_now)
    assert summary["result"]["round"] == 2
    assert summary["result"]["seed"] == done.config.seed
    assert not asked(done.folder, open_only=True)
    assert {m.stage for m in done.heard} == {
        f"round {n}/3 {stage}" for n in (1, 2, 3) for stage in ("look", "train", "evaluate")
    } - {"round 1/3 look"}
    left = [m.later for m in done.heard if m.stage.endswith("train")]
    assert left == [4, 4, 2, 2, 0, 0]


def test_a_look_tells_its_pace_since_its_first_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """8 of 20 images were seen before a stop, or in the first batch: 4 more in 2 seconds leave 4 seconds."""
    clock, heard = iter([100.0, 102.0]), []
    monkeypatch.setattr(pool_progress.time, "monotonic", lambda: next(clock))
    tell = pool_progress.pool_progress(heard.append, "a", "look", torch.device("cpu"))
    tell(8, 20)
    tell(12, 20)
    assert [(m.run, m.stage, m.step, m.steps_per_second) for m in heard] == [
        ("a", "look", 8, 0.0),
        ("a", "look", 12, 2.0),
    ]
    assert heard[-1].seconds_left == 4


def test_the_folder_holds_the_last_rounds_model_and_no_state(done: Watched) -> None:
    files = RunFolder(done.folder)
    assert all(torch.equal(v, weights_of(files.round(2).folder)[n]) for n, v in weights_of(done.folder).items())
    assert load_model(done.folder).domains == ("a", "b")
    assert not list(done.folder.rglob("state"))
    assert not list(done.folder.rglob(".*.tmp"))


def test_no_round_spends_more_than_its_budget_and_each_spends_most_of_it(done: Watched) -> None:
    for number in (1, 2):
        pixels = sum(int(q.inside.sum()) for q in asked(done.folder, number))
        assert 700 - 16 * 16 < pixels <= 700
        assert pixels == sum(q.cost for q in asked(done.folder, number))
    assert not asked(done.folder, 0)


def test_no_pixel_is_asked_twice_and_none_that_has_no_mask(done: Watched) -> None:
    domains = load_domains(done.config)
    counts: dict[tuple[str, str], np.ndarray] = {}
    for question in asked(done.folder):
        domain = domains[question.domain]
        assert question.stem not in domain.labelled
        assert domain.source.has_mask(question.stem)
        count = counts.setdefault((question.domain, question.stem), np.zeros(domain.mask(question.stem).shape, int))
        question.window(count)[question.inside] += 1
    assert counts
    assert max(count.max() for count in counts.values()) == 1


def test_answers_are_trained_on_at_once(done: Watched) -> None:
    """Each round's masks are those of the start, and the answers of the rounds up to it: the truth where asked."""
    domains = load_domains(done.config)
    for number, (given, masks) in enumerate(zip(done.domains, done.masks, strict=True)):
        for name, domain in domains.items():
            about = [q for q in asked(done.folder) if q.domain == name and q.round <= number]
            stems = {q.stem for q in about}
            assert given[name].partial.keys() == stems
            assert set(given[name].labelled) == {*domain.labelled, *stems}
            for stem in stems:
                expected = np.full(domain.mask(stem).shape, NOT_LABELLED, np.uint8)
                for q in about:
                    if q.stem == stem:
                        np.copyto(q.window(expected), q.window(domain.mask(stem)), where=q.inside)
                np.testing.assert_array_equal(masks[name][stem], expected)


def test_the_labels_view_is_the_ledgers(done: Watched) -> None:
    domains, files = load_domains(done.config), RunFolder(done.folder)
    with Ledger(files.ledger) as ledger:
        seen = 0
        for name, domain in domains.items():
            for stem in ledger.answered_stems(name):
                path = files.labels / name / f"{stem}.png"
                np.testing.assert_array_equal(domain.space.encode(read_mask(path), path), ledger.labels(name, stem))
                seen += 1
    assert seen == len(list(files.labels.rglob("*.png"))) > 0


def test_the_history_counts_what_was_labelled(done: Watched) -> None:
    for entry, masks in zip(done.summary["history"], done.masks, strict=True):
        pixels = {name: sum(int((m != NOT_LABELLED).sum()) for m in own.values()) for name, own in masks.items()}
        assert entry["pixels"] == pixels
        assert entry["cost"] == pixels  # the budget's unit
        assert entry["total_cost"] == sum(pixels.values())
        assert entry["avg_miou"] == pytest.approx(np.mean(list(entry["miou"].values())))
    for number, entry in enumerate(done.summary["history"]):
        lines = [line for line in metrics_of(RunFolder(done.folder).round(number).folder) if "validation" in line]
        assert entry["miou"] == lines[-1]["validation"]
    looks = [entry["look_seconds"] for entry in done.summary["history"]]
    assert looks[0] == 0  # nothing is asked for first
    assert looks[1] > 0 and looks[2] > 0


def test_only_the_last_round_looks_at_test_and_once(done: Watched) -> None:
    assert done.splits == [["val", "val"], ["val", "val"], ["val", "test"]]
    splits = [
        {d["split"] for d in campaigns.read(RunFolder(done.folder).round(n).summary)["domains"].values()}
        for n in range(3)
    ]
    assert splits == [{"val"}, {"val"}, {"test"}]


def test_every_round_begins_with_a_fresh_network(done: Watched) -> None:
    spaces = {name: domain.space for name, domain in load_domains(done.config).items()}
    for number, first in enumerate(done.first):
        seed = done.config.seed + number * SEEDS_APART
        fresh = UniversalSegmenter(done.config.model, spaces, seed).state_dict()
        assert first.keys() == fresh.keys()
        assert all(torch.equal(first[name], fresh[name]) for name in fresh)


def test_a_finished_campaign_called_again_says_the_same_and_changes_nothing(done: Watched) -> None:
    before = campaigns.files_of(done.folder)
    times = {p: p.stat().st_mtime_ns for p in done.folder.rglob("*.safetensors")}
    assert campaign(done.config, done.folder) == done.summary
    assert campaigns.files_of(done.folder) == before
    assert {p: p.stat().st_mtime_ns for p in done.folder.rglob("*.safetensors")} == times


def test_another_configuration_is_refused(done: Watched, data: Path) -> None:
    other = settings(data, ask=SQUARES, target=0.9).model_copy(update={"seed": 9})
    with pytest.raises(ValueError, match=r"^seed: 0 so far, 9 now: the images that are labelled from the start"):
        campaign(other, done.folder)


def test_a_campaign_goes_on_with_another_batch_in_its_looks(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one must whose memory did not suffice; the questions are the same, for all that the pieces tell."""
    own, fits = Committee.__call__, 0

    def short(committee: Committee, image: torch.Tensor, domain: str, seed: int) -> Any:
        if len(image) > fits:
            raise torch.OutOfMemoryError("no memory")
        return own(committee, image, domain, seed)

    of = {"domains": ["a"], "rounds": 2, "ask": SQUARES}
    campaign(settings(data, **of), tmp_path / "plain")
    monkeypatch.setattr(Committee, "__call__", short)
    words = r"^a: out of memory scoring 4 images of 40×48 at scales 1; lower campaign\.pool\.batch_size.*\(no memory\)$"
    with pytest.raises(RuntimeError, match=words):
        campaign(settings(data, **of), tmp_path / "run")
    one = settings(data, **of, pool={"scales": [1.0], "batch_size": 1})
    with pytest.raises(RuntimeError, match="1 × 40×48 at scales 1; begin another campaign with smaller"):
        campaign(one, tmp_path / "run")
    fits = 1
    campaign(one, tmp_path / "run")
    assert [str(q) for q in asked(tmp_path / "run")] == [str(q) for q in asked(tmp_path / "plain")]


def test_a_warm_start_goes_on_with_the_last_rounds_weights(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(data, domains=["a"], rounds=2, ask=SQUARES, start="warm", first_steps=1)
    watched = Watched(config, tmp_path / "run", monkeypatch)
    files = RunFolder(tmp_path / "run")
    last = weights_of(files.round(0).folder)
    assert all(torch.equal(watched.first[1][name], last[name]) for name in last)
    assert [campaigns.read(files.round(n).summary)["steps"] for n in (0, 1)] == [1, 2]


def test_one_round_without_questions_is_plain_training(data: Path, tmp_path: Path) -> None:
    config = settings(data, rounds=1, train={"evaluate_every": 1})
    result = campaign(config, tmp_path / "campaign")
    train(config.model_copy(update={"campaign": None}), tmp_path / "train")
    assert_same_run(tmp_path / "train", RunFolder(tmp_path / "campaign").round(0).folder)
    summary = campaigns.read(tmp_path / "campaign" / "summary.json")
    assert campaigns.timeless(summary) == {
        **campaigns.timeless(campaigns.read(tmp_path / "train" / "summary.json")),
        "round": 0,
    }
    expected, got = weights_of(tmp_path / "train"), weights_of(tmp_path / "campaign")
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    assert result["forecast"] is None
    assert (result["asked"], result["spent"]) == (0, 0)


# ── Self-training ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_without_questions_a_campaign_is_self_training_in_generations(data: Path, tmp_path: Path) -> None:
    """By hand: train, write what that network says of the pool, train a fresh network on both."""
    config = settings(data, STUDENT, ["a"], rounds=2)
    campaign(config, tmp_path / "run")
    plain = config.model_copy(update={"campaign": None})
    domains = load_domains(config)
    train(plain.model_copy(update={"train": config.train.model_copy(update={"score": "val"})}), tmp_path / "teacher")
    assert config.campaign is not None
    committee = Committee([Member(load_model(tmp_path / "teacher"))], config.campaign.pool, config.train.precision)
    pseudo = PseudoFolder(tmp_path / "pseudo")
    score_pool(committee, domains["a"], tmp_path / "seen", cache=tmp_path, pseudo=pseudo, workers=0)
    student = plain.model_copy(update={"seed": config.seed + SEEDS_APART})
    train(student, tmp_path / "student", domains={"a": replace(domains["a"], pseudo=pseudo)})
    expected, got = weights_of(tmp_path / "student"), weights_of(tmp_path / "run")
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    assert {line.get("phase") for line in metrics_of(tmp_path / "student")} == {"student", None}
    assert not asked(tmp_path / "run")
    assert not list((tmp_path / "run").rglob("*.label.png"))

    nothing = settings(data, STUDENT, ["a"], rounds=2, ask={**SQUARES, "budget": {"amount": 0, "unit": "pixels"}})
    campaign(nothing, tmp_path / "zero")
    assert all(torch.equal(v, weights_of(tmp_path / "zero")[n]) for n, v in got.items())


def test_answers_arrive_with_pseudo_labels(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(settings(data, STUDENT, ["a"], rounds=2, ask=SQUARES), tmp_path / "run", monkeypatch)
    first, second = (domains["a"] for domains in watched.domains)
    assert first.pseudo is None
    assert isinstance(second.pseudo, PseudoFolder)
    assert second.partial.keys() == {q.stem for q in asked(tmp_path / "run")}


# ── Stopped and gone on with ─────────────────────────────────────────────────────────────────────────────────────────


class Stops:
    """Raises Stop once after every call of every patched function, by its name and what it is about; of some before."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.patch, self.known = patch, set[tuple[str, ...]]()

    def at(self, where: Any, name: str, about: Callable[..., str], before: bool = False) -> None:
        call = getattr(where, name)

        def stopping(*arguments: Any, **options: Any) -> Any:
            if before:
                self._once(name, "before", about(*arguments))
            result = call(*arguments, **options)
            self._once(name, "after", about(*arguments))
            return result

        self.patch.setattr(where, name, stopping)

    def _once(self, *point: str) -> None:
        if point not in self.known:
            self.known.add(point)
            raise Stop(" ".join(point))


def test_a_campaign_stopped_at_every_boundary_is_bit_for_bit_the_one_that_was_not(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(data, STUDENT, ["a"], 0, rounds=2, first=BY_CHANCE, ask=SQUARES, train={"steps": 1})
    monkeypatch.setattr(pool, "PIECE", 3)
    campaign(config, tmp_path / "whole")
    stops = Stops(monkeypatch)
    folder = tmp_path / "run"
    stops.at(pool, "save_piece", lambda path, *_: str(path.relative_to(folder)))
    stops.at(PseudoFolder, "write", lambda self, stem, *_: stem)
    stops.at(Ledger, "add_images", lambda self, domain, stems: "")
    stops.at(Ledger, "ask", lambda self, number, questions: str(number), before=True)
    stops.at(Ledger, "answer", lambda self, answers: str(answers[0].question), before=True)
    stops.at(rounds, "write_labels", lambda ledger, domains, folder, up_to: str(up_to))
    stops.at(RunFolder, "write_record", lambda self, path, record: str(path.relative_to(folder)), before=True)
    stops.at(rounds, "train", lambda config, *_: str(config.seed), before=True)
    stops.at(fit, "save_state", lambda path, state, *_: f"{path.relative_to(folder)} {state['step']}")
    stops.at(fit, "save_model", lambda run, network: str(run.folder.relative_to(folder)))
    stops.at(rounds, "write_bytes", lambda path, data: str(path.relative_to(folder)))
    stops.at(Written, "clear", lambda self, keep=(): f"{self.folder.relative_to(folder)} {len(keep)}")
    stopped = []
    while True:
        try:
            campaign(config, folder)
            break
        except Stop as stop:
            stopped.append(str(stop))
    assert len({name.split()[0] for name in stopped}) == 12
    assert len(stopped) > 40
    assert_same_campaign(tmp_path / "whole", folder)


# ── People ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_masks_that_change_between_rounds_do_not_change_what_rounds_before_were_trained_on(tmp_path: Path) -> None:
    config = settings(write_domain(tmp_path / "a").parent, domains=["a"], annotator="people", ask=SQUARES, rounds=2)
    (stem,) = load_domains(config)["a"].labelled
    before = campaign(config, tmp_path / "run")["history"]
    path = tmp_path / "a" / "labels" / f"{stem}.png"
    with Image.open(path) as picture:
        mask = np.array(picture)
    known = int((mask != NOT_LABELLED).sum())
    mask[:20] = NOT_LABELLED
    Image.fromarray(mask).save(path)
    assert before[0]["pixels"] == {"a": known}
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
    questions_ = asked(run, 0)
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
        == len(asked(run, 0, open_only=True))
        == waiting["open"] - len({q.id for q in questions_} - {q.id for q in asked(run, open_only=True)})
    )
    campaigns.paint(config, run, out)
    heard: list[ProgressEvent] = []
    waiting = campaign(config, run, heard.append)
    assert {m.later for m in heard} == {0}  # how long people take for the next round nobody knows
    assert (waiting["state"], waiting["round"]) == ("waiting", 1)
    assert len(waiting["history"]) == 1
    answered = sum(int(q.inside.sum()) for q in questions_ if q.stem in truth)
    assert waiting["history"][0]["pixels"] == {"a": answered}
    assert waiting["result"]["round"] == 0

    second = asked(run, 1)
    campaigns.skip(run, [q for q in second if q.stem not in truth])
    campaigns.paint(config, run, tmp_path / "second", slice(0, 1))
    late = asked(run, 1, open_only=True)
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
    assert {(q.stem, q.region) for q in asked(run, 2)}.isdisjoint((q.stem, q.region) for q in [*questions_, *second])

    campaigns.skip(run, [q for q in asked(run, 2) if q.stem not in truth])
    campaigns.paint(config, run, tmp_path / "third")  # the late ones too
    finished = campaign(config, run)
    assert finished["state"] == "done"
    total = sum(int(q.inside.sum()) for q in asked(run) if q.stem in truth)
    assert finished["history"][2]["pixels"] == {"a": total}
    assert finished["history"][1]["pixels"] == {"a": answered + early}


def test_enough_is_said_of_the_questions_that_are_there(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where none of them is open, where nothing was asked, and where the training stops and begins again."""
    by_people: dict[str, Any] = {"annotator": "people", "first": BY_CHANCE, "ask": SQUARES, "rounds": 3}
    config, run = settings(data, domains=["a"], **by_people), tmp_path / "run"
    campaign(config, run)
    campaigns.skip(run, asked(run, 0))
    waiting = campaign(config, run, enough=True)
    assert (waiting["state"], waiting["round"]) == ("waiting", 1)
    with monkeypatch.context() as patch:
        Stops(patch).at(rounds, "train", lambda *_: "", before=True)
        with pytest.raises(Stop):
            campaign(config, run, enough=True)
    waiting = campaign(config, run, enough=True)
    assert (waiting["state"], waiting["round"]) == ("waiting", 2)
    assert waiting["open"] == len(asked(run, 2))
    finished = campaign(config, run, enough=True)
    assert (finished["state"], finished["open"]) == ("done", len(asked(run, 1)) + len(asked(run, 2)))

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
        campaigns.skip(run, [q for q in asked(run, open_only=True) if not truth.source.has_mask(q.stem)])
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


# ── What is asked ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_was_asked_in_another_cut_is_not_asked_again(data: Path, tmp_path: Path) -> None:
    """Points by chance, then superpixels, which leave the points out, until nothing is left; then nothing is asked."""
    first = {"regions": "points", "score": "random", "top": 1.0, "budget": {"amount": 30, "unit": "clicks"}}
    then = {"regions": "superpixels:12", "score": "margin", "budget": {"amount": 10_000, "unit": "clicks"}}
    config = settings(data, domains=["a"], labelled=0, first=first, ask=then)
    campaign(config, tmp_path / "run")
    domain = load_domains(config)["a"]
    masks = {stem for stem in domain.splits["train"] if domain.source.has_mask(stem)}
    counts = {stem: np.zeros(domain.image(stem).shape[:2], int) for stem in masks}
    kinds = []
    for question in asked(tmp_path / "run"):
        question.window(counts[question.stem])[question.inside] += 1
        kinds.append(question.kind)
    assert all((count == 1).all() for count in counts.values())
    assert kinds.count("points") == 30
    assert set(kinds) == {"points", "superpixels:12:10"}
    with Ledger(RunFolder(tmp_path / "run").ledger) as ledger:
        assert ledger.rounds()[2] == 0
    guesses = {q.guess for q in asked(tmp_path / "run", 0)}
    assert guesses == {None}  # nobody knew anything
    assert {q.guess for q in asked(tmp_path / "run", 1)} <= {0, 1, 2}


def test_so_much_an_image(data: Path, tmp_path: Path) -> None:
    first = {"regions": "points", "score": "random", "top": 1.0, "candidates": 9}
    first["budget"] = {"amount": 4, "unit": "regions", "per": "image"}
    config = settings(data, labelled=0, rounds=1, first=first)
    summary = campaign(config, tmp_path / "run")
    per_image: dict[tuple[str, str], int] = {}
    for q in asked(tmp_path / "run"):
        per_image[q.domain, q.stem] = per_image.get((q.domain, q.stem), 0) + 1
    assert len(per_image) == 8
    assert set(per_image.values()) == {4}
    assert summary["history"][0]["cost"] == {"a": 16, "b": 16}


def test_a_first_budget_that_leaves_a_domain_without_labels_is_refused_before_anything_is_asked(
    data: Path, tmp_path: Path
) -> None:
    first = {**BY_CHANCE, "budget": {"amount": 1, "unit": "regions"}}
    with pytest.raises(ValueError, match=r"campaign\.first\.budget: 1 region buys no question in [ab], where nothing"):
        campaign(settings(data, labelled=0, rounds=1, first=first), tmp_path / "run")
    assert asked(tmp_path / "run") == []


@pytest.mark.parametrize(
    ("domains", "changes", "message"),
    [
        (["a"], {"budget": {"amount": 20, "unit": "pixels"}},
         r"ask\.budget: 20 pixels buy no question, the cheapest of squares:16 costs 128; raise it or take smaller"),
        (["a"], {"budget": {"amount": 20, "unit": "pixels", "per": "image"}}, r"ask\.budget: 20 pixels an image buy"),
        (["a"], {"regions": "squares:48", "border": False, "budget": {"amount": 2304, "unit": "pixels"}},
         r"ask\.border: false leaves out every open region of squares:48; set true, or take smaller"),
        (["c"], {}, r"ask\.budget: the oracle has no mask for the open pixels; add masks, or set campaign\.annotator"),
    ],
)  # fmt: skip
def test_a_budget_that_buys_nothing_is_refused_before_test_is_looked_at(
    domains: list[str], changes: dict[str, Any], message: str, data: Path, tmp_path: Path
) -> None:
    write_domain(tmp_path / "c", train=1, pool=2)
    config = settings(data if domains == ["a"] else tmp_path, domains=domains, rounds=2, ask={**SQUARES, **changes})
    with pytest.raises(ValueError, match=rf"^campaign\.{message}.*, and give another --out$"):
        campaign(config, tmp_path / "run")
    assert asked(tmp_path / "run") == []
    assert not RunFolder(tmp_path / "run").round(1).folder.exists()


def test_nothing_is_said_of_a_budget_of_nothing_and_of_a_pool_that_is_empty(data: Path, tmp_path: Path) -> None:
    nothing = {**SQUARES, "budget": {"amount": 0, "unit": "pixels"}}
    assert campaign(settings(data, rounds=2, ask=nothing), tmp_path / "nothing")["budget"] == 0
    write_domain(tmp_path / "c", train=2, pool=0)
    summary = campaign(settings(tmp_path, domains=["c"], labelled=None, rounds=2, ask=SQUARES), tmp_path / "empty")
    assert (summary["state"], summary["spent"], summary["budget"]) == ("done", 0, 700)


def test_a_budget_that_is_not_used_up_is_told(data: Path, tmp_path: Path) -> None:
    """Per image it is of those that the oracle can answer about: 3 of a have a mask and are not labelled."""
    of_image = {"regions": "points", "score": "random", "top": 0.001, "candidates": 9}
    of_image["budget"] = {"amount": 9, "unit": "regions", "per": "image"}
    summary = campaign(settings(data, domains=["a"], rounds=2, ask=of_image), tmp_path / "image")
    assert (summary["spent"], summary["budget"]) == (3 * 2, 3 * 9)  # 2 of 1920 pixels are a thousandth
    of_pool = {"regions": "squares:16", "budget": {"amount": 20, "unit": "regions"}}
    summary = campaign(settings(data, domains=["a"], rounds=3, ask=of_pool), tmp_path / "pool")
    assert (summary["spent"], summary["budget"]) == (3 * 9, 2 * 20)


# ── Several domains, one budget ──────────────────────────────────────────────────────────────────────────────────────


def three() -> dict[str, Domain]:
    """Domains of 2, 3 and 5 classes with 4, 2 and 3 images."""
    return {
        name: helpers.domain(name, classes, images=images, labelled=0, size=(32, 32))
        for name, classes, images in (("a", 2, 4), ("b", 3, 2), ("c", 5, 3))
    }


def candidates(domain: Domain, scale: float, seed: int = 0, group: int | None = None) -> Candidates:
    """All 4 squares of every image."""
    rng = np.random.default_rng(seed)
    images, count = len(domain.splits["train"]), 4
    drawn = rng.integers(0, domain.space.num_classes, images * count)
    return Candidates(
        image=np.repeat(np.arange(images, dtype=np.int32), count),
        region=np.tile(np.arange(count, dtype=np.int32), images),
        score=(scale * rng.uniform(0.5, 1.5, images * count)).astype(np.float32),
        cost=np.full(images * count, 256.0),
        group=(drawn if group is None else np.full(images * count, group)).astype(np.int16),
    )


EQUAL = {"a": 1.0, "b": 1.0, "c": 1.0}


def all_found(parts: dict[str, Candidates]) -> dict[str, PoolScores]:
    """As if every region that may be asked were a candidate."""
    return {
        name: PoolScores(part, None, float(part.score.sum(dtype=np.float64)), len(part)) for name, part in parts.items()
    }


def test_domains_are_ranked_together_in_numbers_of_their_own_and_on_one_scale() -> None:
    domains = three()
    parts = {"a": candidates(domains["a"], 0.1), "c": candidates(domains["c"], 7.0), "b": candidates(domains["b"], 1.0)}
    parts["b"].group[0] = -1
    before = {name: part.score.copy() for name, part in parts.items()}
    pool_ = ranked_together(all_found(parts), domains, {"a": 0.5, "b": 1.0, "c": 1.5})
    assert pool_.domain is not None
    for k, (name, images, classes) in enumerate((("a", 0, 0), ("b", 4, 2), ("c", 6, 5))):
        own, part = pool_.take(pool_.domain == k), parts[name]
        np.testing.assert_array_equal(own.image, part.image + images)
        np.testing.assert_array_equal(own.region, part.region)
        np.testing.assert_array_equal(own.group, np.where(part.group < 0, -1, part.group + classes))
        assert own.score.mean() == pytest.approx(0.5 + 0.5 * k, rel=1e-5)
        np.testing.assert_array_equal(np.argsort(own.score), np.argsort(part.score))
        np.testing.assert_array_equal(part.score, before[name])
    alone = ranked_together(all_found({"b": parts["b"]}), {"b": domains["b"]}, {"b": 3.0})
    np.testing.assert_array_equal(alone.score, parts["b"].score)


def test_the_mean_score_of_a_domain_is_that_of_all_of_its_regions() -> None:
    """Of a large image only the best are candidates; their mean alone would make little of them."""
    domains = three()
    found = all_found({name: candidates(domain, 1.0) for name, domain in domains.items()})
    before = ranked_together(found, domains, EQUAL).score
    best = found["b"].candidates.score > 1
    found["b"] = found["b"]._replace(candidates=found["b"].candidates.take(best))
    after = ranked_together(found, domains, EQUAL)
    rest = np.ones(len(before), bool)
    rest[len(found["a"].candidates) :][: len(best)] = best
    assert 0 < best.sum() < len(best)
    np.testing.assert_array_equal(after.score, before[rest])


def test_scores_drawn_by_chance_are_of_one_scale_whatever_is_kept_and_needed() -> None:
    domains = three()
    parts = {name: candidates(domain, 1.0, seed=k) for k, (name, domain) in enumerate(domains.items())}
    parts["c"] = parts["c"].take(parts["c"].score > 1)
    need = {"a": 9.0, "b": 1.0, "c": 0.1}
    total = sum(map(len, parts.values()))
    order = [(q.domain, q.score) for q in chosen(parts, domains, need, 256.0 * total, "random")]
    expected = sorted(((name, s) for name, part in parts.items() for s in part.score.tolist()), key=lambda x: -x[1])
    assert order == expected


def test_domains_without_candidates_leave_the_numbers_of_the_others_as_they_are() -> None:
    domains = three()
    nothing = candidates(domains["b"], 1.0).take(np.zeros(8, bool))
    for parts in ({"c": candidates(domains["c"], 1.0)}, {"b": nothing, "c": candidates(domains["c"], 1.0)}):
        pool_ = ranked_together(all_found(parts), domains, {"c": 1.0})
        assert pool_.image.min() == 6
        assert set(pool_.domain.tolist() if pool_.domain is not None else ()) == {2}
    zero = candidates(domains["a"], 0.0)
    assert np.isfinite(ranked_together(all_found({"a": zero}), domains, EQUAL).score).all()


def chosen(
    parts: dict[str, Candidates],
    domains: dict[str, Domain],
    need: dict[str, float],
    amount: float,
    score: str = "entropy",
) -> list[Question]:
    settings_ = AskSettings.model_validate(
        {"regions": "squares:16", "score": score, "budget": {"amount": amount, "unit": "pixels"}}
    )
    model = cost_model(CampaignSettings())
    return questions(all_found(parts), domains, settings_, (), model, need, Path("unused"), np.random.default_rng(0))


def test_one_budget_over_all_domains_and_questions_in_each_ones_own_terms() -> None:
    domains = three()
    parts = {name: candidates(domain, 10.0**k, group=1) for k, (name, domain) in enumerate(domains.items())}
    found = chosen(parts, domains, EQUAL, 12 * 256 + 100)
    assert len(found) == 12
    assert [q.score for q in found] == sorted((q.score for q in found), reverse=True)
    assert {q.domain for q in found} == {"a", "b", "c"}
    for q in found:
        position = domains[q.domain].splits["train"].index(q.stem)
        row = position * 4 + q.region
        part = parts[q.domain]
        assert q.score == pytest.approx(part.score[row] / part.score.mean(), rel=1e-5)
        assert q.guess == 1
        assert q.box == parse_regions("squares:16").tile(domains[q.domain].image(q.stem)).box(q.region)
    assert len({(q.domain, q.stem, q.region) for q in found}) == 12
    assert chosen({"b": parts["b"].take(np.zeros(8, bool))}, domains, {}, 1000) == []


def test_diverse_questions_keep_away_from_what_is_covered_in_any_domain() -> None:
    """One question: the best-scored candidate where nothing is covered, else the one farthest from that."""
    domains = {name: domain for name, domain in three().items() if name != "c"}
    ask = {"regions": "squares:16", "balance": "diverse", "budget": {"amount": 1}}
    parts = {}
    for name, scores, far in (("a", (0.9, 0.5), 1), ("b", (0.1, 1.0), 9)):
        part, where = candidates(domains[name], 1.0).take(np.arange(2)), far * np.eye(2, dtype=np.float16)
        parts[name] = replace(part, score=np.array(scores, np.float32), embedding=where)
    for covered, domain in ((None, "b"), (parts["b"].embedding, "a")):
        found = all_found(parts)
        found["a"] = found["a"]._replace(covered=covered)
        (question,) = questions(
            found, domains, AskSettings.model_validate(ask), (), cost_model(CampaignSettings()), EQUAL, Path("unused"),
            np.random.default_rng(0),
        )  # fmt: skip
        assert (question.domain, question.region) == (domain, 1 if domain == "b" else 0)


def test_no_pixel_is_asked_for_twice_however_the_image_was_cut_before() -> None:
    """Pixels that were skipped, and pixels that are labelled."""
    mask = np.full((32, 32), NOT_LABELLED, np.uint8)
    mask[:, 12:16] = 1
    source = helpers.ArraySource({"a-0": np.zeros((32, 32, 3), np.uint8)}, {"a-0": mask})
    plain_ = helpers.domain("a", 3, images=1, labelled=1, size=(32, 32))
    domain = replace(plain_, source=source, splits={"train": ("a-0",)}, labelled=("a-0",), partial={"a-0": 0.125})
    part = candidates(domain, 1.0).take(np.arange(1))
    settings_ = AskSettings.model_validate({"regions": "squares:16", "budget": {"amount": 1}})
    skipped = [Question("a", "a-0", "squares:5", 0, (0, 0, 5, 5)), Question("a", "a-1", "squares:5", 1, (0, 5, 5, 10))]
    (found,) = questions(
        all_found({"a": part}), {"a": domain}, settings_, skipped, cost_model(CampaignSettings()), {"a": 1.0},
        Path("unused"), np.random.default_rng(0),
    )  # fmt: skip
    expected = np.ones((16, 16), bool)
    expected[:5, :5] = expected[:, 12:] = False
    np.testing.assert_array_equal(found.inside, expected)


def test_domains_look_at_their_pools_with_draws_of_their_own(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the i-th images of two domains would be asked about in the same places."""
    seeds = dict[tuple[int, str], int]()
    monkeypatch.setattr(rounds, "committee", lambda *_: None)
    monkeypatch.setattr(
        rounds, "score_pool", lambda _, domain, *__, request, seed, **___: seeds.update({(request, domain.name): seed})
    )
    config = settings(data)
    made = rounds._Rounds(config, tmp_path / "run", lambda event: None, False)
    for number in (0, 1):
        monkeypatch.setattr(rounds, "ScoringRequest", lambda settings, number, before: number)
        made._score_pools(number, made.domains, AskSettings.model_validate(BY_CHANCE), [])
    assert len(seeds) == len(set(seeds.values())) == 4
    assert seeds[0, "a"] == config.seed


def entry(number: int, cost: dict[str, float], miou: dict[str, float | None]) -> Entry:
    return Entry.with_sums(number, cost, {name: int(c) for name, c in cost.items()}, miou, 1.0, 0.0)


def history(**curves: tuple[float | None, ...]) -> list[Entry]:
    """Rounds with 1000, 2000, 3000, … labels in each domain, and these mIoUs."""
    length = len(next(iter(curves.values())))
    return [
        entry(i, dict.fromkeys(curves, 1000.0 * (i + 1)), {name: values[i] for name, values in curves.items()})
        for i in range(length)
    ]


def test_needs() -> None:
    steep, flat = (0.2, 0.35, 0.45, 0.53), (0.4, 0.4, 0.401, 0.4)
    by_curve = needs(history(a=steep, b=flat), ["a", "b"], 1000)
    assert by_curve["a"] > 5 * by_curve["b"] >= 0
    assert by_curve["a"] + by_curve["b"] == pytest.approx(2)
    by_gap = needs(history(a=(0.2, 0.4), b=(0.3, 0.8)), ["a", "b"], 1000)
    assert by_gap == pytest.approx({"a": 1.5, "b": 0.5})
    assert needs(history(a=(0.2, 0.4), b=(None, None)), ["a", "b"], 1000) == {"a": 1, "b": 1}
    assert needs([], ["a", "b"], 1000) == {"a": 1, "b": 1}
    assert needs(history(a=(1.0,), b=(1.0,)), ["a", "b"], 1000) == {"a": 1, "b": 1}
    assert needs([], [], 1000) == {}
    # A domain with nothing left to ask has no say: its curve stands still.
    stuck = [entry(e.round, {**e.cost, "c": 500.0}, {**e.miou, "c": 0.3}) for e in history(a=steep, b=flat)]
    assert needs(stuck, ["a", "b"], 1000) == by_curve


def test_a_domain_whose_curve_is_flat_gets_fewer_questions_than_one_whose_curve_is_steep() -> None:
    domains = {name: helpers.domain(name, 3, images=6, labelled=0, size=(32, 32)) for name in ("a", "b")}
    parts = {name: candidates(domain, 1.0, seed=k) for k, (name, domain) in enumerate(domains.items())}
    past = history(a=(0.2, 0.35, 0.45, 0.53), b=(0.4, 0.41, 0.416, 0.42))
    counts = {}
    for key, need in (("curve", needs(past, ["a", "b"], 1000)), ("equal", EQUAL)):
        found = chosen(parts, domains, need, 16 * 256)
        counts[key] = sum(q.domain == "b" for q in found), len(found)
    assert counts["curve"][0] < counts["equal"][0] - 2
    assert counts["curve"][1] == counts["equal"][1] == 16


def test_bare() -> None:
    domains = three()
    asked_ = [Question("b", "b-0", "squares:16", 0, (0, 0, 16, 16))]
    assert domains_without_label(asked_, domains) == ["a", "c"]
    assert domains_without_label([], {"a": replace(domains["a"], labelled=("a-0",))}) == []


def test_a_universal_campaign_with_an_empty_pool_and_one_that_runs_dry(tmp_path: Path) -> None:
    """a has one image, which is labelled; b a few squares to ask; c many. Nothing is left after the second round."""
    for name, classes, images in (("a", 2, 1), ("b", 3, 2), ("c", 4, 3)):
        write_domain(tmp_path / name, classes, train=images, pool=0, val=1, test=1, size=(24, 32))
    ask = {"regions": "squares:16", "budget": {"amount": 6, "unit": "regions"}}
    config = settings(tmp_path, domains=["a", "b", "c"], ask=ask, rounds=4)
    summary = campaign(config, tmp_path / "run")
    counts = {n: [q.domain for q in asked(tmp_path / "run", n)] for n in (1, 2, 3)}
    assert [len(counts[n]) for n in (1, 2, 3)] == [6, 6, 0]
    assert sorted([*counts[1], *counts[2]]) == ["b"] * 4 + ["c"] * 8
    last = summary["history"][-1]
    sizes = {"a": 1, "b": 2, "c": 3}
    assert last["pixels"] == {name: 24 * 32 * images for name, images in sizes.items()}
    assert last["cost"] == pytest.approx({name: 3.0 + 4 * (images - 1) for name, images in sizes.items()})


# ── The learning curve ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("unit", "regions", "expected"),
    [
        ("pixels", "squares:30", 1000),
        ("clicks", "squares:30", 1 + 1000 * 0.5),
        ("seconds", "squares:30", 3 * (1 + 1000 * 0.5)),
        ("regions", "squares:10", 10),
        ("regions", "points", 1000),
        ("regions", "superpixels:40", 20),
        ("regions", "image", 0.5),
    ],
)
def test_what_an_image_that_came_with_labels_is_counted_as(unit: str, regions: str, expected: float) -> None:
    ask = {"regions": regions, "budget": {"amount": 1, "unit": unit}}
    cost = {"rates": {"image": {"per_region": 1, "per_pixel": 0.5}}, "seconds_per_click": 3}
    made = CampaignSettings.model_validate({"ask": ask, "cost": cost})
    assert cost_of_image(made, 1000, 2000) == pytest.approx(expected)
    assert cost_of_image(CampaignSettings(), 1000, 2000) == 1000


# ── Wrong settings ───────────────────────────────────────────────────────────────────────────────────────────────────

SCREAM = {"regions": "circles:3", "score": "surprise", "budget": {"amount": 1, "unit": "clicks"}}
WRONG: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    (
        {"first": SCREAM, "ask": {**SQUARES, "score": "bald"}},
        (
            "campaign.first.regions: 'circles:3' names no regions",
            "campaign.first.score: no score 'surprise'",
            "campaign.ask.score: bald compares 2 opinions or more, and 1 network has 1 here",
            "campaign.first.budget.unit: differs from campaign.ask's",
        ),
    ),
    (
        {"ask": {**SQUARES, "score": "disagreement"}, "rounds": 2, "pool": {"scales": [1.0], "generations": 2}},
        ("1 network has 1 here", "or campaign.pool.generations=2 with 3 campaign.rounds or more"),
    ),
    ({"first": {**SQUARES, "score": "entropy"}}, ("campaign.first.score: entropy needs a network",)),
    ({"first": {**BY_CHANCE, "balance": "diverse"}}, ("campaign.first.balance: diverse needs a network",)),
    ({"ask": {**SQUARES, "score": "difficulty"}}, ("campaign.ask.score: difficulty reads a branch", "method=deal")),
    ({"ask": SQUARES, "pool": {"network": "student"}}, ("campaign.pool.network: joint keeps no 'student'",)),
    (
        {"ask": SQUARES, "pool": {"network": ["model", "a"]}},
        ("campaign.pool.network: joint keeps no 'a'; there are",),
    ),
    ({"ask": SQUARES, "labelled": 0}, ("campaign.first: missing, and nothing is labelled in a, b",)),
    (
        {
            "ask": {**SQUARES, "budget": {"amount": 3, "unit": "clicks"}},
            "cost": {"rates": {"squares": {"per_region": 0}}},
        },
        ("campaign.cost.rates.squares: 0 clicks make a budget endless",),
    ),
    (
        {"ask": {**SQUARES, "regions": "points", "budget": {"amount": 400, "unit": "clicks", "per": "image"}}},
        ("campaign.ask.candidates: only 256 regions of an image take part, and the budget is 400 in each; set 400",),
    ),
    (
        {"ask": {**SQUARES, "border": False, "budget": {"amount": 255, "unit": "pixels"}}},
        ("campaign.ask.budget: 255 pixels buy no question, one of squares:16 costs 256 at least; raise it",),
    ),
    (
        {"first": {**BY_CHANCE, "budget": {"amount": 0.5, "unit": "regions", "per": "image"}}},
        ("campaign.first.budget: 0.5 regions buy no question",),
    ),
    (
        {"ask": {**SQUARES, "regions": "image", "border": False}},
        ("campaign.ask.border: false leaves out whole images",),
    ),
    (
        {"ask": SQUARES, "method": {"name": "supervised", "domain": "a"}},
        ("method: supervised does not train on b",),
    ),
    ({"ask": SQUARES, "dropout": 0.0, "pool": {"dropout": 3}}, ("campaign.pool.dropout: the network has no dropout",)),
]


@pytest.mark.parametrize(("changes", "words"), WRONG, ids=[words[0][:40] for _, words in WRONG])
def test_wrong_settings_are_all_listed_before_anything_is_written(
    changes: dict[str, Any], words: tuple[str, ...], data: Path, tmp_path: Path
) -> None:
    changes = dict(changes)
    first = {key: changes.pop(key) for key in ("method", "labelled") if key in changes}
    drop = changes.pop("dropout", None)
    made = settings_of(data, **first, **changes)
    if drop is not None:
        made["model"]["decoder_options"] = {"decoder_aspp_dropout": drop}
    with pytest.raises(ValueError, match=re.escape(words[0])) as raised:
        campaign(parse_config(made), tmp_path / "run")
    assert all(word in str(raised.value) for word in words)
    assert len(str(raised.value).splitlines()) == (4 if len(words) == 4 else 1)
    assert not (tmp_path / "run").exists()


def test_without_campaign_settings_there_is_no_campaign(data: Path, tmp_path: Path) -> None:
    config = settings(data).model_copy(update={"campaign": None})
    with pytest.raises(ValueError, match="campaign: missing; say how many rounds"):
        campaign(config, tmp_path / "run")


def test_every_method_that_learns_from_pseudo_labels_is_taught() -> None:
    assert [name for name in METHODS if SETTINGS[name].self_training] == ["s4al-plus"]


def test_the_difficulty_branch_is_the_networks_own(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a committee of generations, each one's features go through the branch that was trained on them."""
    seen = lookers(monkeypatch)
    ask = {**SQUARES, "score": "difficulty"}
    config = settings(data, "deal", ["a"], ask=ask, pool={"scales": [1.0], "generations": 2})
    campaign(config, tmp_path / "run")
    assert [len(committee.members) for committee in seen] == [1, 2]
    files = RunFolder(tmp_path / "run")
    for member, number in zip(seen[-1].members, (1, 0), strict=True):
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
    assert all(isinstance(q.score, float) and 0 < q.score < 1 for q in asked(tmp_path / "run"))


def test_generations_vote_as_soon_as_there_are_two(data: Path, tmp_path: Path) -> None:
    """A single network has nobody to disagree with: the first look asks by entropy and says so."""
    heard: list[ProgressEvent] = []
    ask = {**SQUARES, "score": "disagreement"}
    config = settings(data, "joint", ["a"], ask=ask, pool={"scales": [1.0], "generations": 2})
    campaign(config, tmp_path / "run", heard.append)
    looks = [m for m in heard if "look" in m.stage]
    assert list(dict.fromkeys(m.stage for m in looks)) == ["round 2/3 look by entropy", "round 3/3 look"]
    assert not any(m.later for m in looks)

    (seen,) = load_domains(config).values()
    by_entropy = committee(config, {"a": seen}, [RunFolder(tmp_path / "run").round(0)], torch.device("cpu"))
    for question in asked(tmp_path / "run", 1):
        logits = by_entropy(torch.from_numpy(seen.image(question.stem)).permute(2, 0, 1)[None], "a", 0).logits
        score = SCORES["entropy"](logits)[0].numpy()
        assert question.score == pytest.approx(question.window(score).mean(), rel=1e-3)
    for question in asked(tmp_path / "run", 2):  # of two votes a pixel has log 2 of entropy, or none
        y0, x0, y1, x1 = question.box
        disputed = question.score * (y1 - y0) * (x1 - x0) / math.log(2)
        assert disputed == pytest.approx(round(disputed), abs=1e-2)
    assert any(question.score > 0 for question in asked(tmp_path / "run", 2))


def lookers(monkeypatch: pytest.MonkeyPatch) -> list[Committee]:
    """Who looks at the pool from here on, look by look."""
    seen: list[Committee] = []
    own = score_pool

    def watched(committee: Committee, *arguments: Any, **options: Any) -> Any:
        seen.append(committee)
        return own(committee, *arguments, **options)

    monkeypatch.setattr(rounds, "score_pool", watched)
    return seen


def test_the_student_may_look_in_the_teachers_place(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = lookers(monkeypatch)
    method = {"name": "s4al", "ema": 0.9}
    config = settings(data, method, ["a"], rounds=2, ask=SQUARES, pool={"scales": [1.0], "network": "student"})
    campaign(config, tmp_path / "run")
    run = RunFolder(tmp_path / "run").round(0)
    student = load_weights(run.module_weights("student"))
    looked = seen[0].members[0].network.state_dict()
    assert all(torch.equal(looked[n], student[n]) for n in student)
    assert any(not torch.equal(looked[n], weights_of(run.folder)[n]) for n in student)


def test_several_networks_of_one_training_form_a_committee(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one generation already: what two networks that teach each other disagree on is asked for."""
    seen = lookers(monkeypatch)
    both = {"scales": [1.0], "network": ["model", "second"]}
    ask = {**SQUARES, "score": "disagreement"}
    heard: list[ProgressEvent] = []
    method = {"name": "co-training", "labels_in": "train"}
    campaign(settings(data, method, ["a"], rounds=2, ask=ask, pool=both), tmp_path / "run", heard.append)
    run = RunFolder(tmp_path / "run").round(0)
    expected = (weights_of(run.folder), load_weights(run.module_weights("second")))
    for member, weights in zip(seen[0].members, expected, strict=True):
        own_weights = member.network.state_dict()
        assert all(torch.equal(own_weights[name], values) for name, values in weights.items())
    assert not [m.stage for m in heard if "by entropy" in m.stage]
    assert all(question.score > 0 for question in asked(tmp_path / "run"))
    one = {"scales": [1.0], "network": ["second", "second"]}
    with pytest.raises(ValueError, match="disagreement compares 2 opinions or more, and 1 network has 1 here"):
        campaign(settings(data, "co-training", ["a"], rounds=2, ask=ask, pool=one), tmp_path / "alone")


def test_regions_of_the_cache_are_those_that_were_asked(data: Path, tmp_path: Path) -> None:
    """Superpixels depend on the version of a library: a later round reads those of the first one."""
    ask = {"regions": "superpixels:12", "score": "entropy", "budget": {"amount": 5, "unit": "clicks"}}
    config = settings(data, domains=["a"], ask=ask, rounds=2)
    campaign(config, tmp_path / "run")
    files = RunFolder(tmp_path / "run")
    for question in asked(tmp_path / "run"):
        path = files.superpixels / "a" / f"{question.stem}.superpixels-12-10.npz"
        stored = Regions.from_bytes(path.read_bytes())
        assert question.box == stored.box(question.region)
        np.testing.assert_array_equal(question.inside, question.window(stored.mask(question.region)))


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
    campaigns.skip(tmp_path / "run", [q for q in asked(tmp_path / "run") if not domain.source.has_mask(q.stem)])
    campaigns.paint(config, tmp_path / "run", tmp_path / "painted")
    assert campaign(config, tmp_path / "run")["state"] == "done"
