"""Arguments, printing and progress that the verbs share."""

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
Device = Annotated[str, typer.Option(metavar="auto|cuda|mps|cpu", help="The device to compute on, such as cuda:1.")]
Split = Annotated[str, typer.Option(metavar="train|val|test", help="The split of images to use.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


@contextmanager
def training_progress(spent: Callable[[], str] = lambda: "") -> Iterator[ProgressCallback]:
    """Show a bar with loss, step rate, time left and memory; or lines from time to time if stderr is no terminal.

    `spent` returns the spent budget in words. It is called at the beginning of each stage.
    """
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[details]}")
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
                tasks[key] = bar.add_task(key, details="")
            details = _details(event, so_far)
            description = f"{event.run} · {stage}"
            bar.update(tasks[key], description=description, completed=event.step, total=event.steps, details=details)
            previous_part, part = part, event.step * (20 if event.terms else 4) // event.steps
            if part > previous_part and not evaluates and not err.is_terminal:
                print(f"{event.run} {stage} {event.step}/{event.steps} {details}", file=sys.stderr, flush=True)

        yield observe


def _details(event: ProgressEvent, spent: str) -> str:
    parts = [f"loss {event.loss:.3f}"] if event.terms else []
    if event.steps_per_second:
        parts += [f"{event.steps_per_second:.2f}/s", f"{duration(event.seconds_left)} left"]
    if event.memory_mib is not None:
        parts.append(f"{event.memory_mib:.0f} MiB")
    return " · ".join([*parts, *filter(None, [spent])])


@contextmanager
def counting(label: str) -> Iterator[Any]:
    with Progress(console=err, disable=not err.is_terminal, transient=True) as bar:
        task = bar.add_task(label)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def say(text: str, to: Console = out) -> None:
    """Print text without rich's markup and line breaks, so that users can copy commands."""
    to.print(text, soft_wrap=True, markup=False, highlight=False)


def print_json(data: Any) -> None:
    print(json.dumps(data, ensure_ascii=False))


def plain(value: object) -> str:
    """Text with rich's markup escaped."""
    return str(value).replace("[", r"\[")
