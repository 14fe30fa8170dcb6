"""What the verbs share: arguments, where they print, and progress."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from fewmask.plurals import duration
from fewmask.stopping import exit_on_signal

if TYPE_CHECKING:
    from fewmask.engine.fit import ProgressCallback, ProgressEvent

out, err = Console(), Console(stderr=True)

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="A configuration in YAML.", show_default=False)]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.", show_default=False)]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Override any key, as in train.steps=500.")
]
OutFolder = Annotated[Path | None, typer.Option("--out", help="The run's folder; runs/<name> by default.")]
Device = Annotated[str, typer.Option(metavar="auto|cuda|mps|cpu", help="Where to compute; cuda:1 names a GPU.")]
Split = Annotated[str, typer.Option(metavar="train|val|test", help="The images that are looked at.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


@contextmanager
def training_progress(spent: Callable[[], str] = lambda: "") -> Iterator[ProgressCallback]:
    """A bar with loss, step rate, time left and memory; where stderr is no terminal, a line now and then.

    `spent` says in words what was spent of a budget; it is asked when a stage begins.
    """
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[told]}")
    with exit_on_signal(), Progress(*columns, console=err, disable=not err.is_terminal) as bar:
        tasks: dict[str, Any] = {}
        stage, so_far, part = "", "", 0

        def observe(event: ProgressEvent) -> None:
            nonlocal stage, so_far, part
            if event.stage != stage:
                stage, so_far, part = event.stage, spent(), 0
            evaluates = stage.endswith("evaluate")
            key = f"{event.run} evaluate" if evaluates else event.run
            if key not in tasks:
                tasks[key] = bar.add_task(key, told="")
            told = _told(event, so_far)
            description = f"{event.run} · {stage}"
            bar.update(tasks[key], description=description, completed=event.step, total=event.steps, told=told)
            before, part = part, event.step * (20 if event.terms else 4) // event.steps
            if part > before and not evaluates and not err.is_terminal:
                print(f"{event.run} {stage} {event.step}/{event.steps} {told}", file=sys.stderr, flush=True)

        yield observe


def _told(event: ProgressEvent, spent: str) -> str:
    parts = [f"loss {event.loss:.3f}"] if event.terms else []
    if event.steps_per_second:
        parts += [f"{event.steps_per_second:.2f}/s", f"{duration(event.seconds_left)} left"]
    if event.memory_mib is not None:
        parts.append(f"{event.memory_mib:.0f} MiB")
    return " · ".join([*parts, *filter(None, [spent])])


@contextmanager
def counting(what: str) -> Iterator[Any]:
    with Progress(console=err, disable=not err.is_terminal, transient=True) as bar:
        task = bar.add_task(what)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def say(text: str, to: Console = out) -> None:
    """Print text as it is: rich neither reads markup in it nor breaks its lines, so that commands can be copied."""
    to.print(text, soft_wrap=True, markup=False, highlight=False)


def print_json(data: Any) -> None:
    print(json.dumps(data, ensure_ascii=False))


def plain(value: object) -> str:
    """Text that rich must not read as its own markup."""
    return str(value).replace("[", r"\[")
