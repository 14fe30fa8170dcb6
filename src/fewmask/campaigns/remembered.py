"""Checks a ledger against the other files of its run. A ledger that lacks what they mention is an older copy, or
another run's."""

from __future__ import annotations

from collections.abc import Iterator

from fewmask.annotation.ledger import Ledger
from fewmask.files import NOTES, set_aside
from fewmask.runs import RunFolder


def expect_ledger(run: RunFolder) -> None:
    """Raises ValueError where the run had a ledger that is gone, before a new one is made in its place."""
    if not run.ledger.exists() and (any(_numbers(run)) or run.campaign.exists()):
        raise ValueError(
            f"{run.ledger}: missing, and the run has asked and learnt with it; put the last copy of it there, or give "
            f"another --out. {run.labels} holds the answers as masks"
        )


def expect_answers(run: RunFolder, ledger: Ledger) -> None:
    """Raises ValueError where a round learnt from answers that the ledger does not have, or has otherwise, and where
    more was asked than it knows."""
    for number in _numbers(run):
        if lost := _lost(run, ledger, number):
            raise _older(run, f"{run.record(number)} says that round {number + 1} {lost}")
    asked = ledger.progress().asked
    if run.campaign.exists() and (before := run.read_campaign().asked) > asked:
        raise _older(run, f"{run.campaign} says that {before} questions were asked, here are {asked}")


def of_masks_unnoted(run: RunFolder) -> int | None:
    """Where an earlier version wrote the masks and did not note that it did: the last answer that they may say."""
    noted = not run.labels.exists() or (run.labels / NOTES).exists()
    return None if noted else max((run.read_record(number).up_to for number in _numbers(run)), default=None)


def accept(run: RunFolder, ledger: Ledger) -> None:
    """Go on with this ledger all the same: from now on its answers are those that the rounds learnt from. The masks
    that were made of the answers before are kept beside the new ones."""
    changed = [number for number in _numbers(run) if _lost(run, ledger, number)]
    if (changed or run.campaign.exists()) and run.labels.exists():
        set_aside(run.labels)
    for number in changed:
        record = run.read_record(number)
        up_to = min(record.up_to, ledger.last_answer_id())
        own = {"up_to": up_to, "answers": ledger.fingerprint(up_to)}
        run.write_record(run.record(number), record.model_copy(update=own))
    if run.campaign.exists() and run.read_campaign().asked > ledger.progress().asked:
        asked = {"asked": ledger.progress().asked}
        run.write_record(run.campaign, run.read_campaign().model_copy(update=asked))


def _numbers(run: RunFolder) -> Iterator[int]:
    """The rounds whose training has begun."""
    return (int(path.stem) for path in sorted(run.record(0).parent.glob("[0-9]*.json")) if path.stem.isdigit())


def _lost(run: RunFolder, ledger: Ledger, number: int) -> str:
    """How what a round learnt from is not in the ledger, in words; empty where it is."""
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
