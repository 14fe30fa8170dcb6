"""The whole configuration, read from one YAML file; every wrong key is listed at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, NonNegativeInt, ValidationError, ValidationInfo, field_validator

from fewmask.config.base import Name, Settings
from fewmask.config.campaign import CampaignSettings
from fewmask.config.domains import LAYOUTS, DomainSettings, LabelledSettings
from fewmask.config.spelling import meant, mend_key
from fewmask.config.training import ModelSettings, TrainSettings
from fewmask.labels import UniqueKeys
from fewmask.paths import alike


class Config(Settings):
    name: Name = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    seed: NonNegativeInt = 0
    domains: dict[Name, DomainSettings] = Field(min_length=1)
    held_out: dict[Name, DomainSettings] = {}
    """Domains that no training sees, to be scored by `fewmask evaluate RUN --domain NAME`."""
    labelled: LabelledSettings = LabelledSettings()
    synonyms: list[list[str]] = []
    """Groups of class names that mean the same in different domains: they are one class in the union of all domains,
    and none of them is private. No training reads them."""
    model: ModelSettings = ModelSettings()
    method: Any
    train: TrainSettings = TrainSettings()
    campaign: CampaignSettings | None = None

    @field_validator("domains", "held_out")
    @classmethod
    def _told_apart(cls, value: dict[str, DomainSettings], info: ValidationInfo) -> dict[str, DomainSettings]:
        if pairs := alike([*info.data.get("domains", {}), *value]):
            both = " and ".join(map(ascii, pairs[0]))
            raise ValueError(f"{both} are one folder's name where case or Unicode's form does not count; rename one")
        return value

    @field_validator("held_out")
    @classmethod
    def _unseen(cls, value: dict[str, DomainSettings], info: ValidationInfo) -> dict[str, DomainSettings]:
        if both := sorted(value.keys() & info.data.get("domains", {}).keys()):
            raise ValueError(f"{', '.join(both)} would be trained on as well; keep each among one of the two")
        return value


def load(path: Path, overrides: Sequence[str] = (), methods: Mapping[str, type[Settings]] | None = None) -> Config:
    """Read a configuration. Raises ValueError that lists every unknown, missing and conflicting key at once.

    `methods` gives the settings' type of each method by its name; without it, the method's settings stay plain data.
    """
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), UniqueKeys)
    except FileNotFoundError:
        raise ValueError(f"{path}: not found; give the path of a configuration, see configs/") from None
    except (yaml.YAMLError, ValueError, RecursionError, OSError) as error:  # of a date that there is not, ValueError
        raise ValueError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise ValueError(f"{path}: a configuration is a mapping of keys, see configs/")
    return parse(data, path.parent, methods, str(path), overrides)


def parse(
    data: Mapping[str, Any],
    folder: Path = Path(),
    methods: Mapping[str, type[Settings]] | None = None,
    source: str = "configuration",
    overrides: Sequence[str] = (),
) -> Config:
    """Check plain data as a configuration; relative paths in it are relative to `folder`. Errors as in `load`, of
    which `source` names the place."""
    given = deepcopy(dict(data))
    problems = [problem for override in overrides if (problem := _override(given, override))]
    data = {key: value for key, value in given.items() if key != "method" or value is not None}
    method, method_problems = _method(data.get("method"), methods or {}, folder)
    if "method" in data:
        data["method"] = method
    config = None
    try:
        config = Config.model_validate(data, context={"folder": folder})
    except ValidationError as error:
        problems += [_sentence(e["loc"], e["msg"], e.get("input")) for e in error.errors()]
    problems += method_problems
    if problems:
        raise ValueError(f"{source}:\n" + "\n".join(f"  {p}" for p in problems))
    assert config is not None
    return config


def dump(config: Config) -> str:
    """The fully resolved configuration as YAML that `load` reads back to an equal one (paths absolute)."""
    return yaml.safe_dump(
        config.model_dump(mode="json", serialize_as_any=True), sort_keys=False, default_flow_style=None
    )


def _method(data: Any, methods: Mapping[str, type[Settings]], folder: Path) -> tuple[Any, list[str]]:
    if not methods or data is None:
        return data, []
    data = {"name": data} if isinstance(data, str) else data
    given = data.get("name") if isinstance(data, dict) else data
    if not isinstance(data, dict) or not isinstance(given, str) or given not in methods:
        like = meant(str(given), methods)
        mend = f"did you mean {like}? There are" if like else "there are"
        return data, [f"method.name: no method {given!r}; {mend} {', '.join(sorted(methods))}"]
    kind = methods[given]
    try:
        return kind.model_validate(data, context={"folder": folder}), []
    except ValidationError as error:
        return data, [_sentence(("method", *e["loc"]), e["msg"], e.get("input"), kind) for e in error.errors()]


def _override(data: dict[str, Any], override: str) -> str | None:
    """Apply one `key.sub=value` in place; the value is YAML. Returns what is wrong with it."""
    key, equals, value = override.partition("=")
    parts = key.split(".")
    if not equals or not all(parts):
        return f"override {override!r}: write key.sub=value"
    try:
        parsed = yaml.load(value, UniqueKeys)
    except yaml.YAMLError as error:
        return f"override {override!r}: the value is not YAML: {' '.join(str(error).split())}"
    place = data
    for part in parts[:-1]:
        inner = place.setdefault(part, {})
        if isinstance(inner, str) and part == "method":
            inner = place[part] = {"name": inner}
        if not isinstance(inner, dict):
            return f"override {override!r}: {part} is {inner!r}, which has no keys inside"
        place = inner
    place[parts[-1]] = parsed
    return None


def _sentence(loc: Sequence[Any], message: str, value: Any, method: type[Settings] | None = None) -> str:
    """What pydantic found at a place of the configuration, in a user's words; `method` where it is in its settings."""
    if loc[0] in ("domains", "held_out"):
        loc = (*loc[:2], *loc[3:])  # pydantic puts the layout behind the domain's name; the file has no such key
    # What stands behind a key of a union is the alternative, not a key.
    words = [str(part) for part in loc]
    alternative = ("function-after[", "literal[", "dict[", "[key]", "tuple[", "list[", "constrained-")
    place = [word for word in words if not word.startswith(alternative)]
    key = ".".join(word if word.isprintable() else ascii(word) for word in place)
    if message.startswith("Extra inputs"):
        return f"{key}: unknown key; {mend_key(method, place[1:]) if method else mend_key(Config, place)}"
    if message == "Field required":
        return f"{key}: missing; add it"
    if message.startswith("Unable to extract tag"):
        return f"{key}.layout: missing; add one of {', '.join(LAYOUTS)}"
    if message.startswith("Input tag"):
        return f"{key}.layout: there is no such layout; take one of {', '.join(LAYOUTS)} (given: {value['layout']!r})"
    if message.startswith("Input should be a valid dictionary"):
        message = "Input should be a mapping of keys"
    if message == "Input should be a valid tuple":
        message = "Input should be a list, such as [256, 256]"
    if key == "name" and message.startswith("String should match"):
        message = "It names a folder: write letters, digits, dots, dashes and underscores, without spaces"
    message = message.removeprefix("Value error, ")
    given = "" if isinstance(value, dict) else f" (given: {value!r})"  # a mapping's keys are in the message
    return f"{key}: {message[0].lower()}{message[1:]}{given}"
