"""The whole configuration, read from one YAML file. All wrong keys are listed at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, NonNegativeInt, ValidationError, ValidationInfo, field_validator

from fewmask import strict_yaml
from fewmask.config.base import Name, Settings
from fewmask.config.campaign import CampaignSettings
from fewmask.config.domains import LAYOUTS, DomainSettings, LabelledSettings, installed_layouts
from fewmask.config.spelling import closest_key, fix_for_key
from fewmask.config.training import ModelSettings, TrainSettings
from fewmask.paths import alike

MOST_PROBLEMS = 50
RESERVED = frozenset({"fused", "auto"})
"""What `predict --domain` takes beside the names of domains, as models/fusion.py has them."""


class Config(Settings):
    name: Name = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """The name of the run. Its folder is `runs/<name>` unless --out gives another one."""
    seed: NonNegativeInt = 0
    """The seed of all random choices: labelled images, weights, crops, order and questions."""
    domains: dict[Name, DomainSettings] = Field(min_length=1)
    """The data sets to train on, by name."""
    held_out: dict[Name, DomainSettings] = {}
    """Domains that are not trained on, for `fewmask evaluate RUN --domain NAME`."""
    labelled: LabelledSettings = LabelledSettings()
    synonyms: list[list[str]] = []
    """Groups of class names that mean the same in different domains. They are one class in the union of all domains,
    and none of them is private. Training does not use them."""
    model: ModelSettings = ModelSettings()
    method: Any
    """The training method: its name, or a mapping of `name` and the method's own settings."""
    train: TrainSettings = TrainSettings()
    campaign: CampaignSettings | None = None
    """Rounds of training and asking; read by `fewmask campaign`, not by `fewmask train`."""

    @field_validator("domains", "held_out")
    @classmethod
    def _differ_on_disk(cls, value: dict[str, DomainSettings], info: ValidationInfo) -> dict[str, DomainSettings]:
        if pairs := alike([*info.data.get("domains", {}), *value]):
            names = " and ".join(map(ascii, pairs[0]))
            raise ValueError(
                f"{names} name the same folder on a file system that ignores case or Unicode's form; rename one"
            )
        if taken := sorted(value.keys() & RESERVED):
            raise ValueError(f"{taken[0]!r} means all domains in `predict --domain`; rename the domain")
        return value

    @field_validator("held_out")
    @classmethod
    def _unseen(cls, value: dict[str, DomainSettings], info: ValidationInfo) -> dict[str, DomainSettings]:
        if repeated := sorted(value.keys() & info.data.get("domains", {}).keys()):
            raise ValueError(f"{', '.join(repeated)} is in `domains` too; remove it from one of the two")
        return value


def load(path: Path, overrides: Sequence[str] = (), methods: Mapping[str, type[Settings]] | None = None) -> Config:
    """Read a configuration. Raises ValueError that lists every unknown, missing and conflicting key at once.

    `methods` gives the settings' type of each method by its name; without it, the method's settings stay plain data.
    """
    try:
        data, text = strict_yaml.read_yaml(path)
    except FileNotFoundError:
        raise ValueError(f"{path}: not found; give the path of a configuration, see configs/") from None
    if not isinstance(data, dict):
        raise ValueError(f"{path}: a configuration is a mapping of keys, see configs/")
    return parse(data, path.parent, methods, str(path), overrides, text)


def parse(
    data: Mapping[str, Any],
    folder: Path = Path(),
    methods: Mapping[str, type[Settings]] | None = None,
    source: str = "configuration",
    overrides: Sequence[str] = (),
    text: str | None = None,
) -> Config:
    """Check plain data as a configuration. Relative paths in it are relative to `folder`. Errors are as in `load`;
    `source` names the place in them. `text` is the YAML of the data, for messages about how a value is written.

    Keys of the outermost mapping that begin with `x-` are ignored, so that they can hold anchors.
    """
    given: dict[str, Any] = {
        key: _copied(value) for key, value in data.items() if not (isinstance(key, str) and key.startswith("x-"))
    }
    problems = [problem for override in overrides if (problem := _override(given, override))]
    data = {key: value for key, value in given.items() if key != "method" or value is not None}
    method, method_problems = _method(data.get("method"), methods or {}, folder, text)
    if "method" in data:
        data["method"] = method
    config = None
    try:
        config = Config.model_validate(data, context={"folder": folder})
    except ValidationError as error:
        problems += _sentences(error, text, data=data)
    problems += method_problems
    if problems:
        more = [f"… and {len(problems) - MOST_PROBLEMS:,} more"] if len(problems) > MOST_PROBLEMS else []
        raise ValueError(f"{source}:\n" + "\n".join(f"  {p}" for p in [*problems[:MOST_PROBLEMS], *more]))
    assert config is not None
    return config


def dump(config: Config) -> str:
    """The fully resolved configuration as YAML with absolute paths. `load` reads it back to an equal one."""
    return strict_yaml.dump(config.model_dump(mode="json", serialize_as_any=True))


def _copied(value: Any) -> Any:
    """A copy of plain data without shared objects. YAML's aliases share objects, and an override must change only one
    of the places."""
    if isinstance(value, Mapping):
        return {key: _copied(inner) for key, inner in value.items()}
    return [_copied(inner) for inner in value] if isinstance(value, list) else value


def _method(data: Any, methods: Mapping[str, type[Settings]], folder: Path, text: str | None) -> tuple[Any, list[str]]:
    if not methods or data is None:
        return data, []
    data = {"name": data} if isinstance(data, str) else data
    given = data.get("name") if isinstance(data, dict) else data
    if not isinstance(data, dict) or not isinstance(given, str) or given not in methods:
        like = closest_key(given, methods) if isinstance(given, str) else None
        fix = f"did you mean {like}? There are" if like else "there are"
        return data, [f"method.name: no method {strict_yaml.short(given)}; {fix} {', '.join(sorted(methods))}"]
    kind = methods[given]
    try:
        return kind.model_validate(data, context={"folder": folder}), []
    except ValidationError as error:
        return data, _sentences(error, text, kind)


def _override(data: dict[str, Any], override: str) -> str | None:
    """Apply one `key.sub=value` in place; the value is YAML. Returns a message if the override is invalid."""
    key, equals, value = override.partition("=")
    parts = key.split(".")
    if not equals or not all(parts):
        return f"override {override!r}: write key.sub=value"
    try:
        parsed = strict_yaml.parse_yaml(value)
    except ValueError as error:
        return f"override {strict_yaml.short(override)}: the value is not YAML: {error}"
    place = data
    for part in parts[:-1]:
        inner = place.setdefault(part, {})
        if isinstance(inner, str) and part == "method":
            inner = place[part] = {"name": inner}
        if not isinstance(inner, dict):
            return f"override {override!r}: {part} is {strict_yaml.short(inner)}, which has no keys inside"
        place = inner
    place[parts[-1]] = parsed
    return None


def _sentences(
    error: ValidationError,
    text: str | None,
    method: type[Settings] | None = None,
    data: Mapping[str, Any] | None = None,
) -> list[str]:
    """Pydantic's errors as sentences for a user. The errors after the first `MOST_PROBLEMS` keep pydantic's message.
    `method` is the type of the settings if the errors are in a method's settings; else `data` is the configuration."""
    errors = error.errors()
    place = ("method",) if method else ()
    sentences = [_sentence((*place, *e["loc"]), e, text, method, data) for e in errors[:MOST_PROBLEMS]]
    return sentences + [e["msg"] for e in errors[MOST_PROBLEMS:]]


def _sentence(
    loc: Sequence[Any], error: Any, text: str | None, method: type[Settings] | None, data: Mapping[str, Any] | None
) -> str:
    kind, message, value = error["type"], error["msg"], error.get("input")
    settings, depth = (method, 1) if method else _settings_of(loc, data)
    if loc[0] in ("domains", "held_out"):
        loc = (*loc[:2], *loc[3:])  # pydantic puts the layout behind the domain's name; the file has no such key
    # The element after a key of a union is the alternative, not a key.
    words = [str(part) for part in loc]
    alternative = ("function-after[", "literal[", "dict[", "[key]", "tuple[", "list[", "constrained-")
    place = [word for word in words if not word.startswith(alternative)]
    key = ".".join(word if word.isprintable() else ascii(word) for word in place)
    if kind in ("string_type", "invalid_key") and (value is None or isinstance(value, bool | int | float)):
        is_key = kind == "invalid_key" or error["loc"][-1] == "[key]"
        steps = [part for part in loc if part != "[key]"]
        location = ".".join(map(str, steps[:-1])) or "a key" if is_key else key
        return f"{location}: {strict_yaml.unquoted(text, steps, value, is_key)}"
    if kind == "extra_forbidden":
        return f"{key}: unknown key; {fix_for_key(settings, place[depth:])}"
    if kind == "missing":
        return f"{key}: missing; add it"
    layouts = [*LAYOUTS, *installed_layouts()]
    if kind == "union_tag_not_found" and isinstance(value, Mapping):
        return f"{key}.layout: missing; add one of {', '.join(layouts)}"
    if kind == "union_tag_invalid":
        given = strict_yaml.short(value["layout"])
        return f"{key}.layout: there is no such layout; take one of {', '.join(layouts)} (given: {given})"
    if kind in ("dict_type", "model_type", "union_tag_not_found"):
        message = "Input should be a mapping of keys"
    if kind == "tuple_type":
        message = "Input should be a list, such as [256, 256]"
    if key == "name" and kind == "string_pattern_mismatch":
        message = "It names a folder: write letters, digits, dots, dashes and underscores, without spaces"
    if kind == "value_error":
        message = str(error["ctx"]["error"])
    given = (
        "" if isinstance(value, dict) else f" (given: {strict_yaml.short(value)})"
    )  # the message names a mapping's keys
    return f"{key}: {message[0].lower()}{message[1:]}{given}"


def _settings_of(loc: Sequence[Any], data: Mapping[str, Any] | None) -> tuple[type[Settings], int]:
    """The type of the settings at a place, and the number of keys that lead to them: a plug-in's domain has a type that
    `Config` does not know."""
    if data is not None and loc[0] in ("domains", "held_out") and loc[2:3] == ("plug-in",):
        return installed_layouts()[data[loc[0]][loc[1]]["layout"]].Settings, 2
    return Config, 0
