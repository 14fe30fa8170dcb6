"""One budget over several domains: how their regions are ranked together, and which domain needs labels.

Shapes: N candidates · H×W pixels.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import helpers
import numpy as np
import pytest
from campaigns import BY_CHANCE, questions_of, settings
from ondisk import write_domain

from fewmask.acquisition.regions import parse_regions
from fewmask.acquisition.selection import Candidates
from fewmask.annotation.questions import Question
from fewmask.campaigns import campaign, rounds
from fewmask.campaigns.asking import domains_without_label, questions, ranked_together
from fewmask.campaigns.history import cost_model, needs
from fewmask.config import AskSettings, CampaignSettings
from fewmask.data.domain import Domain
from fewmask.engine.pool_scores import PoolScores
from fewmask.labels import NOT_LABELLED
from fewmask.runs import Entry


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
    pools = all_found({name: candidates(domain, 1.0) for name, domain in domains.items()})
    before = ranked_together(pools, domains, EQUAL).score
    best = pools["b"].candidates.score > 1
    pools["b"] = pools["b"]._replace(candidates=pools["b"].candidates.take(best))
    after = ranked_together(pools, domains, EQUAL)
    rest = np.ones(len(before), bool)
    rest[len(pools["a"].candidates) :][: len(best)] = best
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
    selection = chosen(parts, domains, EQUAL, 12 * 256 + 100)
    assert len(selection) == 12
    assert [q.score for q in selection] == sorted((q.score for q in selection), reverse=True)
    assert {q.domain for q in selection} == {"a", "b", "c"}
    for q in selection:
        position = domains[q.domain].splits["train"].index(q.stem)
        row = position * 4 + q.region
        part = parts[q.domain]
        assert q.score == pytest.approx(part.score[row] / part.score.mean(), rel=1e-5)
        assert q.guess == 1
        assert q.box == parse_regions("squares:16").tile(domains[q.domain].image(q.stem)).box(q.region)
    assert len({(q.domain, q.stem, q.region) for q in selection}) == 12
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
        pools = all_found(parts)
        pools["a"] = pools["a"]._replace(covered=covered)
        (question,) = questions(
            pools, domains, AskSettings.model_validate(ask), (), cost_model(CampaignSettings()), EQUAL, Path("unused"),
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
    (question,) = questions(
        all_found({"a": part}), {"a": domain}, settings_, skipped, cost_model(CampaignSettings()), {"a": 1.0},
        Path("unused"), np.random.default_rng(0),
    )  # fmt: skip
    expected = np.ones((16, 16), bool)
    expected[:5, :5] = expected[:, 12:] = False
    np.testing.assert_array_equal(question.inside, expected)


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
        selection = chosen(parts, domains, need, 16 * 256)
        counts[key] = sum(q.domain == "b" for q in selection), len(selection)
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
    counts = {n: [q.domain for q in questions_of(tmp_path / "run", n)] for n in (1, 2, 3)}
    assert [len(counts[n]) for n in (1, 2, 3)] == [6, 6, 0]
    assert sorted([*counts[1], *counts[2]]) == ["b"] * 4 + ["c"] * 8
    last = summary["history"][-1]
    sizes = {"a": 1, "b": 2, "c": 3}
    assert last["pixels"] == {name: 24 * 32 * images for name, images in sizes.items()}
    assert last["cost"] == pytest.approx({name: 3.0 + 4 * (images - 1) for name, images in sizes.items()})
