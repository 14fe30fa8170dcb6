"""The runs of a recipe, one after the other.

A run is in `<folder>/<row>-<seed>` and resumes where it stopped. After each run, `results.json` and `results.md` in
`<folder>` are written again from all runs on the disk. Two processes may run rows of one folder: a run that another
process holds counts as failed, with the reason.
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
    """Run rows × seeds, all rows of one seed before the next seed, and yield each run's summary after its end.

    `configure` makes the configuration of a row and a seed. A failed run does not stop the others: its summary is
    `{"state": "failed", "error": …}`. Before any training, raises ValueError for a folder with runs of other settings,
    since all runs of a folder form one table, and for campaigns with wrong settings.
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
                # Another process may run other rows. The lock keeps it from writing older results over newer ones.
                with hold(folder / ".results.lock", "its results are being written", "run it again", wait=60):
                    scores = results(recipe, folder)
                    write_json(folder / "results.json", {"command": command, **as_json(recipe, scores)})
                    write_text(folder / "results.md", markdown(recipe, scores, command))
            yield row, seed, summary


def _check_campaigns(configs: Mapping[str, Config]) -> None:
    """Raises one ValueError that lists the errors in the campaigns of all rows."""
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
    """The callback, with the name of the run before the stage of each event."""
    return lambda event: observe(replace(event, stage=f"{run} {event.stage}"))


def _run(config: Config, folder: Path, observe: ProgressCallback, enough: bool) -> dict[str, Any]:
    if config.campaign is None:
        return train(config, folder, observe)
    return campaign(config, folder, observe, enough)


def _score_others(config: Config, folder: Path) -> None:
    """Score each domain that the run has not trained, with a new head on its frozen network."""
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
    """The scores of all finished runs in the folder."""
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
    """Row, seed and folder of every run on the disk, in the order of the table and of the seeds."""
    for row in recipe.table():
        seeds = [path.name.removeprefix(f"{row}-") for path in folder.glob(f"{row}-*")]
        for seed in sorted(int(s) for s in seeds if s.isdigit()):
            yield row, seed, below(folder, f"{row}-{seed}")
