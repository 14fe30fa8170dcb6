"""The verbs of the command line. Each is a thin layer over the package `fewmask`. Only verbs that need torch import it.

Results go to stdout, as text or with --json as JSON. Progress and errors go to stderr.
Exit codes: 0 for success · 1 for a failure · 2 for wrong input.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from fewmask.cli.agreement import agreement
from fewmask.cli.answering import answer
from fewmask.cli.campaigns import campaign, query
from fewmask.cli.comparing import compare
from fewmask.cli.help import Verbs, add
from fewmask.cli.init import init
from fewmask.cli.links import links
from fewmask.cli.recipes import recipes
from fewmask.cli.report import report
from fewmask.cli.runs import evaluate, export, predict
from fewmask.cli.training import check, demo, train

app = typer.Typer(cls=Verbs, no_args_is_help=True, pretty_exceptions_enable=False)

BEGIN, TRAIN, ASK, RESULTS = "Begin", "Train, and use what was trained", "Ask people for labels", "Look at results"
# Each verb with its panel in the help and its example.
VERBS: dict[Callable[..., None], tuple[str, str]] = {
    demo: (BEGIN, "fewmask demo"),
    init: (BEGIN, "fewmask init my-images/"),
    check: (BEGIN, "fewmask check my.yaml"),
    train: (TRAIN, "fewmask train my.yaml"),
    campaign: (ASK, "fewmask campaign my.yaml"),
    query: (ASK, "fewmask query runs/mine --for cvat"),
    answer: (ASK, "fewmask answer runs/mine"),
    links: (ASK, "fewmask links runs/mine --add anna --add ben"),
    agreement: (ASK, "fewmask agreement runs/mine"),
    evaluate: (TRAIN, "fewmask evaluate runs/mine --split test"),
    predict: (TRAIN, "fewmask predict runs/mine new-images/"),
    export: (TRAIN, "fewmask export runs/mine"),
    report: (RESULTS, "fewmask report runs/mine --open"),
    compare: (RESULTS, "fewmask compare 'runs/joint-*' 'runs/fixmatch-*'"),
}


def _version(is_requested: bool) -> None:
    if is_requested:
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

    Segmentation from few masks: many label spaces, few labels, one model. `fewmask COMMAND --help` explains a command.
    `fewmask --install-completion` lets the shell complete commands, options and paths by the Tab key.
    """


for verb, (panel, example) in VERBS.items():
    add(app, verb, example, panel=panel)
app.add_typer(recipes, name="recipes", rich_help_panel=RESULTS)


def main() -> None:
    """The `fewmask` command. Wrong input ends with code 2 and one message, a failure with code 1."""
    try:
        app()
    except ValueError as error:
        _fail(error, 2)
    except SystemExit as end:
        if end.code == _INTERRUPTED:
            _fail(_where_it_stopped(end) or "stopped; the same command resumes from the files on the disk", 1)
        raise
    except (RuntimeError, OSError, MemoryError) as error:
        if isinstance(error, OSError) and error.filename is not None and (fix := _PLACES.get(error.errno or 0)):
            _fail(f"{error.filename}: {error.strerror}; {fix}", 2)
        _fail(f"{type(error).__name__}: {error}", 1)


# Errors of the path that the user gave. Other OSErrors are failures.
_PLACES = dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "fix its permissions, or name another place")
_PLACES |= dict.fromkeys((errno.EEXIST, errno.EISDIR), "a file or folder with this name exists, name another place")
_PLACES[errno.ENOTDIR] = "a part of this path is a file, name another place"

# The exit code that typer uses for Ctrl-C.
_INTERRUPTED = 130


def _where_it_stopped(end: SystemExit) -> str:
    """The message of a run that saved itself before it stopped. typer wraps it in exits of its own."""
    cause = end.__context__.__cause__ if end.__context__ else None
    return str(cause) if isinstance(cause, KeyboardInterrupt) else ""


def _fail(message: object, code: int) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)
