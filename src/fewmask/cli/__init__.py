"""The verbs. Each is a thin layer over Python's `fewmask`; torch is imported inside the verb that needs it.

Results go to stdout, as text or with --json as JSON; progress and errors go to stderr.
Exit code 0: done · 1: it failed · 2: the input is wrong.
"""

from __future__ import annotations

import sys

import typer

from fewmask.cli.agreement import agreement
from fewmask.cli.campaigns import answer, campaign, query
from fewmask.cli.comparing import compare
from fewmask.cli.recipes import recipes
from fewmask.cli.report import report
from fewmask.cli.runs import evaluate, export, predict
from fewmask.cli.training import check, demo, train

app = typer.Typer(
    help="Segmentation from few masks: many label spaces, few labels, one model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for verb in (demo, check, train, campaign, query, answer, agreement, evaluate, predict, export, report, compare):
    app.command()(verb)
app.add_typer(recipes, name="recipes")


def main() -> None:
    """The `fewmask` command: the user's mistakes end with code 2 and one message, our failures with 1."""
    try:
        app()
    except ValueError as error:
        _fail(error, 2)
    except SystemExit as end:
        if end.code == _INTERRUPTED:
            _fail("stopped; the same command goes on from what is on the disk", 1)
        raise
    except (RuntimeError, OSError) as error:
        _fail(f"{type(error).__name__}: {error}", 1)


# What typer makes of Ctrl-C, which it does not let through.
_INTERRUPTED = 130


def _fail(message: object, code: int) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)
