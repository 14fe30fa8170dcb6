"""How the help of a verb looks: one line to copy first, what the verb does below it, and options whose types a person
reads at once."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

PLACEHOLDERS = {bool: "", int: "NUMBER", float: "NUMBER", str: "NAME", Path: "PATH"}


class Verb(TyperCommand):
    """A command whose options name what is to be written, such as PATH, where they do not say it themselves."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _readable(super().get_params(ctx))


class Verbs(TyperGroup):
    """Commands, whose own options look as those of a command do."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _readable(super().get_params(ctx))


def _readable(params: list[Any]) -> list[Any]:
    for param in params:
        if param.metavar is None:
            param.metavar = PLACEHOLDERS.get(_type_of(param))
        if param.param_type_name == "argument":
            param.display_type_rich = lambda ctx: None  # an argument's name says what it is
    return params


def add(
    app: typer.Typer, verb: Callable[..., Any], example: str, name: str | None = None, panel: str | None = None
) -> None:
    """Make a function a verb of the app. `example` is the line to copy, and `panel` the group that it is listed in."""
    first, *more = _paragraphs(verb)
    help_ = "\n\n".join([example, first, *more])
    app.command(name, cls=Verb, help=help_, short_help=first, rich_help_panel=panel)(verb)


def _paragraphs(verb: Callable[..., Any]) -> list[str]:
    """The paragraphs of the docstring, each in one line."""
    text = inspect.getdoc(verb)
    assert text, f"{verb.__name__} says what it does"
    return [re.sub(r"\s+", " ", part) for part in text.split("\n\n")]


def _type_of(param: Any) -> Any:
    """The type that one value of a parameter has."""
    found = param.type_descriptor.annotation
    inner = getattr(found, "__args__", ())
    return inner[0] if inner else found
