"""Settings of a campaign: what an image counts as, and what is refused before anything is written."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from campaigns import BY_CHANCE, SQUARES, settings, settings_of

from fewmask.campaigns import campaign
from fewmask.campaigns.history import cost_of_image
from fewmask.config import CampaignSettings
from fewmask.methods import METHODS, SETTINGS, parse_config

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
        made["model"]["decoder_options"]["decoder_aspp_dropout"] = drop
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
