"""Waits for people's answers and goes on with a campaign by itself, round after round."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fewmask import stopping
from fewmask.annotation.ledger import Ledger
from fewmask.campaigns import ledger_check
from fewmask.config import AnswerSettings, Config
from fewmask.files import hold
from fewmask.paths import AnyPath
from fewmask.plurals import count
from fewmask.runs import RunFolder

INTERVAL = 2.0
"""Seconds between two looks at the ledger. A look reads one number, unless there are new answers."""


def wait_and_go_on(
    folder: AnyPath,
    config: Config,
    go_on: Callable[[], dict[str, Any]],
    summary: dict[str, Any],
    tell: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Wait while the campaign in `folder` waits for answers, and call `go_on` each time that enough is answered.

    `go_on` runs the campaign as far as it gets and returns its summary; `summary` is the one of the last time. `tell`
    is called with a line for each wait and its end. Raises ValueError where another process watches the run, and
    `stopping.Stopped` after Ctrl-C or SIGTERM.
    """
    if summary["state"] != "waiting":
        return summary
    assert config.campaign is not None
    run, rule = RunFolder(Path(folder)), config.campaign.answers
    busy = hold(run.watch_lock, "is being watched", "end that process first, or let it go on", wait=INTERVAL)
    with stopping.defer_signals(), busy:
        while summary["state"] == "waiting":
            where = f"Round {summary['round'] + 1} of {summary['rounds']}"
            questions = count(summary["open"], "question")
            tell(f"{where} waits for answers to {questions}. Looking every {INTERVAL:g} seconds; Ctrl-C ends it.")
            _wait_until_answered(run, rule, summary["round"], where)
            tell(f"{where} goes on: enough is answered.")
            summary = go_on()
    return summary


def _wait_until_answered(run: RunFolder, rule: AnswerSettings, number: int, where: str) -> None:
    """Return when no question of a round is open."""
    last = -1
    while True:
        if stopping.stop_requested():
            raise stopping.Stopped(f"{run.folder}: stopped while {where.lower()} waits; the same command goes on")
        ledger_check.expect_ledger(run)
        with Ledger(run.ledger, rule) as ledger:
            before, last = last, ledger.last_answer_id()
            if last != before and not ledger.questions(number, open_only=True):
                return
        time.sleep(INTERVAL)
