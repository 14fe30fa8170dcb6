"""recipes: the published experiments."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence, Sized
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from fewmask.cli.campaigns import Enough, print_campaign
from fewmask.cli.help import Verbs, add
from fewmask.cli.terminal import Json, counting, err, out, plain, print_json, say, training_progress
from fewmask.cli.training import print_report
from fewmask.paths import below
from fewmask.plurals import count, duration, percent

if TYPE_CHECKING:
    from fewmask.config import Config
    from fewmask.recipes import Recipe

recipes = typer.Typer(
    cls=Verbs,
    help="fewmask recipes list\n\nThe published experiments, ready to run.",
    short_help="The published experiments, ready to run.",
)

Name = Annotated[
    str, typer.Argument(metavar="NAME", help="One that `fewmask recipes` lists, or a YAML file.", show_default=False)
]
Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="data=FOLDER|ROW|KEY=VALUE",
        help="Rows (patterns such as 'joint-*'; all by default), where the data is, and overrides of any key.",
    ),
]
Seeds = Annotated[
    str | None, typer.Option(metavar="0,1,2", help="Other seeds than the recipe's own.", show_default=False)
]
Incomplete = Annotated[
    bool, typer.Option("--incomplete", help="Go on where a split has another number of images than was published.")
]


@recipes.callback(invoke_without_command=True)
def recipes_alone(context: typer.Context, as_json: Json = False) -> None:
    """fewmask recipes list

    The published experiments, ready to run. Without a verb: list them.
    """
    if context.invoked_subcommand is None:
        list_all(as_json)


def list_all(as_json: Json = False) -> None:
    """List the recipes: what they are, their rows, and what they cost."""
    from fewmask.recipes import configuration, names, read_recipe, seconds

    plainly, told = {}, []
    for name in names():
        recipe = read_recipe(name)
        rows = recipe.table()
        cost = seconds(recipe, {row: configuration(recipe, name, row, Path()) for row in rows})
        plainly[name] = {
            **recipe.model_dump(mode="json", exclude={"config", "rows", "times"}),
            "rows": rows,
            "seconds": cost,
        }
        low, high = duration(min(cost.values())), duration(max(cost.values()))
        each = low if low == high else f"{low} … {high}"
        of_all = duration(sum(cost.values()) * len(recipe.seeds))
        runs = _runs(rows, recipe.seeds)
        told.append(f"{name}: {recipe.title}\n  {runs}, {each} a run on {recipe.rate.machine}, {of_all} in all")
    if as_json:
        print_json(plainly)
        return
    say("\n".join(told))
    say("\nCosts are estimates: pixels of all crops by a stated rate; validation and the loader come on top.")
    say("fewmask recipes show NAME · fewmask recipes run NAME [ROW …] data=FOLDER")


def show(name: Name, as_json: Json = False) -> None:
    """Print a recipe's YAML, its rows with their estimated cost, and the command."""
    from fewmask.recipes import configuration, find, read_recipe, seconds, text

    recipe, whole = read_recipe(name), find(name)[0]
    cost = seconds(recipe, {row: configuration(recipe, _stem(whole), row, Path()) for row in recipe.table()})
    if as_json:
        print_json({**recipe.model_dump(mode="json"), "table": recipe.table(), "seconds": cost})
        return
    print(text(name), end="")
    print("\n# The rows, and about how long a run of each takes on " + recipe.rate.machine + ":")
    for row, seconds_of_run in cost.items():
        print(f"#   {row}: {duration(seconds_of_run)}")
    print(f"#\n#   fewmask recipes run {whole} [ROW …] data=FOLDER")


def check(name: Name, words: Words = None, incomplete: Incomplete = False, as_json: Json = False) -> None:
    """Examine the data that a recipe reads, image by image: every problem listed at once, as `fewmask check` does."""
    from fewmask.data.doctor import check_domains as examine
    from fewmask.recipes.data import check_data

    asked = _Asked(name, words or [], None)
    configs = [asked.configure(row, asked.seeds[0]) for row in asked.rows]
    check_data(asked.name, configs, asked.data, incomplete)
    domains = {domain: settings for config in configs for domain, settings in config.domains.items()}
    labelled = [config.labelled.images for config in configs]
    most = None if None in labelled else max(filter(None, labelled), default=0)
    with counting("files") as progress:
        report = examine(domains, most, asked.seeds[0], progress=progress)
    print_report(report, as_json)


def run(
    name: Name,
    words: Words = None,
    seeds: Seeds = None,
    folder: Annotated[
        Path | None, typer.Option("--out", help="Where the runs go, <row>-<seed> each; runs/<recipe> by default.")
    ] = None,
    incomplete: Incomplete = False,
    enough: Enough = False,
    as_json: Json = False,
) -> None:
    """Run a recipe's rows on the data in a folder, and show our figures beside the published ones.

    The data is looked at first. The same command goes on where it stopped; what is done is not done again.
    """
    from fewmask.recipes import seconds
    from fewmask.recipes.data import check_data

    asked = _Asked(name, words or [], seeds)
    recipe, folder = asked.recipe, folder or below(Path("runs"), asked.name)
    configs = {row: asked.configure(row, asked.seeds[0]) for row in asked.rows}
    found = check_data(asked.name, configs.values(), asked.data, incomplete)
    for one in found:
        counts = ", ".join(f"{split} {count:,}" for split, count in one.images.items())
        should = " as published" if one.images == one.expected else ""
        say(f"{one.domain}: {counts} images{should} ({one.layout}, {one.folder})", err)
    estimate = sum(seconds(recipe, configs).values()) * len(asked.seeds)
    from fewmask.recipes.running import results
    from fewmask.recipes.running import run_recipe as go_on
    from fewmask.recipes.table import as_json as plainly

    runs = _runs(asked.rows, asked.seeds)
    say(f"{runs}, about {duration(estimate)} on {recipe.rate.machine}; in {folder}", err)
    again = ["recipes", "run", name, *(words or []), *(["--seeds", seeds] if seeds else []), "--out", str(folder)]
    again += ["--incomplete"] if incomplete else []
    command = shlex.join(["fewmask", *again])
    made = {}
    with training_progress() as observe:
        ended = go_on(recipe, asked.configure, folder, asked.rows, asked.seeds, command, observe, enough)
        for row, seed, summary in ended:
            made[f"{row}-{seed}"] = summary
            if summary.get("state") == "failed":
                say(f"{row}-{seed} failed: {summary['error']}", err)
    waiting, failed = (
        {path: summary for path, summary in made.items() if summary.get("state") == state}
        for state in ("waiting", "failed")
    )
    if as_json:
        print_json(
            {"recipe": asked.name, **plainly(recipe, results(recipe, folder)), "waiting": waiting, "failed": failed}
        )
    else:
        _print_results(recipe, folder, asked.overrides)
        for path, summary in waiting.items():
            print_campaign(summary, below(folder, path), again)
    if failed:
        reasons = [f"{path}: {summary['error']}" for path, summary in failed.items()]
        raise RuntimeError("\n".join([f"{len(failed)} of {len(made)} runs failed", *reasons]))


def _print_results(recipe: Recipe, folder: Path, overrides: Sequence[str]) -> None:
    from fewmask.recipes.running import results
    from fewmask.recipes.table import class_lines, lines

    there = results(recipe, folder)
    _print_table(f"{recipe.title}: mIoU", lines(recipe, there))
    for domain, table in (class_lines(recipe, there) if recipe.by_class else {}).items():
        _print_table(f"{domain}: IoU", table)
    for figure in recipe.elsewhere:
        say(f"Published: {percent(figure.miou)} {figure.figure} ({figure.source})")
    if recipe.source:
        say(f"Published: {recipe.source}")
    if overrides:
        say(f"Not the recipe's own settings: {' '.join(overrides)}")
    own = " with the recipe's own settings" if overrides else ""
    say(f"To expect{own}: {recipe.expected}\nAll of it: {folder / 'results.json'}, {folder / 'results.md'}")


class _Asked:
    """What the command line asks for: which rows of which recipe, on which data, with which seeds."""

    def __init__(self, name: str, words: Sequence[str], seeds: str | None) -> None:
        from fewmask.recipes import asks, find, read_recipe

        whole, own_rows = find(name)
        self.recipe, self.name = read_recipe(whole), _stem(whole)
        data = [word.removeprefix("data=") for word in words if word.startswith("data=")]
        self.overrides = [word for word in words if "=" in word and not word.startswith("data=")]
        patterns = [word for word in words if "=" not in word]
        if numbers := [word for word in patterns if word.isdigit()]:
            raise ValueError(f"{' '.join(numbers)}: not a row; write seeds as --seeds 0,1,2")
        if own_rows and patterns:
            raise ValueError(f"{name}: rows of {whole} already; name others with that: recipes run {whole} …")
        if any(override.startswith("seed=") for override in self.overrides):
            raise ValueError("seed: give --seeds, such as --seeds 3")
        self.rows = self.recipe.choose(own_rows or patterns)
        of_campaigns = [override for override in self.overrides if override.startswith("campaign.")]
        if of_campaigns and not any(asks(self.recipe, row) for row in self.rows):
            raise ValueError(f"{of_campaigns[0]}: none of these rows is a campaign: {', '.join(self.rows)}")
        needs = _needs(self.recipe)
        if len(data) > 1 or data == [""] or (needs and not data):
            raise ValueError(f"data: give data=FOLDER once, the folder that holds {' and '.join(needs) or 'the data'}")
        self.data = Path(data[0]).expanduser() if data else Path()
        self.seeds = _numbers(seeds) if seeds is not None else self.recipe.seeds

    @property
    def configure(self) -> Callable[[str, int], Config]:
        from fewmask.recipes import configuration

        return lambda row, seed: configuration(self.recipe, self.name, row, self.data, self.overrides, seed)


def _runs(rows: Sized, seeds: Sized) -> str:
    return f"{count(len(rows), 'row')} × {count(len(seeds), 'seed')}"


def _needs(recipe: Recipe) -> list[str]:
    """Paths under the data's folder that the common configuration names."""
    roots = [domain["root"] for domain in recipe.config["domains"].values() if "root" in domain]
    weights = recipe.config.get("model", {}).get("weights")
    return [*dict.fromkeys(roots), *([weights] if weights and weights != "imagenet" else [])]


def _numbers(seeds: str) -> tuple[int, ...]:
    if not re.fullmatch(r"\d+([ ,]+\d+)*", seeds.strip()):
        raise ValueError(f"--seeds {seeds!r}: write whole numbers, such as 0,1,2")
    return tuple(dict.fromkeys(map(int, re.split(r"[ ,]+", seeds.strip()))))


def _stem(recipe: str) -> str:
    return Path(recipe).stem if recipe.endswith((".yaml", ".yml")) else recipe


def _print_table(title: str, cells: Sequence[Sequence[str]]) -> None:
    head, *body = cells
    table = Table(*map(plain, head), title=plain(title))
    for line in body:
        table.add_row(*map(plain, line))
    out.print(table)


add(recipes, list_all, "fewmask recipes list", "list")
add(recipes, show, "fewmask recipes show compare")
add(recipes, check, "fewmask recipes check compare data=FOLDER")
add(recipes, run, "fewmask recipes run compare data=FOLDER")
