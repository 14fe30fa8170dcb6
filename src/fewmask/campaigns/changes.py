"""Which settings of a campaign may change between its rounds: those that no answer depends on. What changed, and which
round was the first to be trained so, is written down in `changes.json`.
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

# Why a setting stays as it was when the first question was asked.
FIXED = {
    "seed": "the images that are labelled from the start, and what is drawn by chance, follow from it",
    "labelled": "the images that are labelled from the start follow from it",
    "campaign.annotator": "who answers decides about which images there are questions",
    "campaign.answers": "the answers so far are counted by it",
    "campaign.cost": "the labels so far are counted by it",
    "campaign.ask.budget.unit": "the labels so far are counted in it",
    "campaign.first.budget.unit": "the labels so far are counted in it",
}
# What a look at the pool reads, which may have begun.
LOOKS = ("campaign.ask", "campaign.pool", "method", "train.precision")


def changes(files: RunFolder, config: Config, domains: Mapping[str, Domain], enough: bool) -> list[Change]:
    """What differs from the settings and classes that the campaign in the folder had so far.

    Raises one ValueError that lists all that may not differ, each with the reason and the fix.
    """
    if not files.ledger.exists():
        return []
    before, number = load_config(files.folder), _finished(files)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    found = [_change(number, now, *one) for one in changed_settings(before, config)]
    found += [_change(number, now, *one) for one in _more_classes(files, domains, number)]
    if found and (problems := list(_refused(found, files, before, config, domains, number, enough))):
        raise ValueError("\n".join(problems))
    return found


def write_changes(files: RunFolder, config: Config, found: list[Change], domains: Mapping[str, Domain]) -> None:
    """Write down what `changes` found, and that the campaign has these settings from now on."""
    if distributed.rank() == 0 and found:
        _write(files, config, found, domains)
    distributed.barrier()


def _write(files: RunFolder, config: Config, found: list[Change], domains: Mapping[str, Domain]) -> None:
    there = files.read_changes()
    known = {(c.round, c.key, json.dumps(c.now)) for c in there}  # a kill may have come in between of the two files
    new = [change for change in found if (change.round, change.key, json.dumps(change.now)) not in known]
    files.write_record(files.changes, Changes(changes=[*there, *new]))
    with Ledger(files.ledger) as ledger:
        for name in ledger.classes():
            ledger.grow_classes(domains[name])
    number = _finished(files)
    run = files.round(number)
    if run.config.exists() and not run.state.exists() and not run.summary.exists():  # begun, and nothing of it saved
        write_text(run.config, dump(config_of_round(config, number)))
    write_text(files.config, dump(config))


def _change(number: int, time: str, key: str, before: Any, now: Any) -> Change:
    return Change(round=number + 1, time=time, key=key, before=before, now=now)


def _finished(files: RunFolder) -> int:
    """Rounds whose training is done."""
    number = 0
    while files.round(number).summary.exists():
        number += 1
    return number


def _more_classes(files: RunFolder, domains: Mapping[str, Domain], number: int) -> Iterator[tuple[str, str, str]]:
    """Domains with other classes than the last round's network."""
    if not number:
        return
    spaces = files.round(number - 1).read_description().spaces
    for name, domain in domains.items():
        known = spaces[name].names if name in spaces else domain.space.names
        if known != domain.space.names:
            yield f"domains.{name}.classes", ", ".join(known), ", ".join(domain.space.names)


def _refused(
    found: list[Change],
    files: RunFolder,
    before: Config,
    config: Config,
    domains: Mapping[str, Domain],
    number: int,
    enough: bool,
) -> Iterator[str]:
    assert config.campaign is not None
    with Ledger(files.ledger) as ledger:
        asked, waiting = ledger.rounds(), ledger.questions(number, open_only=True)
    begun = any(files.pool_pieces(number, name).exists() for name in domains)
    looking = begun and number not in asked and not files.record(number).exists()
    for name in sorted(before.domains.keys() ^ config.domains.keys()):
        yield (
            f"domains.{name}: {'gone' if name in before.domains else 'new'}: the rounds so far were asked and scored "
            f"with {', '.join(before.domains)}; put it back, or begin another campaign with another --out"
        )
    for change in found:
        key, was = change.key, f"{change.before!r} so far, {change.now!r} now"
        if reason := next((why for fixed, why in FIXED.items() if _inside(key, fixed)), ""):
            yield f"{key}: {was}: {reason}; put it back, or begin another campaign with another --out"
        elif key.endswith(".classes") and not change.now.startswith(f"{change.before}, "):
            yield (
                f"{key}: {was}: answers name classes by their place; put the former ones back in their order and add "
                "new ones behind them"
            )
        elif _inside(key, "campaign.ask.regions") and waiting and not enough:
            yield f"{key}: {was}: {len(waiting)} open questions are about the former; answer them, or add --enough"
        elif looking and any(_inside(key, one) for one in LOOKS):
            yield (
                f"{key}: {was}: the look before round {number + 1} began with the former; put it back until the "
                f"questions are asked, or remove {files.pool(number)} to look anew"
            )
    least = min(number + 1, before.campaign.rounds if before.campaign else 1)
    if config.campaign.rounds < least:
        yield f"campaign.rounds: {config.campaign.rounds} now, and {number} are done; set {least} or more"
    yield from _half_trained(files, config, number)
    yield from _moved(found, files, domains)


def _half_trained(files: RunFolder, config: Config, number: int) -> Iterator[str]:
    run = files.round(number)
    if number >= (config.campaign.rounds if config.campaign else 0) or not run.state.exists():
        return
    changed = changed_settings(load_config(run.folder), config_of_round(config, number))
    keys = [key for key, before, now in changed if key != "train.steps" or now < before]
    if keys:
        yield (
            f"{', '.join(keys)}: round {number + 1} is half trained with the former; put it back until the round is "
            f"done, or remove {run.folder} to train it anew"
        )


def _moved(found: list[Change], files: RunFolder, domains: Mapping[str, Domain]) -> Iterator[str]:
    """Domains that are read in another way now, and not with the images that people were asked about."""
    names = {c.key.split(".")[1] for c in found if c.key.startswith("domains.") and not c.key.endswith(".classes")}
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
