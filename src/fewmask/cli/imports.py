"""The messages of `answer --from` about imported answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from fewmask.cli.terminal import say
from fewmask.plurals import agreeing, count

if TYPE_CHECKING:
    from fewmask.annotation.importer import Import


def print_import(counts: Import, rule: str, command: str) -> None:
    """Print what was imported, whose answers it affects, and what was left out. `command` is the user's command."""
    say(f"{counts.answered} answered, {counts.unchanged} answered before, {counts.undecided} not painted.")
    if counts.skipped:
        say(f"{counts.skipped} skipped.")
    if counts.taken_back:
        say(f"{counts.taken_back} taken back: the answers before them count again.")
    if counts.beside:
        _say_beside(counts.beside, rule)
    if counts.corrected:
        replace = agreeing(counts.corrected, "replaces", "replace")
        say(f"{counts.corrected} of these {replace} another answer by the same annotator.")
    if counts.beside or counts.corrected:
        say(f"  To take back the answers of this import:\n  {command} --take-back")
    if counts.changed_since:
        was = agreeing(counts.changed_since, "was", "were")
        say(f"{counts.changed_since} {was} imported before and answered differently since: the later answers stand.")
    if counts.in_part:
        say(
            f"{counts.in_part} of these {agreeing(counts.in_part, 'is', 'are')} answered in part: the rest is not "
            "asked again. To add it, paint it and run this command again with --corrections."
        )
    if counts.outside:
        are = agreeing(counts.outside, "is", "are")
        say(f"{count(counts.outside, 'painted pixel')} outside of the asked regions {are} ignored.")
    if counts.left_out:
        say(f"{sum(group.count for group in counts.left_out):,} left out:")
    for group in counts.left_out:
        more = f" and {group.count - len(group.names):,} more" if group.count > len(group.names) else ""
        say(f"  {group.count:,} {group.why}: {', '.join(group.names)}{more}")
    if counts.closed:
        are = agreeing(counts.closed, "is", "are")
        say(f"  To answer the {count(counts.closed, 'question')} that {are} not open too:\n  {command} --corrections")


def _say_beside(beside: Mapping[str, int], rule: str) -> None:
    authors = ", ".join(f"{answers:,} by {name}" for name, answers in beside.items())
    if rule == "latest":
        say(f"THESE REPLACE answers by others: {authors}. The latest answer counts (answers.decide: latest).")
    else:
        say(f"These are votes beside answers by others (answers.decide: {rule}): {authors}.")
