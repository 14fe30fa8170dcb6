"""Checks a campaign's settings and lists all their faults before anything is written."""

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
from fewmask.engine.committee import dropout_layers, scoring_problems
from fewmask.models.universal import UniversalSegmenter

# Each round trains with its own seed. The first round has the run's, so that one round equals `fewmask train`.
SEEDS_APART = 2**20


def check_campaign(config: Config, domains: Mapping[str, Domain]) -> CampaignSettings:
    """The settings of a campaign. Raises one ValueError that lists all their faults."""
    if config.campaign is None:
        raise ValueError("campaign: missing; say how many rounds and what to ask, see configs/campaign-scenes.yaml")
    if problems := list(_faults(config, config.campaign, domains)):
        raise ValueError("\n".join(problems))
    return config.campaign


def _faults(config: Config, settings: CampaignSettings, domains: Mapping[str, Domain]) -> Iterator[str]:
    first, ask = settings.first, settings.ask
    # The committee of the last scoring, when all generations exist.
    most_networks = max(min(settings.pool.generations, settings.rounds - 1), 1) * len(settings.pool.networks)
    for key, settings_, networks in (("first", first, 0), ("ask", ask, most_networks)):
        if settings_ is not None:
            problems = scoring_problems(settings.pool, settings_, networks, difficulty=True)
            yield from (f"campaign.{key}.{fault}" for fault in problems)
            if not any(fault.startswith("regions") for fault in problems):
                yield from _faults_of_budget(key, settings_, settings)
    if first and ask and first.budget.unit != ask.budget.unit:
        yield "campaign.first.budget.unit: differs from campaign.ask's; count all labels in one unit"
    if settings.answers.each > 1 and settings.annotator == "oracle":
        yield "campaign.answers.each: the oracle is one annotator and answers once; set 1, or annotator: people"
    if settings.answers.decide != "trust" and settings.answers.trust != "estimated":
        yield f"campaign.answers.trust: has no effect with decide: {settings.answers.decide}; set decide: trust"
    unlabelled = [name for name, domain in domains.items() if not domain.labelled]
    if unlabelled and first is None:
        names = ", ".join(unlabelled)
        yield f"campaign.first: missing, and nothing is labelled in {names}; say what to ask at the beginning"
    try:
        yield from _faults_of_method(config, settings, domains)
    except ValueError as error:
        yield str(error)


def _faults_of_budget(key: str, ask: AskSettings, settings: CampaignSettings) -> Iterator[str]:
    spec, budget = parse_regions(ask.regions), ask.budget
    kind = spec.kind
    whole = (
        spec.side**2 if kind == "squares" and not ask.border else 1
    )  # a part of another kind of region may be left to ask
    price, of_two_pixels, least = (
        cost_model(settings).times(settings.answers.each).cost(kind, np.array([1, 2, whole]), budget.unit)
    )
    if not price > 0:
        yield f"campaign.cost.rates.{kind}: 0 {budget.unit} make a budget endless; raise the rates"
        return
    if 0 < budget.amount * (1 + SLACK) < least:
        yield (
            f"campaign.{key}.budget: {buys_nothing(budget.amount, budget.unit)}, one of {ask.regions} costs "
            f"{least:g} at least; raise it or take smaller regions"
        )
    # The cost of a region is known before its size only where all regions cost the same.
    alike = kind == "points" or (kind != "image" and price == of_two_pixels)
    regions = int(budget.amount * (1 + SLACK) / price)
    if budget.per == "image" and alike and ask.candidates < regions:
        yield (
            f"campaign.{key}.candidates: only {ask.candidates} regions of an image take part, and the budget is "
            f"{regions} in each; set {regions}"
        )
    if kind == "image" and not ask.border:
        yield f"campaign.{key}.border: false leaves out whole images, which have a border; set true"


def _faults_of_method(config: Config, settings: CampaignSettings, domains: Mapping[str, Domain]) -> Iterator[str]:
    """The faults of settings that the network and the method do not support."""
    trainings = [config_of_round(config, number) for number in range(min(settings.rounds, 2))]
    network, method = preflight.check_configs(trainings, domains)
    trained = {name for phase in method.phases(config.train.steps) for name in phase.labelled}
    scores_pool = settings.ask or config.method.self_training
    if scores_pool and (idle := [name for name in domains if name not in trained]):
        yield f"method: {config.method.name} does not train on {', '.join(idle)}; take out of `domains` what it ignores"
    if scores_pool and settings.rounds > 1:
        yield from _faults_of_scales(settings, network, domains)
    pool = settings.pool
    modules = method.extra_modules(network)
    scorer = known_scores().get(settings.ask.score) if settings.ask else None
    if scorer is not None and scorer.reads == "difficulty" and settings.ask and "difficulty" not in modules:
        yield f"campaign.ask.score: {settings.ask.score} reads a branch that the method does not train; set method=deal"
    network_names = ["model", *(name for name, module in modules.items() if isinstance(module, UniversalSegmenter))]
    for name in (name for name in pool.networks if name not in network_names):
        yield f"campaign.pool.network: {config.method.name} keeps no {name!r}; there are {', '.join(network_names)}"
    if pool.dropout and not dropout_layers(network):
        yield "campaign.pool.dropout: the network has no dropout to draw; set 0, or a decoder with dropout"


def _faults_of_scales(
    settings: CampaignSettings, network: UniversalSegmenter, domains: Mapping[str, Domain]
) -> Iterator[str]:
    """The faults of scales by which the network cannot take the smallest view of each domain's first image."""
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
    """The configuration of a round's training. Only the last round scores the test split."""
    assert config.campaign is not None
    train, campaign = config.train, config.campaign
    last = number == campaign.rounds - 1
    length = {"steps": campaign.last_steps} if last else {}
    length |= {"steps": campaign.first_steps, "batch_size": campaign.first_batch_size} if number == 0 else {}
    changes = {key: value for key, value in length.items() if value} | {"score": train.score if last else "val"}
    return config.model_copy(
        update={"seed": seed_of_round(config, number), "train": train.model_copy(update=changes), "campaign": None}
    )
