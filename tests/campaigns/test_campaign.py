"""Campaigns with the oracle, self-training, and campaigns that are stopped and gone on with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import campaigns
import numpy as np
import pytest
import torch
from campaigns import BY_CHANCE, SQUARES, STUDENT, Stop, Stops, assert_same_campaign, questions_of, settings
from ondisk import assert_same_run, metrics_of, weights_of

from fewmask.annotation.ledger import Ledger
from fewmask.campaigns import campaign, pool_progress, rounds
from fewmask.campaigns.settings import SEEDS_APART
from fewmask.config import Config
from fewmask.data.domain import Domain, read_mask
from fewmask.data.pseudo import PseudoFolder
from fewmask.engine import fit, pool
from fewmask.engine.committee import Committee, Member
from fewmask.engine.evaluation import evaluate
from fewmask.engine.fit import ProgressEvent, train
from fewmask.engine.pool import score_pool
from fewmask.engine.run import load_domains, load_model
from fewmask.files import Written
from fewmask.labels import NOT_LABELLED
from fewmask.models.universal import UniversalSegmenter
from fewmask.runs import RunFolder

# ── The oracle ───────────────────────────────────────────────────────────────────────────────────────────────────────


class Watched:
    """What a campaign handed to its trainings, which splits were looked at, and what was heard."""

    def __init__(self, config: Config, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.config, self.folder = config, folder
        self.domains: list[dict[str, Domain]] = []
        self.masks: list[dict[str, dict[str, np.ndarray]]] = []
        self.splits: list[list[str]] = []
        self.first: list[dict[str, torch.Tensor]] = []
        self.events: list[ProgressEvent] = []
        own_train, own_evaluate, own_run = train, evaluate, fit._Fit.run_through

        def watched_train(
            config: Config, folder: Path, observe: Any, domains: dict[str, Domain], start: Any, features: Any
        ) -> Any:
            self.domains.append(domains)
            self.masks.append({name: campaigns.masks_of(domain) for name, domain in domains.items()})
            self.splits.append([])
            return own_train(config, folder, observe, domains, start, features)

        def watched_evaluate(network: Any, domains: Any, split: str, **options: Any) -> Any:
            self.splits[-1].append(split)
            return own_evaluate(network, domains, split, **options)

        def watched_run(trained: Any, features: Path) -> Any:
            self.first.append({n: v.clone() for n, v in trained.model.state_dict().items()})
            return own_run(trained, features)

        patch.setattr(rounds, "train", watched_train)
        patch.setattr(fit, "evaluate", watched_evaluate)
        patch.setattr(fit._Fit, "run_through", watched_run)
        self.summary = campaign(config, folder, self.events.append)


@pytest.fixture(scope="module")
def done(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    with pytest.MonkeyPatch.context() as patch:
        yield Watched(settings(data, ask=SQUARES, target=0.9), tmp_path_factory.mktemp("campaign") / "run", patch)


def test_a_campaign_runs_through_and_says_what_it_did(done: Watched) -> None:
    summary, files = done.summary, RunFolder(done.folder)
    assert summary == json.loads(files.campaign.read_text())
    assert (summary["state"], summary["round"], summary["rounds"], summary["open"]) == ("done", 2, 3, 0)
    assert [entry["round"] for entry in summary["history"]] == [0, 1, 2]
    asked_now = questions_of(done.folder)
    assert summary["asked"] == summary["answered"] == len(asked_now)
    assert summary["spent"] == sum(q.cost for q in asked_now)
    assert summary["result"]["round"] == 2
    assert summary["result"]["seed"] == done.config.seed
    assert not questions_of(done.folder, open_only=True)
    assert {m.stage for m in done.events} == {
        f"round {n}/3 {stage}" for n in (1, 2, 3) for stage in ("score pool", "train", "evaluate")
    } - {"round 1/3 score pool"}
    left = [m.later for m in done.events if m.stage.endswith("train")]
    assert left == [4, 4, 2, 2, 0, 0]


def test_a_look_tells_its_pace_since_its_first_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """8 of 20 images were seen before a stop, or in the first batch: 4 more in 2 seconds leave 4 seconds."""
    clock, events = iter([100.0, 102.0]), []
    monkeypatch.setattr(pool_progress.time, "monotonic", lambda: next(clock))
    tell = pool_progress.pool_progress(events.append, "a", "score pool", torch.device("cpu"))
    tell(8, 20)
    tell(12, 20)
    assert [(m.run, m.stage, m.step, m.steps_per_second) for m in events] == [
        ("a", "score pool", 8, 0.0),
        ("a", "score pool", 12, 2.0),
    ]
    assert events[-1].seconds_left == 4


def test_the_folder_holds_the_last_rounds_model_and_no_state(done: Watched) -> None:
    files = RunFolder(done.folder)
    assert all(torch.equal(v, weights_of(files.round(2).folder)[n]) for n, v in weights_of(done.folder).items())
    assert load_model(done.folder).domains == ("a", "b")
    assert not list(done.folder.rglob("state"))
    assert not list(done.folder.rglob(".*.tmp"))


def test_no_round_spends_more_than_its_budget_and_each_spends_most_of_it(done: Watched) -> None:
    for number in (1, 2):
        pixels = sum(int(q.inside.sum()) for q in questions_of(done.folder, number))
        assert 700 - 16 * 16 < pixels <= 700
        assert pixels == sum(q.cost for q in questions_of(done.folder, number))
    assert not questions_of(done.folder, 0)


def test_no_pixel_is_asked_twice_and_none_that_has_no_mask(done: Watched) -> None:
    domains = load_domains(done.config)
    counts: dict[tuple[str, str], np.ndarray] = {}
    for question in questions_of(done.folder):
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
            about = [q for q in questions_of(done.folder) if q.domain == name and q.round <= number]
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
        count = 0
        for name, domain in domains.items():
            for stem in ledger.answered_stems(name):
                path = files.labels / name / f"{stem}.png"
                np.testing.assert_array_equal(domain.space.encode(read_mask(path), path), ledger.labels(name, stem))
                count += 1
    assert count == len(list(files.labels.rglob("*.png"))) > 0


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
    looks = [entry["score_pool_seconds"] for entry in done.summary["history"]]
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
    with pytest.raises(RuntimeError, match="1 image of 40×48 at scales 1; begin another campaign with smaller"):
        campaign(one, tmp_path / "run")
    fits = 1
    campaign(one, tmp_path / "run")
    assert [str(q) for q in questions_of(tmp_path / "run")] == [str(q) for q in questions_of(tmp_path / "plain")]


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
    score_pool(committee, domains["a"], tmp_path / "scores", cache=tmp_path, pseudo=pseudo, workers=0)
    student = plain.model_copy(update={"seed": config.seed + SEEDS_APART})
    train(student, tmp_path / "student", domains={"a": replace(domains["a"], pseudo=pseudo)})
    expected, got = weights_of(tmp_path / "student"), weights_of(tmp_path / "run")
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    assert {line.get("phase") for line in metrics_of(tmp_path / "student")} == {"student", None}
    assert not questions_of(tmp_path / "run")
    assert not list((tmp_path / "run").rglob("*.label.png"))

    nothing = settings(data, STUDENT, ["a"], rounds=2, ask={**SQUARES, "budget": {"amount": 0, "unit": "pixels"}})
    campaign(nothing, tmp_path / "zero")
    assert all(torch.equal(v, weights_of(tmp_path / "zero")[n]) for n, v in got.items())


def test_answers_arrive_with_pseudo_labels(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(settings(data, STUDENT, ["a"], rounds=2, ask=SQUARES), tmp_path / "run", monkeypatch)
    first, second = (domains["a"] for domains in watched.domains)
    assert first.pseudo is None
    assert isinstance(second.pseudo, PseudoFolder)
    assert second.partial.keys() == {q.stem for q in questions_of(tmp_path / "run")}


# ── Stopped and gone on with ─────────────────────────────────────────────────────────────────────────────────────────


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
