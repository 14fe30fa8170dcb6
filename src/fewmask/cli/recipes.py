"""recipes: list, show, check and run the published experiments."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence, Sized
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

BY_DATA = "unknown: the data decides it (train.steps: auto)"

Name = Annotated[
    str,
    typer.Argument(metavar="NAME", help="A recipe that `fewmask recipes` lists, or a YAML file.", show_default=False),
]
Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="data=FOLDER|ROW|KEY=VALUE",
        help="Rows (patterns such as 'joint-*'; all by default), the folder of the data, and overrides of any key.",
    ),
]
Seeds = Annotated[
    str | None, typer.Option(metavar="0,1,2", help="Seeds in place of the recipe's own.", show_default=False)
]
Incomplete = Annotated[
    bool, typer.Option("--incomplete", help="Accept splits whose number of images differs from the published one.")
]


@recipes.callback(invoke_without_command=True)
def recipes_alone(context: typer.Context, as_json: Json = False) -> None:
    """fewmask recipes list

    The published experiments, ready to run. Without a command, list them.
    """
    if context.invoked_subcommand is None:
        list_all(as_json)


def list_all(as_json: Json = False) -> None:
    """List the recipes, with their titles, rows and costs."""
    from fewmask.recipes import configuration, names, read_recipe, seconds

    plainly, lines = {}, []
    for name in names():
        recipe = read_recipe(name)
        rows = recipe.table()
        cost = seconds(recipe, {row: configuration(recipe, name, row, Path()) for row in rows})
        plainly[name] = {
            **recipe.model_dump(mode="json", exclude={"config", "rows", "times"}),
            "rows": rows,
            "seconds": cost,
        }
        lines.append(f"{name}: {recipe.title}\n  {_runs(rows, recipe.seeds)}, {_cost(recipe, cost)}")
    if as_json:
        print_json(plainly)
        return
    say("\n".join(lines))
    say("\nCosts are estimates: the pixels of all crops over a stated rate. Validation and the loader come on top.")
    say("fewmask recipes show NAME · fewmask recipes run NAME [ROW …] data=FOLDER")


def show(name: Name, as_json: Json = False) -> None:
    """Print a recipe's YAML, its rows with their estimated cost, and the command that runs it."""
    from fewmask.recipes import configuration, find, read_recipe, seconds, text

    recipe, whole = read_recipe(name), find(name)[0]
    cost = seconds(recipe, {row: configuration(recipe, _stem(whole), row, Path()) for row in recipe.table()})
    if as_json:
        print_json({**recipe.model_dump(mode="json"), "table": recipe.table(), "seconds": cost})
        return
    print(text(name), end="")
    print("\n# The rows, and the estimated time of one run of each on " + recipe.rate.machine + ":")
    for row, seconds_of_run in cost.items():
        print(f"#   {row}: {BY_DATA if seconds_of_run is None else duration(seconds_of_run)}")
    print(f"#\n#   fewmask recipes run {whole} [ROW …] data=FOLDER")


def check(name: Name, words: Words = None, incomplete: Incomplete = False, as_json: Json = False) -> None:
    """Examine the data that a recipe reads, image by image, and list every problem, as `fewmask check` does."""
    from fewmask.data.doctor import check_domains as examine
    from fewmask.recipes.data import check_data

    request = _Request(name, words or [], None)
    configs = [request.configure(row, request.seeds[0]) for row in request.rows]
    check_data(request.name, configs, request.data, incomplete)
    domains = {domain: settings for config in configs for domain, settings in config.domains.items()}
    labelled = [config.labelled.images for config in configs]
    most = None if None in labelled else max(filter(None, labelled), default=0)
    with counting("files") as progress:
        report = examine(domains, most, request.seeds[0], progress=progress)
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

    The files of the data are checked first. The same command resumes where it stopped and skips finished runs.
    """
    from fewmask.recipes import seconds
    from fewmask.recipes.data import check_data

    request = _Request(name, words or [], seeds)
    recipe, folder = request.recipe, folder or below(Path("runs"), request.name)
    configs = {row: request.configure(row, request.seeds[0]) for row in request.rows}
    for dataset in check_data(request.name, configs.values(), request.data, incomplete):
        counts = ", ".join(f"{split} {images:,}" for split, images in dataset.images.items())
        published = " as published" if dataset.images == dataset.expected else ""
        say(f"{dataset.domain}: {counts} images{published} ({dataset.layout}, {dataset.folder})", err)
    estimates = seconds(recipe, configs).values()
    costs = [estimate for estimate in estimates if estimate is not None]
    time = [f"about {duration(sum(costs) * len(request.seeds))} on {recipe.rate.machine}"] if costs else []
    if unknown := len(estimates) - len(costs):
        time.append(f"time of {count(unknown, 'row')} {BY_DATA}")
    from fewmask.recipes.running import results
    from fewmask.recipes.running import run_recipe as go_on
    from fewmask.recipes.table import as_json as plainly

    say(f"{_runs(request.rows, request.seeds)}, {', '.join(time)}; in {folder}", err)
    again = ["recipes", "run", name, *(words or []), *(["--seeds", seeds] if seeds else []), "--out", str(folder)]
    again += ["--incomplete"] if incomplete else []
    command = shlex.join(["fewmask", *again])
    summaries = {}
    with training_progress() as observe:
        finished_runs = go_on(recipe, request.configure, folder, request.rows, request.seeds, command, observe, enough)
        for row, seed, summary in finished_runs:
            summaries[f"{row}-{seed}"] = summary
            if summary.get("state") == "failed":
                say(f"{row}-{seed} failed: {summary['error']}", err)
    waiting, failed = (
        {path: summary for path, summary in summaries.items() if summary.get("state") == state}
        for state in ("waiting", "failed")
    )
    if as_json:
        print_json(
            {"recipe": request.name, **plainly(recipe, results(recipe, folder)), "waiting": waiting, "failed": failed}
        )
    else:
        _print_results(recipe, folder, request.overrides)
        for path, summary in waiting.items():
            print_campaign(summary, below(folder, path), again)
    if failed:
        reasons = [f"{path}: {summary['error']}" for path, summary in failed.items()]
        raise RuntimeError("\n".join([f"{len(failed)} of {len(summaries)} runs failed", *reasons]))


def _print_results(recipe: Recipe, folder: Path, overrides: Sequence[str]) -> None:
    from fewmask.recipes.running import results
    from fewmask.recipes.table import class_lines, lines

    finished = results(recipe, folder)
    _print_table(f"{recipe.title}: mIoU", lines(recipe, finished))
    for domain, table in (class_lines(recipe, finished) if recipe.by_class else {}).items():
        _print_table(f"{domain}: IoU", table)
    for figure in recipe.elsewhere:
        say(f"Published: {percent(figure.miou)} {figure.figure} ({figure.source})")
    if recipe.source:
        say(f"Published: {recipe.source}")
    if overrides:
        say(f"Not the recipe's own settings: {' '.join(overrides)}")
    condition = " with the recipe's own settings" if overrides else ""
    say(f"To expect{condition}: {recipe.expected}\nAll results: {folder / 'results.json'}, {folder / 'results.md'}")


class _Request:
    """The request of the command line: the recipe, its rows, the data, the overrides and the seeds."""

    def __init__(self, name: str, words: Sequence[str], seeds: str | None) -> None:
        from fewmask.recipes import asks, find, read_recipe

        whole, named_rows = find(name)
        self.recipe, self.name = read_recipe(whole), _stem(whole)
        data = [word.removeprefix("data=") for word in words if word.startswith("data=")]
        self.overrides = [word for word in words if "=" in word and not word.startswith("data=")]
        patterns = [word for word in words if "=" not in word]
        if numbers := [word for word in patterns if word.isdigit()]:
            raise ValueError(f"{' '.join(numbers)}: not a row; write seeds as --seeds 0,1,2")
        if named_rows and patterns:
            raise ValueError(f"{name}: names rows of {whole} already; to choose other rows: recipes run {whole} …")
        if any(override.startswith("seed=") for override in self.overrides):
            raise ValueError("seed: a recipe sets it; give --seeds, such as --seeds 3")
        self.rows = self.recipe.choose(named_rows or patterns)
        of_campaigns = [override for override in self.overrides if override.startswith("campaign.")]
        if of_campaigns and not any(asks(self.recipe, row) for row in self.rows):
            raise ValueError(f"{of_campaigns[0]}: none of these rows is a campaign: {', '.join(self.rows)}")
        needs = _needs(self.recipe)
        if len(data) > 1 or data == [""] or (needs and not data):
            raise ValueError(f"data: give data=FOLDER once, the folder with {' and '.join(needs) or 'the data'}")
        self.data = Path(data[0]).expanduser() if data else Path()
        self.seeds = _numbers(seeds) if seeds is not None else self.recipe.seeds

    @property
    def configure(self) -> Callable[[str, int], Config]:
        from fewmask.recipes import configuration

        return lambda row, seed: configuration(self.recipe, self.name, row, self.data, self.overrides, seed)


def _runs(rows: Sized, seeds: Sized) -> str:
    return f"{count(len(rows), 'row')} × {count(len(seeds), 'seed')}"


def _cost(recipe: Recipe, seconds: Mapping[str, float | None]) -> str:
    """The estimated time of a run of each row, and of all runs."""
    costs = [cost for cost in seconds.values() if cost is not None]
    if len(costs) < len(seconds):
        return f"time {BY_DATA}"
    low, high = duration(min(costs)), duration(max(costs))
    each = low if low == high else f"{low} … {high}"
    return f"{each} a run on {recipe.rate.machine}, {duration(sum(costs) * len(recipe.seeds))} in all"


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
