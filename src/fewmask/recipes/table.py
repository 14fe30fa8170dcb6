"""The table of a recipe, with our figures and the published ones, as data and as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from fewmask.plurals import percent
from fewmask.recipes import Recipe

Results = dict[str, dict[int, dict[str, Any]]]
"""By row and seed, the summary of a run, with `domains`, `avg_miou`, `seconds`, `steps` and its other keys."""

# The keys of a domain's scores that the table's file contains, and the keys of a summary that it does not contain.
KEPT = ("miou", "miou_legacy", "pixel_accuracy", "miou_shared", "miou_private", "iou", "split", "images", "way")
LEFT_OUT = ("format", "domains", "validation", "hardware", "versions", "weights")

# The cost of a run: key in the file, column of the table, and digits.
COST = (("minutes", "minutes", 1), ("seconds_a_step", "s a step", 2), ("memory_mib", "MiB", 0))


def as_json(recipe: Recipe, results: Results) -> dict[str, Any]:
    """The table as plain data: for each row the mean and sample standard deviation over seeds with the published
    figures, and for each run its scores, cost and settings."""
    done = [run for runs in results.values() for run in runs.values()]
    shared = {key: done[0][key] for key in ("hardware", "versions")} if done else {}
    return {
        "title": recipe.title,
        "source": recipe.source,
        **shared,
        "rows": {row: _row(recipe, row, results.get(row, {})) for row in _rows(recipe, results)},
        "runs": {
            f"{row}/{seed}": {key: run[key] for key in run if key not in LEFT_OUT}
            | {"domains": {name: {k: s[k] for k in KEPT if k in s} for name, s in run["domains"].items()}}
            for row, runs in results.items()
            for seed, run in runs.items()
        },
        "elsewhere": [figure.model_dump() for figure in recipe.elsewhere],
    }


def _rows(recipe: Recipe, results: Results) -> list[str]:
    """The rows with runs or published figures, in the order of the table; names that are no rows come last."""
    return [r for r in dict.fromkeys([*recipe.table(), *recipe.published]) if r in results or r in recipe.published]


def _row(recipe: Recipe, row: str, runs: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    published, published_iou = recipe.published.get(row, {}), recipe.published_iou.get(row, {})
    names = dict.fromkeys([*(name for run in runs.values() for name in run["domains"]), *published, *published_iou])
    domains = {}
    for name in names:
        scores = [run["domains"][name] for run in runs.values() if name in run["domains"]]
        of_class, classes = published_iou.get(name, {}), dict.fromkeys(c for score in scores for c in score["iou"])
        domains[name] = {
            **_spread([score["miou"] for score in scores]),
            "published": published.get(name),
            "iou": {
                c: {**_spread([score["iou"][c] for score in scores]), "published": of_class.get(c)}
                for c in dict.fromkeys([*classes, *of_class])
            },
        }
    average = {**_spread([run["avg_miou"] for run in runs.values()]), "published": None}
    if len(published) > 1:
        average["published"] = fmean(published.values())
    cost = {
        "minutes": _spread([run["seconds"] / 60 for run in runs.values()]),
        "seconds_a_step": _spread([run["seconds"] / run["steps"] for run in runs.values()]),
        "memory_mib": _spread([run.get("memory_mib") for run in runs.values()]),
    }
    return {"seeds": list(runs), "domains": domains, "mean": average, **cost}


def _spread(numbers: Sequence[float | None]) -> dict[str, float | None]:
    """Mean and sample standard deviation of the values that are not None."""
    values = [number for number in numbers if number is not None]
    return {"mean": fmean(values) if values else None, "sd": stdev(values) if len(values) > 1 else None}


def lines(recipe: Recipe, results: Results) -> list[list[str]]:
    """The table as text, head first: ours as mean ± sample standard deviation, and the published figures."""
    rows = {name: _row(recipe, name, results.get(name, {})) for name in _rows(recipe, results)}
    domains = list(dict.fromkeys(name for row in rows.values() for name in row["domains"]))
    several = len(domains) > 1
    columns = [*domains, *(["mean"] if several else [])]
    scores = [f"{column}{part}" for column in columns for part in ("", ", published")]
    head = ["row", "seeds", *scores, *(head for _, head, _ in COST)]
    body = []
    for name, row in rows.items():
        cells = [row["domains"].get(domain) for domain in domains]
        # A mean over fewer domains than in the other rows would not be comparable.
        cells += [row["mean"] if len(row["domains"]) == len(domains) else None] if several else []
        words = [word for cell in cells for word in (_ours(cell), percent(cell["published"] if cell else None))]
        cost = [(row[key]["mean"], digits) for key, _, digits in COST]
        words += ["–" if mean is None else f"{mean:.{digits}f}" for mean, digits in cost]
        body.append([name, str(len(row["seeds"])), *words])
    keep = [i for i, column in enumerate(head) if i < 2 or any(line[i] != "–" for line in body) or "publ" not in column]
    return [[line[i] for i in keep] for line in (head, *body)]


def class_lines(recipe: Recipe, results: Results) -> dict[str, list[list[str]]]:
    """By domain, the table of classes for all rows as text, head first."""
    rows = {name: _row(recipe, name, results.get(name, {})) for name in _rows(recipe, results)}
    tables = {}
    for domain in dict.fromkeys(name for row in rows.values() for name in row["domains"]):
        having = {name: row["domains"][domain]["iou"] for name, row in rows.items() if domain in row["domains"]}
        classes = dict.fromkeys(c for iou in having.values() for c in iou)
        columns = [(name, part) for name, iou in having.items() for part in _parts(iou)]
        head = ["class", *(f"{name}{', published' if part else ''}" for name, part in columns)]
        body = [[c, *(_cell(having[name].get(c), part) for name, part in columns)] for c in classes]
        if body:
            tables[domain] = [head, *body]
    return tables


def _cell(cell: Mapping[str, Any] | None, published: bool) -> str:
    return percent(cell["published"] if cell else None) if published else _ours(cell)


def _parts(iou: Mapping[str, Mapping[str, Any]]) -> Iterator[bool]:
    """The columns of a row: one of our figures (False) and one of published figures (True), where there are any."""
    if any(cell["mean"] is not None for cell in iou.values()):
        yield False
    if any(cell["published"] is not None for cell in iou.values()):
        yield True


def markdown(recipe: Recipe, results: Results, command: str) -> str:
    """The table as Markdown, in points of mIoU, with the command that made it and its overrides."""
    parts = [f"# {recipe.title}", f"`{command}`", _markdown(lines(recipe, results))]
    for domain, table in (class_lines(recipe, results) if recipe.by_class else {}).items():
        parts += [f"## {domain}: IoU by class", _markdown(table)]
    if recipe.source:
        parts.append(f"Published: {recipe.source}. Ours: mean ± sample standard deviation over seeds.")
    parts += [f"- {percent(figure.miou)}: {figure.figure} ({figure.source})" for figure in recipe.elsewhere]
    return "\n\n".join(parts) + "\n"


def _markdown(table: Sequence[Sequence[str]]) -> str:
    head, *body = (f"| {' | '.join(line)} |" for line in table)
    return "\n".join([head, "|---" * len(table[0]) + "|", *body])


def _ours(cell: Mapping[str, Any] | None) -> str:
    if cell is None or cell["mean"] is None:
        return "–"
    return f"{100 * cell['mean']:.1f}" + ("" if cell["sd"] is None else f" ± {100 * cell['sd']:.1f}")
