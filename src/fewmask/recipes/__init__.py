"""The published experiments, ready to run: one YAML file for each table, in this folder.

A recipe has a configuration, whose paths are relative to the folder of the data, and the rows of its table. Each row
changes some settings and may have published figures. See docs/recipes.md.
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
from fewmask.config.training import AUTO

HERE = files(__name__)
SOURCES = "sources.yaml"  # the datasets and weights that recipes need, and how to get them

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Overrides = dict[str, Any]
"""By `key.sub`, a value that replaces the common one. `domains` may be a list of names of the common domains."""


class Figure(Settings):
    """One published figure without a row of its own."""

    figure: str
    """A description of the measurement."""
    miou: Fraction | None = None
    source: str


class Rate(Settings):
    """The training speed, from which the cost is estimated."""

    megapixels: PositiveFloat
    """Megapixels of labelled crops in a second, forward and backward."""
    machine: str
    why: str
    """The source of the rate."""


class Recipe(Settings):
    title: str
    """A title of one line."""
    paper: str
    config: dict[str, Any]
    """The common settings of the rows."""
    rows: dict[Name, Overrides] = Field(min_length=1)
    times: list[dict[Name, Overrides]] = []
    """Groups of further settings, such as three numbers of labels. The rows are multiplied by each group and are called
    `row-setting`. A row's own settings take precedence."""
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1)
    published: dict[Name, dict[str, Fraction]] = {}
    """By row and domain, the published mIoU as a fraction. A name that is no row gets a line of published figures."""
    published_iou: dict[Name, dict[str, dict[str, Fraction]]] = {}
    """By row, domain and class, the published IoU."""
    source: str = ""
    """The source of the published figures."""
    elsewhere: list[Figure] = []
    by_class: bool = False
    """Whether to make a table of classes too."""
    heads: bool = False
    """Whether to score the domains that a row does not train too. As in the paper, each gets a head that is trained for
    as many steps on the frozen network."""
    once: dict[Name, str] = {}
    """Further names, each for the rows that match its pattern."""
    rate: Rate
    expected: str

    def table(self) -> dict[str, Overrides]:
        """Every row by name, multiplied out, with its overrides."""
        rows = {}
        for (row, row_settings), *others in product(self.rows.items(), *(group.items() for group in self.times)):
            name = "-".join([row, *(other for other, _ in others)])
            rows[name] = {key: value for _, settings in others for key, value in settings.items()} | row_settings
        return rows

    def choose(self, patterns: Sequence[str] = ()) -> list[str]:
        """The rows that match one of the patterns, in the order of the table; all rows without a pattern.

        Raises ValueError for a pattern without a match.
        """
        rows = list(self.table())
        unmatched = [p for p in patterns if not any(fnmatchcase(row, p) for row in rows)]
        if unmatched:
            raise ValueError(f"no row {', '.join(map(repr, unmatched))}; there are {', '.join(rows)}")
        return [row for row in rows if not patterns or any(fnmatchcase(row, p) for p in patterns)]


class Source(Settings):
    """A dataset or a file of weights that recipes need."""

    get: str
    """A description of it, and where to get it."""
    images: dict[str, PositiveInt] = {}
    """The published number of images by split, before any are held out."""


def names() -> list[str]:
    """The names of all recipes."""
    file_names = [file.name for file in HERE.iterdir()]
    return sorted(name.removesuffix(".yaml") for name in file_names if name.endswith(".yaml") and name != SOURCES)


def find(name: str) -> tuple[str, list[str]]:
    """The recipe of a name, and the patterns of its rows; no pattern means all rows.

    The path of a YAML file is a recipe too. Raises ValueError for an unknown name.
    """
    if name in names() or name.endswith((".yaml", ".yml")):
        return name, []
    for recipe in names():
        if row := read_recipe(recipe).once.get(name):
            return recipe, [row]
    raise ValueError(f"no recipe {name!r}; there are {', '.join(names())}")


def text(name: str) -> str:
    """The recipe's YAML. Raises ValueError for an unknown name, and for a file that cannot be read."""
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
    """The recipe of a name. Raises ValueError as `text` does, and for an invalid file, with all its errors."""
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
    """The datasets and weights that recipes need, by path under the data's folder."""
    entries = strict_yaml.parse_yaml((HERE / SOURCES).read_text(encoding="utf-8"))
    return {path: Source.model_validate(source) for path, source in entries.items()}


def configuration(
    recipe: Recipe, name: str, row: str, data: Path, overrides: Sequence[str] = (), seed: int | None = None
) -> Config:
    """The configuration of a row on the data in a folder. Raises one ValueError that lists all errors.

    Overrides of a domain or of the campaign are ignored for rows without that domain or without a campaign.
    """
    row_settings = recipe.table()[row]
    common = recipe.config | {"name": f"{name}.{row}"} | ({} if seed is None else {"seed": seed})
    domains = common.get("domains", {})
    if isinstance(chosen := row_settings.get("domains"), list):
        if strangers := [domain for domain in chosen if domain not in domains]:
            raise ValueError(f"recipe {name}, row {row}: no domains {', '.join(strangers)} in `config`")
        common["domains"] = {domain: domains[domain] for domain in chosen}
        row_settings = {key: value for key, value in row_settings.items() if key != "domains"}
        # An override of a domain applies only to rows with that domain.
        others = tuple(f"domains.{domain}." for domain in domains if domain not in chosen)
        overrides = [override for override in overrides if not override.startswith(others)] if others else overrides
    if not asks(recipe, row):
        overrides = [override for override in overrides if not override.startswith("campaign.")]
    settings = [f"{key}={json.dumps(value)}" for key, value in row_settings.items()]
    return parse(common, data, SETTINGS, f"recipe {name}, row {row}", [*settings, *overrides])


def asks(recipe: Recipe, row: str) -> bool:
    """Whether a row is a campaign."""
    return recipe.table()[row].get("campaign", recipe.config.get("campaign")) is not None


def megapixels(config: Config) -> float | None:
    """The cost of a run in millions of pixels of labelled crops; None for `train.steps: auto`, which depends on the
    data.

    A row of the pool counts as much as the method states. Validation, passes over the pool and the loader come on top.
    """
    train, campaign = config.train, config.campaign
    if train.steps == AUTO:
        return None
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


def seconds(recipe: Recipe, configs: Mapping[str, Config]) -> dict[str, float | None]:
    """The estimated seconds of one run of each row; None for `train.steps: auto`."""
    pixels = {row: megapixels(config) for row, config in configs.items()}
    return {row: None if cost is None else cost / recipe.rate.megapixels for row, cost in pixels.items()}
