"""Checks a campaign's settings and lists everything that is wrong, before anything is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from fewmask.acquisition.budget import buys_nothing
from fewmask.acquisition.regions import parse_regions
from fewmask.acquisition.scores import known_scores
from fewmask.acquisition.selection import SLACK
from fewmask.campaigns.history import cost_model
from fewmask.config import AskSettings, CampaignSettings, Config
from fewmask.data.domain import Domain
from fewmask.engine import preflight
from fewmask.engine.committee import dropout_layers
from fewmask.engine.committee import faults as faults_of_questions
from fewmask.models.universal import UniversalSegmenter

# Each round trains with a seed of its own; the first with the run's, so that one round is plain training, bit for bit.
SEEDS_APART = 2**20


def check_campaign(config: Config, domains: Mapping[str, Domain]) -> CampaignSettings:
    """The settings of a campaign. Raises one ValueError that lists all that is wrong with them."""
    if config.campaign is None:
        raise ValueError("campaign: missing; say how many rounds and what to ask, see configs/campaign-scenes.yaml")
    if problems := list(_faults(config, config.campaign, domains)):
        raise ValueError("\n".join(problems))
    return config.campaign


def _faults(config: Config, settings: CampaignSettings, domains: Mapping[str, Domain]) -> Iterator[str]:
    first, ask = settings.first, settings.ask
    # Of the last look: a committee of generations is complete by then, or never.
    most = max(min(settings.pool.generations, settings.rounds - 1), 1) * len(settings.pool.networks)
    for key, asked, networks in (("first", first, 0), ("ask", ask, most)):
        if asked is not None:
            wrong = faults_of_questions(settings.pool, asked, networks, difficulty=True)
            yield from (f"campaign.{key}.{fault}" for fault in wrong)
            if not any(fault.startswith("regions") for fault in wrong):
                yield from _faults_of_budget(key, asked, settings)
    if first and ask and first.budget.unit != ask.budget.unit:
        yield "campaign.first.budget.unit: another one than campaign.ask's; count all labels in one unit"
    if settings.answers.each > 1 and settings.annotator == "oracle":
        yield "campaign.answers.each: the oracle is one annotator and answers once; set 1, or annotator: people"
    if settings.answers.decide != "trust" and settings.answers.trust != "estimated":
        yield f"campaign.answers.trust: nobody reads it with decide: {settings.answers.decide}; set decide: trust"
    bare = [name for name, domain in domains.items() if not domain.labelled]
    if bare and first is None:
        yield f"campaign.first: missing, and nothing is labelled in {', '.join(bare)}; say what to ask at the beginning"
    try:
        yield from _faults_of_method(config, settings, domains)
    except ValueError as error:
        yield str(error)


def _faults_of_budget(key: str, asked: AskSettings, settings: CampaignSettings) -> Iterator[str]:
    spec, budget = parse_regions(asked.regions), asked.budget
    kind = spec.kind
    whole = spec.side**2 if kind == "squares" and not asked.border else 1  # of other kinds a part may be left to ask
    price, of_two_pixels, least = (
        cost_model(settings).times(settings.answers.each).cost(kind, np.array([1, 2, whole]), budget.unit)
    )
    if not price > 0:
        yield f"campaign.cost.rates.{kind}: they cost no {budget.unit}, and a budget would be endless; raise them"
        return
    if 0 < budget.amount * (1 + SLACK) < least:
        yield (
            f"campaign.{key}.budget: {buys_nothing(budget.amount, budget.unit)}, one of {asked.regions} costs "
            f"{least:g} at least; raise it or take smaller regions"
        )
    # What a region costs is known before its size only where every one costs the same.
    alike = kind == "points" or (kind != "image" and price == of_two_pixels)
    regions = int(budget.amount * (1 + SLACK) / price)
    if budget.per == "image" and alike and asked.candidates < regions:
        yield (
            f"campaign.{key}.candidates: only {asked.candidates} regions of an image take part, and the budget is "
            f"{regions} in each; set {regions}"
        )
    if kind == "image" and not asked.border:
        yield f"campaign.{key}.border: false leaves out whole images, which have a border; set true"


def _faults_of_method(config: Config, settings: CampaignSettings, domains: Mapping[str, Domain]) -> Iterator[str]:
    """The settings that the network and the method do not support."""
    trainings = [config_of_round(config, number) for number in range(min(settings.rounds, 2))]
    network, method = preflight.check_configs(trainings, domains)
    trained = {name for phase in method.phases(config.train.steps) for name in phase.labelled}
    looks = settings.ask or config.method.self_training
    if looks and (idle := [name for name in domains if name not in trained]):
        yield f"method: {config.method.name} does not train on {', '.join(idle)}; take out of `domains` what it ignores"
    if looks and settings.rounds > 1:
        yield from _faults_of_scales(settings, network, domains)
    pool = settings.pool
    kept = method.extra_modules(network)
    scorer = known_scores().get(settings.ask.score) if settings.ask else None
    if scorer is not None and scorer.reads == "difficulty" and settings.ask and "difficulty" not in kept:
        yield f"campaign.ask.score: {settings.ask.score} reads a branch that the method does not train; set method=deal"
    there = ["model", *(name for name, part in kept.items() if isinstance(part, UniversalSegmenter))]
    for name in (name for name in pool.networks if name not in there):
        yield f"campaign.pool.network: {config.method.name} keeps no {name!r}; there are {', '.join(there)}"
    if pool.dropout and not dropout_layers(network):
        yield "campaign.pool.dropout: the network has no dropout to draw; set 0, or a decoder with dropout"


def _faults_of_scales(
    settings: CampaignSettings, network: UniversalSegmenter, domains: Mapping[str, Domain]
) -> Iterator[str]:
    """Whether the network takes the smallest view of each domain's first image."""
    scale = min(settings.pool.scales)
    for name, domain in domains.items():
        image = domain.image(domain.splits["train"][0])
        height, width = (max(1, round(n * scale)) for n in image.shape[:2])
        if min(height, width) < network.stride:
            yield (
                f"campaign.pool.scales: {scale:g} leaves {height}×{width} pixels of an image of {name}, less than a "
                f"cell of the network's features ({network.stride}); take larger ones"
            )
        else:
            preflight.check_size((height, width), network, "campaign.pool.scales", "take others")


def seed_of_round(config: Config, number: int) -> int:
    return config.seed + number * SEEDS_APART


def config_of_round(config: Config, number: int) -> Config:
    """The training's own: only the last round looks at the test split."""
    assert config.campaign is not None
    train, own = config.train, config.campaign
    last = number == own.rounds - 1
    length = {"steps": own.last_steps} if last else {}
    length |= {"steps": own.first_steps, "batch_size": own.first_batch_size} if number == 0 else {}
    changes = {key: value for key, value in length.items() if value} | {"score": train.score if last else "val"}
    return config.model_copy(
        update={"seed": seed_of_round(config, number), "train": train.model_copy(update=changes), "campaign": None}
    )
