"""Decides which settings of a campaign may change between its rounds: those that no answer depends on.

`changes.json` records each change and the first round that was trained with it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from fewmask import distributed
from fewmask.annotation.ledger import Ledger
from fewmask.campaigns.settings import config_of_round
from fewmask.config import Config, dump
from fewmask.data.domain import Domain
from fewmask.engine.run import load_config
from fewmask.files import write_text
from fewmask.runs import Change, Changes, RunFolder, changed_settings

# The settings that may not change after the first question, each with the reason.
FIXED = {
    "seed": "the images that are labelled from the start, and random draws follow from it",
    "labelled": "the images that are labelled from the start follow from it",
    "campaign.annotator": "who answers decides about which images there are questions",
    "campaign.answers": "the answers so far are counted by it",
    "campaign.cost": "the labels so far are counted by it",
    "campaign.ask.budget.unit": "the labels so far are counted in it",
    "campaign.first.budget.unit": "the labels so far are counted in it",
}
# The settings that the scoring of the pool reads. They may not change after it has begun.
SCORING_KEYS = ("campaign.ask", "campaign.pool", "method", "train.precision")


def find_changes(files: RunFolder, config: Config, domains: Mapping[str, Domain], enough: bool) -> list[Change]:
    """The differences from the settings and classes that the campaign in the folder had so far.

    Raises one ValueError that lists every difference that is not allowed, each with the reason and the fix.
    """
    if not files.ledger.exists():
        return []
    before, number = load_config(files.folder), _finished(files)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    changes = [_change(number, now, *difference) for difference in changed_settings(before, config)]
    changes += [_change(number, now, *difference) for difference in _more_classes(files, domains, number)]
    if changes and (problems := list(_refused(changes, files, before, config, domains, number, enough))):
        raise ValueError("\n".join(problems))
    return changes


def write_changes(files: RunFolder, config: Config, new_changes: list[Change], domains: Mapping[str, Domain]) -> None:
    """Record the result of `find_changes`. From now on the campaign has these settings."""
    if distributed.rank() == 0 and new_changes:
        _write(files, config, new_changes, domains)
    distributed.barrier()


def _write(files: RunFolder, config: Config, changes: list[Change], domains: Mapping[str, Domain]) -> None:
    recorded = files.read_changes()
    known_keys = {(c.round, c.key, json.dumps(c.now)) for c in recorded}  # a kill may have come between the two writes
    new_changes = [change for change in changes if (change.round, change.key, json.dumps(change.now)) not in known_keys]
    files.write_record(files.changes, Changes(changes=[*recorded, *new_changes]))
    with Ledger(files.ledger) as ledger:
        for name in ledger.classes():
            ledger.grow_classes(domains[name])
    number = _finished(files)
    run = files.round(number)
    if run.config.exists() and not run.state.exists() and not run.summary.exists():  # begun, with nothing saved
        write_text(run.config, dump(config_of_round(config, number)))
    write_text(files.config, dump(config))


def _change(number: int, time: str, key: str, before: Any, now: Any) -> Change:
    return Change(round=number + 1, time=time, key=key, before=before, now=now)


def _finished(files: RunFolder) -> int:
    """The number of rounds whose training is done."""
    number = 0
    while files.round(number).summary.exists():
        number += 1
    return number


def _more_classes(files: RunFolder, domains: Mapping[str, Domain], number: int) -> Iterator[tuple[str, str, str]]:
    """The domains whose classes differ from those of the last round's network."""
    if not number:
        return
    spaces = files.round(number - 1).read_description().spaces
    for name, domain in domains.items():
        old_names = spaces[name].names if name in spaces else domain.space.names
        if old_names != domain.space.names:
            yield f"domains.{name}.classes", ", ".join(old_names), ", ".join(domain.space.names)


def _refused(
    changes: list[Change],
    files: RunFolder,
    before: Config,
    config: Config,
    domains: Mapping[str, Domain],
    number: int,
    enough: bool,
) -> Iterator[str]:
    assert config.campaign is not None
    with Ledger(files.ledger) as ledger:
        asked_rounds, open_questions = ledger.rounds(), ledger.questions(number, open_only=True)
    begun = any(files.pool_pieces(number, name).exists() for name in domains)
    scoring = begun and number not in asked_rounds and not files.record(number).exists()
    for name in sorted(before.domains.keys() ^ config.domains.keys()):
        yield (
            f"domains.{name}: {'gone' if name in before.domains else 'new'}: the rounds so far were asked and scored "
            f"with {', '.join(before.domains)}; keep these domains, or begin another campaign with another --out"
        )
    for change in changes:
        key, both_values = change.key, f"{change.before!r} so far, {change.now!r} now"
        if reason := next((why for fixed, why in FIXED.items() if _inside(key, fixed)), ""):
            yield f"{key}: {both_values}: {reason}; put it back, or begin another campaign with another --out"
        elif key.endswith(".classes") and not change.now.startswith(f"{change.before}, "):
            yield (
                f"{key}: {both_values}: answers store the index of a class; restore the former classes in their order "
                "and add new ones at the end"
            )
        elif _inside(key, "campaign.ask.regions") and open_questions and not enough:
            count = len(open_questions)
            yield f"{key}: {both_values}: {count} open questions are about the former; answer them, or add --enough"
        elif scoring and any(_inside(key, setting) for setting in SCORING_KEYS):
            yield (
                f"{key}: {both_values}: the scoring before round {number + 1} began with the former; put it back until "
                f"the questions are asked, or remove {files.pool(number)} to score again"
            )
    least = min(number + 1, before.campaign.rounds if before.campaign else 1)
    if config.campaign.rounds < least:
        yield f"campaign.rounds: {config.campaign.rounds} now, and {number} are done; set {least} or more"
    yield from _half_trained(files, config, number)
    yield from _moved(changes, files, domains)


def _half_trained(files: RunFolder, config: Config, number: int) -> Iterator[str]:
    run = files.round(number)
    if number >= (config.campaign.rounds if config.campaign else 0) or not run.state.exists():
        return
    differences = changed_settings(load_config(run.folder), config_of_round(config, number))
    keys = [key for key, before, now in differences if key != "train.steps" or now < before]
    if keys:
        yield (
            f"{', '.join(keys)}: round {number + 1} is half trained with the former; put it back until the round is "
            f"done, or remove {run.folder} to train it again"
        )


def _moved(changes: list[Change], files: RunFolder, domains: Mapping[str, Domain]) -> Iterator[str]:
    """The domains whose settings changed so that they no longer have the images that people were asked about."""
    names = {c.key.split(".")[1] for c in changes if c.key.startswith("domains.") and not c.key.endswith(".classes")}
    with Ledger(files.ledger) as ledger:
        for name in sorted(names & ledger.classes().keys() & domains.keys()):
            try:
                for stem in ledger.sizes(name):
                    if stem not in domains[name].splits["train"]:
                        raise ValueError(f"{stem} was asked about and is not in train; put it back")
                    ledger.expect_image(domains[name], stem, domains[name].image(stem))
            except ValueError as error:
                yield f"domains.{name}: other data than people were asked about: {error}"


def _inside(key: str, place: str) -> bool:
    return key == place or key.startswith(f"{place}.")
