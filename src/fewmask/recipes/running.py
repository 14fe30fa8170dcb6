"""The runs of a recipe, one after the other.

A run lies in `<folder>/<row>-<seed>` and goes on where it stopped; `results.json` and `results.md` beside the runs are
written anew whenever one ends, from what is on the disk. Two processes may run rows of one folder: a run that another
one holds is passed over as failed, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from fewmask import distributed
from fewmask.campaigns import campaign
from fewmask.campaigns.settings import check_campaign
from fewmask.config import Config
from fewmask.engine.device import choose_device
from fewmask.engine.fit import NonFiniteError, ProgressCallback, train
from fewmask.engine.run import load_domains, load_model, open_run
from fewmask.engine.transfer import with_new_head
from fewmask.files import hold, write_json, write_text
from fewmask.paths import below
from fewmask.recipes import Recipe
from fewmask.recipes.table import Results, as_json, markdown
from fewmask.runs import Heads, RunFolder
from fewmask.runs.records import mean


def run_recipe(
    recipe: Recipe,
    configure: Callable[[str, int], Config],
    folder: Path,
    rows: Sequence[str],
    seeds: Sequence[int],
    command: str,
    observe: ProgressCallback = lambda event: None,
    enough: bool = False,
) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Run rows × seeds, all rows of a seed before the next; yields each run's summary as it ends.

    `configure` makes the configuration of a row and a seed. A run that cannot be, or that breaks down, does not keep
    the others from running: its summary is `{"state": "failed", "error": …}`. Raises ValueError before anything is
    trained when the folder holds runs of other settings, which would stand in one table, and for campaigns whose
    settings are wrong.
    """
    for row, seed, path in _runs(recipe, folder):
        open_run(path, configure(row, seed))
    _check_campaigns({row: configure(row, seeds[0]) for row in rows})
    for seed in seeds:
        for row in rows:
            config, path = configure(row, seed), below(folder, f"{row}-{seed}")
            try:
                summary = _run(config, path, _named(f"{row}-{seed}", observe), enough)
                if recipe.heads and summary.get("state") != "waiting":
                    _score_others(config, path)
            except (ValueError, NonFiniteError) as error:
                summary = {"state": "failed", "error": str(error)}
            if distributed.rank() == 0:
                # Another process may run other rows: what it has found must not be written over by less.
                with hold(folder / ".results.lock", "its results are being written", "run it again", wait=60):
                    scores = results(recipe, folder)
                    write_json(folder / "results.json", {"command": command, **as_json(recipe, scores)})
                    write_text(folder / "results.md", markdown(recipe, scores, command))
            yield row, seed, summary


def _check_campaigns(configs: Mapping[str, Config]) -> None:
    """Raises one ValueError that lists what is wrong with the campaigns of all rows."""
    problems = []
    for row, config in configs.items():
        if config.campaign is not None:
            try:
                check_campaign(config, load_domains(config))
            except ValueError as error:
                problems.append(f"row {row}: {error}")
    if problems:
        raise ValueError("\n".join(problems))


def _named(run: str, observe: ProgressCallback) -> ProgressCallback:
    """Tells of which run a moment is."""
    return lambda event: observe(replace(event, stage=f"{run} {event.stage}"))


def _run(config: Config, folder: Path, observe: ProgressCallback, enough: bool) -> dict[str, Any]:
    if config.campaign is None:
        return train(config, folder, observe)
    return campaign(config, folder, observe, enough)


def _score_others(config: Config, folder: Path) -> None:
    """Score the domains that the run has not trained, with a head of their own on its frozen network."""
    run = RunFolder(folder)
    scored = run.read_summary().domains if run.finished else {}
    others = [domain for domain in config.domains if domain not in scored]
    if others and distributed.rank() == 0 and not run.heads.exists():
        with run.held():
            _train_heads(config, run, others)


def _train_heads(config: Config, run: RunFolder, others: Sequence[str]) -> None:
    domains, network = load_domains(config), load_model(run.folder, choose_device(config.train.device))
    schedule, seed = config.train, config.seed
    scored = {
        name: with_new_head(
            network, domains[name], steps=schedule.steps, settings=schedule, seed=seed, split=schedule.score
        )
        for name in others
    }
    records = {name: scores["domains"][name] | {"way": scores["way"]} for name, scores in scored.items()}
    run.write_record(run.heads, Heads.model_validate({"domains": records}))


def results(recipe: Recipe, folder: Path) -> Results:
    """The scores of all runs in the folder that are done."""
    scores_by_row: Results = {}
    for row, seed, path in _runs(recipe, folder):
        run = RunFolder(path)
        if run.finished:
            summary = run.read_summary().to_dict() | asdict(run.spent())
            if run.campaign.exists():
                summary |= run.read_campaign().model_dump(include={"unit", "asked", "spent", "clicks"})
            domains = summary["domains"] | (run.read_heads().to_dict()["domains"] if run.heads.exists() else {})
            average = mean([scores["miou"] for scores in domains.values()])
            scores_by_row.setdefault(row, {})[seed] = summary | {"domains": domains, "avg_miou": average}
    return scores_by_row


def _runs(recipe: Recipe, folder: Path) -> Iterator[tuple[str, int, Path]]:
    """Row, seed and folder of every run that there is, in the order of the table and of the seeds."""
    for row in recipe.table():
        seeds = [path.name.removeprefix(f"{row}-") for path in folder.glob(f"{row}-*")]
        for seed in sorted(int(s) for s in seeds if s.isdigit()):
            yield row, seed, below(folder, f"{row}-{seed}")
