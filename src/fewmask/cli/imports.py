"""What `answer --from` says of what came back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from fewmask.cli.terminal import say

if TYPE_CHECKING:
    from fewmask.annotation.importer import Import


def print_import(counts: Import, rule: str, command: str) -> None:
    """Say what was taken, whose answers that touches, and what was left aside. `command` is the one that was given."""
    say(f"{counts.answered} answered, {counts.unchanged} answered before, {counts.undecided} not painted.")
    if counts.skipped:
        say(f"{counts.skipped} skipped.")
    if counts.taken_back:
        say(f"{counts.taken_back} taken back: what was said before them counts again.")
    if counts.beside:
        _say_beside(counts.beside, rule)
    if counts.corrected:
        say(f"{counts.corrected} of these take the place of another answer by the same annotator.")
    if counts.beside or counts.corrected:
        say(f"  To take back what came from there:\n  {command} --take-back")
    if counts.changed_since:
        say(
            f"{counts.changed_since} came this way before, and were answered otherwise in another way since: those "
            "answers stand."
        )
    if counts.in_part:
        say(
            f"{counts.in_part} of these in part: what is left of them is not asked again. Paint it and run this once "
            "more with --corrections to add it."
        )
    if counts.outside:
        say(f"{counts.outside:,} painted pixels lie outside of what was asked about; they were not taken.")
    if counts.aside:
        say(f"{sum(one.count for one in counts.aside):,} left aside:")
    for one in counts.aside:
        more = f" and {one.count - len(one.names):,} more" if one.count > len(one.names) else ""
        say(f"  {one.count:,} {one.why}: {', '.join(one.names)}{more}")
    if counts.closed:
        say(f"  To answer the {counts.closed:,} that are not open all the same:\n  {command} --corrections")


def _say_beside(beside: Mapping[str, int], rule: str) -> None:
    whose = ", ".join(f"{count:,} by {name}" for name, count in beside.items())
    if rule == "latest":
        say(f"TAKE THE PLACE of answers by others: {whose}. Of several the last counts (answers.decide: latest).")
    else:
        say(f"Stand beside answers by others, as votes (answers.decide: {rule}): {whose}.")
