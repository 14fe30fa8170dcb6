"""Comparing settings: between a run and its continuation, and between runs that differ by their seed alone."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fewmask.config import Config
from fewmask.config.domains import FilesDomain

# Settings that may differ between a run and its continuation, or between seeds. They choose where to compute or what to
# report, and do not change the result.
MOVABLE = (
    *(
        f"train.{key}"
        for key in ("device", "workers", "cache", "tensorboard", "log_every", "checkpoint_every", "checkpoint_minutes")
    ),
    "campaign.pool.batch_size",
    "campaign.target",
)


def essence(config: Config) -> dict[str, Any]:
    """A configuration as plain data, without the settings that may differ between a run and its continuation."""
    data = config.model_dump(mode="json", serialize_as_any=True)
    for key in MOVABLE:
        *sections, name = key.split(".")
        section: dict[str, Any] | None = data
        for section_name in sections:
            section = section and section[section_name]  # only campaigns have the section `campaign`
        if section:
            del section[name]
    return data


def with_stretch_of(config: Config, run: Config) -> Config:
    """The configuration with the stretch that a run of it has kept, where it leaves that to the images: they may be
    more by now, and a run goes on as it began."""
    domains = dict(config.domains)
    for name, own in domains.items():
        kept = run.domains.get(name)
        if isinstance(own, FilesDomain) and isinstance(kept, FilesDomain) and own.unsettled:
            domains[name] = own.model_copy(update={"stretch": kept.stretch})
    return config.model_copy(update={"domains": domains})


def changed_settings(before: Config, now: Config) -> list[tuple[str, Any, Any]]:
    """The dotted keys whose values differ, with the old and the new value; None stands for a missing value.

    Settings that may differ between a run and its continuation are left out.
    """
    old, new = (dict(_whole(essence(config))) for config in (before, now))
    keys = dict.fromkeys((*old, *new))
    return [(key, old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key)]


def _whole(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in data.items():
        if isinstance(value, Mapping):
            yield from _whole(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def settings_of(data: Mapping[str, Any]) -> dict[str, Any]:
    """By dotted key, the settings that the seeds of one method share: without seed, name and machine settings.

    `data` is a configuration as plain data, so that comparing runs does not need their methods installed.
    """
    shared_settings = {key: value for key, value in flat(data).items() if key not in ("seed", "name", *MOVABLE)}
    if shared_settings.get("train.by_data"):
        shared_settings.pop("train.steps", None)
    return shared_settings


def flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted key. An absolute path is reduced to its last name, since machines store the same data
    in different places."""
    settings: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, Mapping) and value:
            settings |= flat(value, f"{prefix}{key}.")
        else:
            settings[f"{prefix}{key}"] = Path(value).name if isinstance(value, str) and os.path.isabs(value) else value
    return settings


def differences(a: Mapping[str, Any], b: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The differences of nested settings, each as "key: <old> there, <new> here"."""
    lines = []
    for key in [*a, *(k for k in b if k not in a)]:
        old, new = a.get(key), b.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            lines += differences(old, new, f"{prefix}{key}.")
        elif old != new:
            lines.append(f"{prefix}{key}: {old!r} there, {new!r} here")
    return lines


def only_roots(different: Sequence[str]) -> bool:
    """Whether only the roots of datasets differ."""
    return all(difference.partition(":")[0].endswith(".root") for difference in different)
