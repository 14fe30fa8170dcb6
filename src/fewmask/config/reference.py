"""The reference of the configuration as Markdown, generated from the settings' source: each key with its type, its
default and its description.

    python -m fewmask.config.reference > docs/reference/configuration.md
"""

from __future__ import annotations

import ast
import inspect
import re
import types
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from fewmask.config.base import Settings
from fewmask.config.campaign import CampaignSettings
from fewmask.config.domains import DomainSettings, LabelledSettings
from fewmask.config.loading import Config
from fewmask.config.methods import EVERY
from fewmask.config.training import Frozen, Full, LastBlocks, Lora, ModelSettings, TrainSettings

HEAD = """# Configuration

A configuration is one YAML file. Relative paths in it are relative to the file. Every key can be overridden as
`key.sub=value` behind the command. Unknown, missing and conflicting keys are all listed at once. A run keeps its
settings, including the defaults, in its `config.yaml`. The page of each [method](../methods/joint.md) says where its
defaults come from, and so does that of [campaigns](../methods/campaign.md#settings-and-where-they-come-from).

`make docs` generates this page from the settings' source.
"""


WORDS = {int: "whole number", float: "number", str: "text", bool: "`true` or `false`", Path: "path", Any: "any value"}
LIMITS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


@dataclass(frozen=True)
class Key:
    """A key of the configuration, as a row of the reference."""

    name: str
    type: str
    default: str
    description: str


def reference() -> str:
    """The whole page."""
    parts = [HEAD, _section("The file", [k for k in keys(Config) if not _inside(k.name)], Config)]
    tops: list[tuple[str, str, type[BaseModel]]] = [
        ("Labels", "labelled.", LabelledSettings),
        ("Network", "model.", ModelSettings),
        ("Training", "train.", TrainSettings),
        ("Campaigns", "campaign.", CampaignSettings),
    ]
    parts.append("## Domains\n\nEach domain is a mapping under its name; `layout` says which of these it is.\n")
    for domain in map(_bare, get_args(get_args(DomainSettings)[0])):
        parts.append(_section(f"Layout `{_name_of(domain, 'layout')}`", list(keys(domain, "domains.NAME.")), domain, 3))
    for title, prefix, settings in tops:
        parts.append(_section(title, list(keys(settings, prefix)), settings))
        if settings is ModelSettings:
            for tuning in (Full, Frozen, LastBlocks, Lora):
                if len(tuning.model_fields) > 1:
                    title = f"Tuning `{_name_of(tuning, 'name')}`"
                    parts.append(_section(title, list(keys(tuning, "model.tuning.")), tuning, 3))
    parts.append("## Methods\n\n`method: NAME` takes a method's defaults; `method: {name: NAME, …}` changes some.\n")
    for method in EVERY:
        name = _name_of(method, "name")
        title = f"Method [`{name}`](../methods/{name}.md)"
        parts.append(_section(title, list(keys(method, "method.")), method, 3))
    return "\n".join(parts)


def keys(settings: type[BaseModel], prefix: str = "", given: BaseModel | None = None) -> Iterator[Key]:
    """Every key of settings and of the settings inside, by dotted name. `given` holds the default values, if they
    differ from those of the type."""
    for name, field in settings.model_fields.items():
        default = _default(field) if given is None else _value(getattr(given, name))
        inner = _settings_of(field.annotation)
        if inner is not None:
            if _optional(field.annotation):
                yield Key(f"{prefix}{name}", "mapping or `null`", default, _description(settings, name))
            inner_defaults = getattr(given, name) if given is not None else field.default
            yield from keys(inner, f"{prefix}{name}.", inner_defaults if isinstance(inner_defaults, inner) else None)
        else:
            yield Key(f"{prefix}{name}", kind(field), default, _description(settings, name))


def kind(field: FieldInfo) -> str:
    """The type of a field as a person writes it."""
    return _kind(field.annotation, field.metadata)


def _inside(name: str) -> bool:
    return name.partition(".")[0] in ("labelled", "model", "train", "campaign") and "." in name


def _section(title: str, rows: list[Key], settings: type[BaseModel], level: int = 2) -> str:
    summary = inspect.cleandoc(settings.__doc__) if settings.__doc__ and settings.__doc__ != BaseModel.__doc__ else ""
    lines = [f"{'#' * level} {title}\n", *([re.sub(r"\s+", " ", summary) + "\n"] if summary else [])]
    lines += ["| key | type | default | what it does |", "|---|---|---|---|"]
    lines += [f"| `{k.name}` | {_cell(k.type)} | {_cell(k.default)} | {_cell(k.description)} |" for k in rows]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|")


def _name_of(settings: type[BaseModel], key: str) -> str:
    """The name that chooses these settings. A plug-in may have any name, so its name is NAME."""
    names = get_args(settings.model_fields[key].annotation)
    return str(names[0]) if names else "NAME"


def _settings_of(annotation: Any) -> type[Settings] | None:
    """The type of the settings that a key holds, if there is only one."""
    kinds = [t for t in _members(annotation) if isinstance(t, type) and issubclass(t, Settings)]
    return kinds[0] if len(kinds) == 1 and get_origin(annotation) is not dict else None


def _bare(annotation: Any) -> Any:
    """A type without its annotations."""
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def _optional(annotation: Any) -> bool:
    return type(None) in _members(annotation)


def _members(annotation: Any) -> tuple[Any, ...]:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _members(get_args(annotation)[0])
    return get_args(annotation) if origin in (Union, types.UnionType) else (annotation,)


def _kind(annotation: Any, metadata: Any = ()) -> str:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kind(inner[0], [*_flat(inner[1:]), *metadata])
    if origin in (Union, types.UnionType):
        kinds = [_kind(t, metadata if t is not type(None) else ()) for t in inner]
        return " or ".join(dict.fromkeys(kinds))
    if origin is Literal:
        return ", ".join(f"`{_plain(v)}`" for v in inner)
    if origin is tuple:
        if inner[-1] is Ellipsis:
            return f"list of {_kind(inner[0])}"
        return f"[{', '.join(_kind(t) for t in inner)}]"
    if origin is list:
        return f"list of {_kind(inner[0])}"
    if origin is dict:
        return f"mapping of {_kind(inner[0])} to {_kind(inner[1])}"
    if annotation is type(None):
        return "`null`"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "mapping"
    return WORDS.get(annotation, str(annotation)) + _bounds(metadata)


def _flat(metadata: Any) -> Iterator[Any]:
    for item in metadata:
        yield from item.metadata if isinstance(item, FieldInfo) else [item]


def _bounds(metadata: Any) -> str:
    limits = [(key, getattr(item, key)) for item in metadata for key in LIMITS if getattr(item, key, None) is not None]
    bounds = dict(limits)
    if bounds.keys() == {"ge", "le"}:
        return f" from {bounds['ge']:g} to {bounds['le']:g}"
    return " " + " and ".join(f"{LIMITS[key]} {value:g}" for key, value in bounds.items()) if bounds else ""


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "to be given"
    return _value(field.get_default(call_default_factory=True))


def _value(value: Any) -> str:
    """A default as Markdown."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
        return f"`{_plain(value['name'])}`" if value.keys() == {"name"} else "as below"
    return f"`{_plain(list(value) if isinstance(value, tuple) else value)}`"


def _plain(value: Any) -> str:
    """A value as YAML."""
    text = yaml.safe_dump(value, default_flow_style=True, width=1000).strip()
    return text.removesuffix("...").strip() or "''"


def _description(settings: type[BaseModel], name: str) -> str:
    """The text below a field in the source, from the nearest class that has one."""
    for kind in settings.__mro__:
        if issubclass(kind, BaseModel) and kind is not BaseModel and name in (docs := _docs(kind)):
            return docs[name]
    return ""


@cache
def _docs(settings: type[BaseModel]) -> dict[str, str]:
    """By field, the text below it in the class's source."""
    (body,) = ast.parse(inspect.cleandoc("\n" + inspect.getsource(settings))).body
    assert isinstance(body, ast.ClassDef)
    texts = {}
    for field, below in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            texts[ast.unparse(field.target)] = inspect.cleandoc(str(below.value.value))
    return texts


if __name__ == "__main__":
    print(reference(), end="")
