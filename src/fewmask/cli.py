"""The verbs. Each is a thin layer over Python's `fewmask`; torch is imported inside the verb that needs it.

Results go to stdout, as text or with --json as JSON; progress and errors go to stderr.
Exit code 0: done · 1: it failed · 2: the input is wrong.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from fewmask.engine.fit import Moment

app = typer.Typer(
    help="Segmentation from few masks: many label spaces, few labels, one model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
out, err = Console(), Console(stderr=True)

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="A configuration in YAML.", show_default=False)]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.", show_default=False)]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[key.sub=value …]", help="Override any key.")]
Device = Annotated[str, typer.Option(help="auto, cuda, cuda:0, mps or cpu.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


@app.command()
def demo(
    folder: Annotated[Path, typer.Option("--out", help="Where to write.")] = Path("runs/demo"), as_json: Json = False
) -> None:
    """Train joint and univ-full on three procedural domains, in minutes on a laptop's CPU, and show what came out."""
    from fewmask.demo import METHODS, compare

    with _training_progress() as observe:
        result = compare(folder, observe)
    if as_json:
        _print_json(result)
        return
    domains = list(result["runs"][METHODS[0]]["domains"])
    table = Table("method", *domains, "mean", "seconds", title="mIoU on the test images, 16 labelled images per domain")
    for method, run in result["runs"].items():
        scores = [run["domains"][d]["miou"] for d in domains]
        table.add_row(method, *map(_percent, [*scores, run["avg_miou"]]), f"{run['seconds']:.0f}")
    out.print(table)
    out.print(f"Pictures: {result['picture']} and {folder}/<method>/overlays", soft_wrap=True)
    out.print("One seed of a short run: read docs/results.md before believing a difference.")


@app.command()
def check(config: ConfigFile, overrides: Overrides = None, as_json: Json = False) -> None:
    """Examine a configuration's data: every problem listed at once, each with file, value and mend."""
    from fewmask.data.doctor import check as examine
    from fewmask.methods import read_config

    settings = read_config(config, overrides or [])
    with _counting("files") as progress:
        report = examine(settings.domains, settings.labelled.images, settings.seed, progress=progress)
    if as_json:
        _print_json(report.to_dict())
    else:
        for name, s in report.statistics.items():
            splits = ", ".join(f"{k} {v}" for k, v in s.splits.items())
            out.print(f"\n{name}: {splits}; {s.labelled} labelled", style="bold", soft_wrap=True)
            out.print(_statistics_table(s))
        for problem in report.warnings:
            out.print(f"[yellow]warning[/] {_plain(problem)}", soft_wrap=True)
        for problem in report.errors:
            out.print(f"[red]error[/] {_plain(problem)}", soft_wrap=True)
        out.print(f"{len(report.errors)} errors, {len(report.warnings)} warnings")
    if report.errors:
        raise typer.Exit(2)


@app.command()
def train(
    config: ConfigFile,
    overrides: Overrides = None,
    folder: Annotated[Path | None, typer.Option("--out", help="The run's folder; runs/<name> by default.")] = None,
    as_json: Json = False,
) -> None:
    """Train a model. The same command goes on where a run stopped."""
    from fewmask.engine.fit import train as fit
    from fewmask.methods import read_config

    settings = read_config(config, overrides or [])
    folder = folder or Path("runs") / settings.name
    with _training_progress() as observe:
        summary = fit(settings, folder, observe)
    if as_json:
        _print_json(summary)
        return
    _print_scores(summary, f"{settings.method.name}: {folder}")


@app.command()
def evaluate(
    run: RunFolder,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "val",
    on: Annotated[Path | None, typer.Option(help="Score on a domain of this configuration instead.")] = None,
    domain: Annotated[str | None, typer.Option(help="With --on: which of its domains.")] = None,
    head: Annotated[str | None, typer.Option(help="With --on: which of the model's heads predicts.")] = None,
    classes: Annotated[
        Path | None, typer.Option(help="With --on: YAML of class names, `source: target` or `source: null`.")
    ] = None,
    new_head_steps: Annotated[
        int,
        typer.Option(min=0, help="With --on: train a head on the frozen network for so many steps instead of mapping."),
    ] = 0,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Per-class IoU of a run on its own domains, or on another domain through a class mapping or with a new head."""
    from fewmask.engine.device import choose_device
    from fewmask.engine.evaluate import evaluate as score
    from fewmask.engine.run import load_config, load_domains, load_model, record_evaluation

    settings = load_config(run)
    model = load_model(run, choose_device(device))
    with _counting("images") as progress:
        if on is None:
            result = score(
                model,
                load_domains(settings),
                split,
                synonyms=settings.synonyms,
                workers=settings.train.workers,
                precision=settings.train.precision,
                progress=progress,
            )
            if not result["domains"]:
                raise ValueError(f"--split {split}: no domain of {run} has it; write train, val or test")
        else:
            result = _transfer(model, settings, on, domain, head, classes, new_head_steps, split, progress)
    record_evaluation(run, split, result)
    if as_json:
        _print_json(result)
    else:
        _print_scores(result, f"{run}, {split}")


@app.command()
def predict(
    run: RunFolder,
    images: Annotated[Path, typer.Argument(help="A folder of images, of any size.", show_default=False)],
    folder: Annotated[Path | None, typer.Option("--out", help="Where to write; RUN/predictions by default.")] = None,
    domain: Annotated[str | None, typer.Option(help="Whose classes to predict, where the model has several.")] = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 4,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Masks and coloured overlays for every image of a folder."""
    from fewmask.engine.device import choose_device
    from fewmask.engine.predict import predict as write
    from fewmask.engine.run import load_config, load_model

    settings = load_config(run).train
    model = load_model(run, choose_device(device))
    target = folder or run / "predictions"
    with _counting("images") as progress:
        result = write(
            model, images, target, domain,
            batch_size=batch_size, workers=settings.workers, precision=settings.precision, progress=progress,
        )  # fmt: skip
    if as_json:
        _print_json(result)
    else:
        out.print(f"{target}: masks/, overlays/ and classes.yaml", soft_wrap=True)


@app.command()
def export(
    run: RunFolder,
    file: Annotated[Path | None, typer.Option("--out", help="The file; RUN/model.onnx by default.")] = None,
    domain: Annotated[str | None, typer.Option(help="Export this domain's head alone.")] = None,
    as_json: Json = False,
) -> None:
    """Write the model as ONNX, for images of any size."""
    from fewmask.export import export as write

    result = write(run, file or run / "model.onnx", domain)
    if as_json:
        _print_json(result)
    else:
        out.print(str(file or run / "model.onnx"), soft_wrap=True)


def main() -> None:
    """The `fewmask` command: the user's mistakes end with code 2 and one message, our failures with 1."""
    try:
        app()
    except ValueError as error:
        _fail(error, 2)
    except SystemExit as end:
        if end.code == _INTERRUPTED:
            _fail("stopped; the same `fewmask train` goes on from its last checkpoint", 1)
        raise
    except (RuntimeError, OSError) as error:
        _fail(f"{type(error).__name__}: {error}", 1)


# What typer makes of Ctrl-C, which it does not let through.
_INTERRUPTED = 130


def _fail(message: object, code: int) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)


def _transfer(
    model: Any,
    settings: Any,
    on: Path,
    domain: str | None,
    head: str | None,
    classes: Path | None,
    steps: int,
    split: str,
    progress: Any,
) -> dict[str, Any]:
    from fewmask.engine.run import load_domains
    from fewmask.engine.transfer import through_mapping, with_new_head
    from fewmask.methods import read_config

    domains = load_domains(read_config(on))
    name = _only(domain, domains, "--domain")
    if steps:
        return with_new_head(
            model, domains[name],
            steps=steps, settings=settings.train, seed=settings.seed, split=split, progress=progress,
        )  # fmt: skip
    source = _only(head, model.spaces, "--head")
    names = _class_names(classes) if classes else None
    return through_mapping(model, source, domains[name], names, split=split, progress=progress)


def _class_names(path: Path) -> dict[str, str | None]:
    import yaml

    from fewmask.labels import UniqueKeys

    try:
        names = yaml.load(path.read_text(encoding="utf-8"), UniqueKeys)
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise ValueError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(names, dict) or not all(isinstance(v, str | None) for pair in names.items() for v in pair):
        raise ValueError(f"{path}: a class mapping is `source: target` lines, `source: null` where there is none")
    return names


def _only(name: str | None, there: Mapping[str, Any], option: str) -> str:
    if name is None and len(there) == 1:
        return next(iter(there))
    if name is None or name not in there:
        raise ValueError(f"{option}: say one of {', '.join(there)}")
    return name


@contextmanager
def _training_progress() -> Iterator[Any]:
    """A bar with loss, step rate, time left and memory; where stderr is no terminal, a line now and then."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f} · {task.fields[rate]:.2f} steps/s · {task.fields[memory]:.0f} MiB"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, disable=not err.is_terminal) as bar:
        tasks: dict[str, Any] = {}

        def observe(moment: Moment) -> None:
            key = f"{moment.run} {moment.stage}" if moment.stage == "evaluate" else moment.run
            if key not in tasks:
                tasks[key] = bar.add_task(key, loss=0.0, rate=0.0, memory=0.0)
            bar.update(
                tasks[key],
                description=f"{moment.run} · {moment.stage}",
                completed=moment.step,
                total=moment.steps,
                loss=moment.loss,
                rate=moment.steps_per_second,
                memory=moment.memory_mib,
            )
            now_and_then = moment.stage != "evaluate" and moment.step % max(moment.steps // 20, 1) == 0
            if now_and_then and not err.is_terminal:
                line = (
                    f"{moment.run} {moment.stage} {moment.step}/{moment.steps} loss {moment.loss:.3f} · "
                    f"{moment.steps_per_second:.2f}/s · {moment.seconds_left:.0f} s left · {moment.memory_mib:.0f} MiB"
                )
                print(line, file=sys.stderr, flush=True)

        yield observe


@contextmanager
def _counting(what: str) -> Iterator[Any]:
    with Progress(console=err, disable=not err.is_terminal, transient=True) as bar:
        task = bar.add_task(what)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _print_json(data: Any) -> None:
    print(json.dumps(data, ensure_ascii=False))


def _print_scores(result: Mapping[str, Any], title: str) -> None:
    for name, s in result["domains"].items():
        out.print(f"\n{title} · {name}", style="bold", soft_wrap=True)
        table = Table("class", "IoU")
        for label, iou in s["iou"].items():
            table.add_row(label, _percent(iou))
        table.add_section()
        table.add_row("mIoU", _percent(s["miou"]), style="bold")
        table.add_row("mIoU, absent classes as 0", _percent(s["miou_legacy"]), style="dim")
        table.add_row("pixel accuracy", _percent(s["pixel_accuracy"]))
        out.print(table)
        if s.get("unreachable"):
            everywhere = f"with them as 0 the mIoU is {_percent(s['miou_present'])}"
            out.print(f"no source class means {', '.join(s['unreachable'])}; {everywhere}", soft_wrap=True)
    out.print(f"mean mIoU over domains: {_percent(result['avg_miou'])}")


def _statistics_table(s: Any) -> Table:
    table = Table("class", "share of pixels", "masks")
    for label, share in s.pixels.items():
        table.add_row(label, _percent(share), str(s.occurs.get(label, 0)))
    table.add_section()
    table.add_row("not labelled", _percent(s.not_labelled), "")
    table.add_row("void", _percent(s.void), "")
    return table


def _plain(value: object) -> str:
    """Text that rich must not read as its own markup."""
    return str(value).replace("[", r"\[")


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


if __name__ == "__main__":
    main()
