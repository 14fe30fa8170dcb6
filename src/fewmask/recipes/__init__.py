"""The published experiments, ready to run: a YAML file for each table, beside this one.

A recipe is a configuration whose paths are relative to the folder that holds the data, and the rows of its table: what
each of them changes in it, and what was published for it. See docs/recipes.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from importlib.resources import files
from itertools import product
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, PositiveFloat, PositiveInt, ValidationError

from fewmask import strict_yaml
from fewmask.config import SETTINGS, Config, Fraction, Settings, parse

HERE = files(__name__)
SOURCES = "sources.yaml"  # what recipes need, and where it is to be had

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Overrides = dict[str, Any]
"""By `key.sub`, a value that takes the place of the common one. `domains` may be a list: those of the common ones."""


class Figure(Settings):
    """One published figure that no row stands beside."""

    figure: str
    """What was measured, in words."""
    miou: Fraction | None = None
    source: str


class Rate(Settings):
    """How fast the network trains, from which the cost is estimated."""

    megapixels: PositiveFloat
    """Of labelled crops a second, forward and backward."""
    machine: str
    why: str
    """Where the rate comes from."""


class Recipe(Settings):
    title: str
    """One line."""
    paper: str
    config: dict[str, Any]
    """What the rows have in common."""
    rows: dict[Name, Overrides] = Field(min_length=1)
    times: list[dict[Name, Overrides]] = []
    """Further settings that every row is run with, such as three numbers of labels: the rows are multiplied by each
    group, and are called `row-setting`. A row's own settings come last."""
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1)
    published: dict[Name, dict[str, Fraction]] = {}
    """By row and domain, mIoU as a fraction. A name that is no row stands in the table alone."""
    published_iou: dict[Name, dict[str, dict[str, Fraction]]] = {}
    """By row, domain and class."""
    source: str = ""
    """Of the published figures."""
    elsewhere: list[Figure] = []
    by_class: bool = False
    """Whether the table of classes is what the paper shows."""
    heads: bool = False
    """Whether domains that a row does not train are scored too, as the paper does it: with a head of their own, trained
    for as many steps on the frozen network."""
    once: dict[Name, str] = {}
    """Further names, each of the rows that match its pattern."""
    rate: Rate
    expected: str

    def table(self) -> dict[str, Overrides]:
        """Every row by name, multiplied out, with all that it overrides."""
        rows = {}
        for (row, row_settings), *others in product(self.rows.items(), *(group.items() for group in self.times)):
            name = "-".join([row, *(other for other, _ in others)])
            rows[name] = {key: value for _, settings in others for key, value in settings.items()} | row_settings
        return rows

    def choose(self, patterns: Sequence[str] = ()) -> list[str]:
        """The rows that match one of the patterns, in the order of the table; all of them without a pattern.

        Raises ValueError for a pattern that none matches.
        """
        rows = list(self.table())
        idle = [p for p in patterns if not any(fnmatchcase(row, p) for row in rows)]
        if idle:
            raise ValueError(f"no row {', '.join(map(repr, idle))}; there are {', '.join(rows)}")
        return [row for row in rows if not patterns or any(fnmatchcase(row, p) for p in patterns)]


class Source(Settings):
    """Something that recipes need."""

    get: str
    """What it is and where it is to be had."""
    images: dict[str, PositiveInt] = {}
    """Images by split as they are published, before any are held out."""


def names() -> list[str]:
    file_names = [file.name for file in HERE.iterdir()]
    return sorted(name.removesuffix(".yaml") for name in file_names if name.endswith(".yaml") and name != SOURCES)


def find(name: str) -> tuple[str, list[str]]:
    """The recipe of that name, and the pattern of the rows that it means: none for all of them.

    A path of a YAML file is a recipe too. Raises ValueError for a name that there is not.
    """
    if name in names() or name.endswith((".yaml", ".yml")):
        return name, []
    for recipe in names():
        if row := read_recipe(recipe).once.get(name):
            return recipe, [row]
    raise ValueError(f"no recipe {name!r}; there are {', '.join(names())}")


def text(name: str) -> str:
    """The recipe's YAML. Raises ValueError for a name that there is not, and for a file that cannot be read."""
    recipe, _ = find(name)
    if recipe in names():
        return (HERE / f"{recipe}.yaml").read_text(encoding="utf-8")
    try:
        return Path(recipe).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{recipe}: cannot be read ({error}); give the path of a recipe, see docs/recipes.md"
        ) from None


def read_recipe(name: str) -> Recipe:
    """The recipe of that name. Raises ValueError as `text`, and for a file that is none, with all that is wrong."""
    yaml = text(name)
    try:
        data = strict_yaml.parse_yaml(yaml)
    except ValueError as error:
        raise ValueError(f"{name}: not readable as YAML: {error}") from None
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        lines = [
            f"  {'.'.join(map(str, e['loc']))}: {e['msg']} (given: {strict_yaml.short(e['input'])})"
            for e in error.errors()
        ]
        raise ValueError("\n".join([f"{name}: not a recipe; see docs/recipes.md", *lines])) from None


def sources() -> dict[str, Source]:
    """What recipes need, by path under the data's folder."""
    entries = strict_yaml.parse_yaml((HERE / SOURCES).read_text(encoding="utf-8"))
    return {path: Source.model_validate(source) for path, source in entries.items()}


def configuration(
    recipe: Recipe, name: str, row: str, data: Path, overrides: Sequence[str] = (), seed: int | None = None
) -> Config:
    """The configuration of a row on the data in a folder. Raises ValueError that lists everything that is wrong.

    Overrides of a domain, or of the campaign, hold for a row that has one.
    """
    row_settings = recipe.table()[row]
    common = recipe.config | {"name": f"{name}.{row}"} | ({} if seed is None else {"seed": seed})
    domains = common.get("domains", {})
    if isinstance(chosen := row_settings.get("domains"), list):
        if strangers := [domain for domain in chosen if domain not in domains]:
            raise ValueError(f"recipe {name}, row {row}: no domains {', '.join(strangers)} in `config`")
        common["domains"] = {domain: domains[domain] for domain in chosen}
        row_settings = {key: value for key, value in row_settings.items() if key != "domains"}
        # What is said of a domain holds for the rows that have it.
        others = tuple(f"domains.{domain}." for domain in domains if domain not in chosen)
        overrides = [override for override in overrides if not override.startswith(others)] if others else overrides
    if not asks(recipe, row):
        overrides = [override for override in overrides if not override.startswith("campaign.")]
    settings = [f"{key}={json.dumps(value)}" for key, value in row_settings.items()]
    return parse(common, data, SETTINGS, f"recipe {name}, row {row}", [*settings, *overrides])


def asks(recipe: Recipe, row: str) -> bool:
    """Whether a row is a campaign."""
    return recipe.table()[row].get("campaign", recipe.config.get("campaign")) is not None


def megapixels(config: Config) -> float:
    """Labelled crops that a run trains on, and what its other rows cost in terms of them, in millions of pixels.

    Validation, passes over the pool and the loader come on top.
    """
    train, campaign = config.train, config.campaign
    rounds = campaign.rounds if campaign else 1
    pool = config.method.pool_cost * (train.unlabelled_batch_size or train.batch_size)
    rows = rounds * train.steps * (train.batch_size + pool)
    if campaign and rounds > 1 and campaign.last_steps:
        rows += (campaign.last_steps - train.steps) * (train.batch_size + pool)
    if campaign:
        steps = campaign.first_steps or train.steps
        # A first round has no pseudo-labels of an earlier one.
        first = (campaign.first_batch_size or train.batch_size) + (0 if config.method.self_training else pool)
        rows += steps * first - train.steps * (train.batch_size + pool)
    return rows * train.crop[0] * train.crop[1] / 1e6


def seconds(recipe: Recipe, configs: Mapping[str, Config]) -> dict[str, float]:
    """The estimated seconds of one run of each row."""
    return {row: megapixels(config) / recipe.rate.megapixels for row, config in configs.items()}
