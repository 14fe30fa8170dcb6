"""Checks a ledger against the other files of its run.

A ledger that lacks answers which these files mention is an older copy, or belongs to another run.
"""

from __future__ import annotations

from collections.abc import Iterator

from fewmask.annotation.ledger import Ledger
from fewmask.files import NOTES, set_aside
from fewmask.runs import RunFolder


def expect_ledger(run: RunFolder) -> None:
    """Raise ValueError where the run had a ledger that is missing now, before a new one is made in its place."""
    if not run.ledger.exists() and (any(_numbers(run)) or run.campaign.exists()):
        raise ValueError(
            f"{run.ledger}: missing, and the run has asked and learnt with it; put the last copy of it there, or give "
            f"another --out. {run.labels} holds the answers as masks"
        )


def expect_answers(run: RunFolder, ledger: Ledger) -> None:
    """Raise ValueError where the ledger lacks answers that a round learnt from, has others, or lacks questions."""
    for number in _numbers(run):
        if lost := _lost(run, ledger, number):
            raise _older(run, f"{run.record(number)} says that round {number + 1} {lost}")
    questions = ledger.progress().asked
    if run.campaign.exists() and (recorded := run.read_campaign().asked) > questions:
        raise _older(run, f"{run.campaign} says that {recorded} questions were asked, here are {questions}")


def of_masks_unnoted(run: RunFolder) -> int | None:
    """The last answer in masks that were written without a note of it; None where every mask is noted."""
    noted = not run.labels.exists() or (run.labels / NOTES).exists()
    return None if noted else max((run.read_record(number).up_to for number in _numbers(run)), default=None)


def accept(run: RunFolder, ledger: Ledger) -> None:
    """Go on with this ledger: from now on the rounds count as trained on its answers.

    The masks of the former answers are kept under another name.
    """
    lost = [number for number in _numbers(run) if _lost(run, ledger, number)]
    if (lost or run.campaign.exists()) and run.labels.exists():
        set_aside(run.labels)
    for number in lost:
        record = run.read_record(number)
        up_to = min(record.up_to, ledger.last_answer_id())
        update = {"up_to": up_to, "answers": ledger.fingerprint(up_to)}
        run.write_record(run.record(number), record.model_copy(update=update))
    if run.campaign.exists() and run.read_campaign().asked > ledger.progress().asked:
        update = {"asked": ledger.progress().asked}
        run.write_record(run.campaign, run.read_campaign().model_copy(update=update))


def _numbers(run: RunFolder) -> Iterator[int]:
    """The rounds whose training has begun."""
    return (int(path.stem) for path in sorted(run.record(0).parent.glob("[0-9]*.json")) if path.stem.isdigit())


def _lost(run: RunFolder, ledger: Ledger, number: int) -> str:
    """Says which of the answers that a round learnt from the ledger lacks; empty where it has them all."""
    record = run.read_record(number)
    if record.up_to > (last := ledger.last_answer_id()):
        return f"learnt from answers up to {record.up_to}, and here are {last}"
    if record.answers not in (None, ledger.fingerprint(record.up_to)):
        return f"learnt from other answers up to {record.up_to} than are here"
    return ""


def _older(run: RunFolder, why: str) -> ValueError:
    return ValueError(
        f"{run.ledger}: an older copy, or another run's: {why}. Put the newest copy of it there. To go on with this "
        f"one, without the answers that it lacks, say --accept-older-ledger; {run.labels}, which has them as masks, is "
        "then kept under another name"
    )
