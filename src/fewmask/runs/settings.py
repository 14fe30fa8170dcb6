"""Which settings are the same: for a run that goes on, and for runs that are each other's seeds."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fewmask.config import Config

# Settings that may differ between a run and its continuation, or its seeds: they say where to compute, or what to tell,
# and not what comes out.
MOVABLE = (
    *(
        f"train.{key}"
        for key in ("device", "workers", "cache", "tensorboard", "log_every", "checkpoint_every", "checkpoint_minutes")
    ),
    "campaign.pool.batch_size",
    "campaign.target",
)


def essence(config: Config) -> dict[str, Any]:
    """A configuration as plain data, without what may differ between a run and its continuation."""
    data = config.model_dump(mode="json", serialize_as_any=True)
    for key in MOVABLE:
        *rooms, name = key.split(".")
        at: dict[str, Any] | None = data
        for room in rooms:
            at = at and at[room]  # not every run is a campaign
        if at:
            del at[name]
    return data


def changed_settings(before: Config, now: Config) -> list[tuple[str, Any, Any]]:
    """Dotted keys whose values differ, with both; None where there is none. Of what may differ between a run and its
    continuation nothing is told."""
    one, other = (dict(_whole(essence(config))) for config in (before, now))
    keys = dict.fromkeys((*one, *other))
    return [(key, one.get(key), other.get(key)) for key in keys if one.get(key) != other.get(key)]


def _whole(data: Mapping[str, Any], at: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in data.items():
        if isinstance(value, Mapping):
            yield from _whole(value, f"{at}{key}.")
        else:
            yield f"{at}{key}", value


def settings_of(data: Mapping[str, Any]) -> dict[str, Any]:
    """By dotted key, what the seeds of one method have in common: no seed, no name, nothing of the machine. `data` is a
    configuration as plain data: whoever compares runs need not have their methods installed."""
    own = {key: value for key, value in flat(data).items() if key not in ("seed", "name", *MOVABLE)}
    return {key: value for key, value in own.items() if key != "train.steps"} if own.get("train.by_data") else own


def flat(data: Mapping[str, Any], at: str = "") -> dict[str, Any]:
    """Nested settings by dotted key. Of a path its last name counts: the same data lies elsewhere on every machine."""
    found: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{at}{key}.")
        else:
            found[f"{at}{key}"] = Path(value).name if isinstance(value, str) and os.path.isabs(value) else value
    return found


def differences(a: Mapping[str, Any], b: Mapping[str, Any], at: str = "") -> list[str]:
    """Where nested settings differ, each as "key: this there, that here"."""
    found = []
    for key in [*a, *(k for k in b if k not in a)]:
        one, other = a.get(key), b.get(key)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            found += differences(one, other, f"{at}{key}.")
        elif one != other:
            found.append(f"{at}{key}: {one!r} there, {other!r} here")
    return found


def only_roots(different: Sequence[str]) -> bool:
    """Whether datasets lie elsewhere, and nothing else differs."""
    return all(difference.partition(":")[0].endswith(".root") for difference in different)
