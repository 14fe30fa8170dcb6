"""Plug-ins: methods, layouts, scores and annotation tools of installed packages, each with an entry point."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Any, Literal, TypeVar

Kind = Literal["method", "layout", "score", "tool"]
Thing = TypeVar("Thing")


def load(kind: Kind, use: Callable[[str, Any], None]) -> None:
    """Load every entry point of the group `fewmask.<kind>s`, and call `use` with its name and its object.

    Raises ValueError with the package's name for an entry point that cannot be used.
    """
    for entry in entry_points(group=f"fewmask.{kind}s"):
        try:
            use(entry.name, entry.load())
        except Exception as error:
            raise ValueError(
                f"{entry.dist.name if entry.dist else entry.value}: an installed package whose {kind} {entry.name!r} "
                f"cannot be used ({type(error).__name__}: {error}); fix or uninstall it"
            ) from error


def with_installed(kind: Kind, built_in: Mapping[str, Thing]) -> dict[str, Thing]:
    """fewmask's built-in things by name, and those of installed packages. Raises ValueError as `load` does."""
    things = dict(built_in)

    def add(name: str, thing: Thing) -> None:
        if name in things:
            raise ValueError(f"there is a {kind} of this name already; take another name")
        things[name] = thing

    load(kind, add)
    return things
