"""The help of a verb: an example to copy first, then a description, and options in groups, with readable types."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

# The options of a verb that belong together. The others stay in the group "Options".
GROUPS = {
    "Options of an import": ("--from", "--corrections", "--take-back"),
    "Options of the labelling page": (
        *("--question", "--port", "--sam", "--learn", "--guidelines"),
        *("--public-url", "--host", "--tls"),
    ),
    "Options of a score on another domain": ("--on", "--head", "--classes", "--new-head-steps"),
}
GROUP_OF = {option: group for group, options in GROUPS.items() for option in options}
PLACEHOLDERS = {bool: "", int: "NUMBER", float: "NUMBER", str: "NAME", Path: "PATH"}


class Verb(TyperCommand):
    """A command whose options have placeholders such as PATH, unless they state their own."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _readable(super().get_params(ctx))


class Verbs(TyperGroup):
    """A group of commands whose options have the same placeholders."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _readable(super().get_params(ctx))


def _readable(params: list[Any]) -> list[Any]:
    for param in params:
        if param.metavar is None:
            param.metavar = PLACEHOLDERS.get(_type_of(param))
        if group := GROUP_OF.get(param.opts[0]):
            param.rich_help_panel = group
        if param.param_type_name == "argument":
            param.display_type_rich = lambda ctx: None  # the name of an argument suffices
    return params


def add(
    app: typer.Typer, verb: Callable[..., Any], example: str, name: str | None = None, panel: str | None = None
) -> None:
    """Add a function to the app as a verb. The help shows `example` first, and lists the verb under `panel`."""
    first, *more = _paragraphs(verb)
    help_ = "\n\n".join([example, first, *more])
    app.command(name, cls=Verb, help=help_, short_help=first, rich_help_panel=panel)(verb)


def _paragraphs(verb: Callable[..., Any]) -> list[str]:
    """The paragraphs of a verb's docstring, each in one line."""
    text = inspect.getdoc(verb)
    assert text, f"{verb.__name__} has a docstring"
    return [re.sub(r"\s+", " ", part) for part in text.split("\n\n")]


def _type_of(param: Any) -> Any:
    """The type of one value of a parameter."""
    annotation = param.type_descriptor.annotation
    inner = getattr(annotation, "__args__", ())
    return inner[0] if inner else annotation
