"""The verbs. Each is a thin layer over Python's `fewmask`; torch is imported inside the verb that needs it.

Results go to stdout, as text or with --json as JSON; progress and errors go to stderr.
Exit code 0: done · 1: it failed · 2: the input is wrong.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from fewmask.cli.agreement import agreement
from fewmask.cli.campaigns import answer, campaign, query
from fewmask.cli.comparing import compare
from fewmask.cli.help import Verbs, add
from fewmask.cli.init import init
from fewmask.cli.recipes import recipes
from fewmask.cli.report import report
from fewmask.cli.runs import evaluate, export, predict
from fewmask.cli.training import check, demo, train

app = typer.Typer(cls=Verbs, no_args_is_help=True, pretty_exceptions_enable=False)

BEGIN, TRAIN, ASK, RESULTS = "Begin", "Train, and use what was trained", "Ask people for labels", "Look at results"
# Each verb with the panel that it is listed in and the line to copy.
VERBS: dict[Callable[..., None], tuple[str, str]] = {
    demo: (BEGIN, "fewmask demo"),
    init: (BEGIN, "fewmask init my-images/"),
    check: (BEGIN, "fewmask check my.yaml"),
    train: (TRAIN, "fewmask train my.yaml"),
    campaign: (ASK, "fewmask campaign my.yaml"),
    query: (ASK, "fewmask query runs/mine --for cvat"),
    answer: (ASK, "fewmask answer runs/mine"),
    agreement: (ASK, "fewmask agreement runs/mine"),
    evaluate: (TRAIN, "fewmask evaluate runs/mine --split test"),
    predict: (TRAIN, "fewmask predict runs/mine new-images/"),
    export: (TRAIN, "fewmask export runs/mine"),
    report: (RESULTS, "fewmask report runs/mine --open"),
    compare: (RESULTS, "fewmask compare 'runs/joint-*' 'runs/fixmatch-*'"),
}


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"fewmask {version('fewmask')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """fewmask init my-images/

    Segmentation from few masks: many label spaces, few labels, one model. `fewmask VERB --help` explains a verb.
    `fewmask --install-completion` lets the shell complete verbs, options and paths by the Tab key.
    """


for verb, (panel, example) in VERBS.items():
    add(app, verb, example, panel=panel)
app.add_typer(recipes, name="recipes", rich_help_panel=RESULTS)


def main() -> None:
    """The `fewmask` command: the user's mistakes end with code 2 and one message, our failures with 1."""
    try:
        app()
    except ValueError as error:
        _fail(error, 2)
    except SystemExit as end:
        if end.code == _INTERRUPTED:
            _fail(_where_it_stopped(end) or "stopped; the same command goes on from what is on the disk", 1)
        raise
    except (RuntimeError, OSError, MemoryError) as error:
        if isinstance(error, OSError) and error.filename is not None and (fix := _PLACES.get(error.errno or 0)):
            _fail(f"{error.filename}: {error.strerror}; {fix}", 2)
        _fail(f"{type(error).__name__}: {error}", 1)


# What is wrong with the place that somebody named, not with the machine.
_PLACES = dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "fix its permissions, or name another place")
_PLACES |= dict.fromkeys(
    (errno.EEXIST, errno.ENOTDIR, errno.EISDIR), "a file or folder is in the way, name another place"
)

# What typer makes of Ctrl-C, which it does not let through.
_INTERRUPTED = 130


def _where_it_stopped(end: SystemExit) -> str:
    """What a run that saved itself says; typer puts its own exits around that."""
    cause = end.__context__.__cause__ if end.__context__ else None
    return str(cause) if isinstance(cause, KeyboardInterrupt) else ""


def _fail(message: object, code: int) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)
