"""What a campaign asks: nothing twice, no more than an image may have, and within its budget."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from campaigns import BY_CHANCE, SQUARES, questions_of, settings
from ondisk import write_domain

from fewmask.acquisition.regions import Regions
from fewmask.annotation.ledger import Ledger
from fewmask.campaigns import campaign
from fewmask.engine.run import load_domains
from fewmask.runs import RunFolder


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
    for question in questions_of(tmp_path / "run"):
        question.window(counts[question.stem])[question.inside] += 1
        kinds.append(question.kind)
    assert all((count == 1).all() for count in counts.values())
    assert kinds.count("points") == 30
    assert set(kinds) == {"points", "superpixels:12:10"}
    with Ledger(RunFolder(tmp_path / "run").ledger) as ledger:
        assert ledger.rounds()[2] == 0
    guesses = {q.guess for q in questions_of(tmp_path / "run", 0)}
    assert guesses == {None}  # nobody knew anything
    assert {q.guess for q in questions_of(tmp_path / "run", 1)} <= {0, 1, 2}


def test_so_much_an_image(data: Path, tmp_path: Path) -> None:
    first = {"regions": "points", "score": "random", "top": 1.0, "candidates": 9}
    first["budget"] = {"amount": 4, "unit": "regions", "per": "image"}
    config = settings(data, labelled=0, rounds=1, first=first)
    summary = campaign(config, tmp_path / "run")
    per_image: dict[tuple[str, str], int] = {}
    for q in questions_of(tmp_path / "run"):
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
    assert questions_of(tmp_path / "run") == []


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
    assert questions_of(tmp_path / "run") == []
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


def test_regions_of_the_cache_are_those_that_were_asked(data: Path, tmp_path: Path) -> None:
    """Superpixels depend on the version of a library: a later round reads those of the first one."""
    ask = {"regions": "superpixels:12", "score": "entropy", "budget": {"amount": 5, "unit": "clicks"}}
    config = settings(data, domains=["a"], ask=ask, rounds=2)
    campaign(config, tmp_path / "run")
    files = RunFolder(tmp_path / "run")
    for question in questions_of(tmp_path / "run"):
        path = files.superpixels / "a" / f"{question.stem}.superpixels-12-10.npz"
        stored = Regions.from_bytes(path.read_bytes())
        assert question.box == stored.box(question.region)
        np.testing.assert_array_equal(question.inside, question.window(stored.mask(question.region)))
