"""Suggestions for unknown keys."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any, get_args, get_origin

from pydantic import BaseModel


def fix_for_key(settings: type[BaseModel], place: Sequence[str]) -> str:
    """How to fix the unknown key at `place`. The advice names a key beside it with a similar spelling, or a key of the
    same name further inside, or else all keys beside it."""
    *above, key = place
    beside = known_keys(settings, above) - {key}
    if like := closest_key(key, beside):
        return f"did you mean {like}?"
    if inside := sorted(name for name in beside if key in known_keys(settings, [*above, name])):
        return f"did you mean {' or '.join(f'{name}.{key}' for name in inside)}?"
    return f"remove it; there are {', '.join(sorted(beside))}" if beside else "remove it or fix its spelling"


def closest_key(word: str, keys: Iterable[str]) -> str | None:
    return next(iter(get_close_matches(word, list(keys), n=1, cutoff=0.7)), None)


def known_keys(kind: Any, place: Sequence[str]) -> set[str]:
    """The keys at a place inside settings. A union has the keys of all its alternatives."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        if not place:
            return set(kind.model_fields)
        field = kind.model_fields.get(place[0])
        return known_keys(field.annotation, place[1:]) if field else set()
    inner = get_args(kind)
    if get_origin(kind) is dict:
        return known_keys(inner[1], place[1:]) if place else set()
    return set().union(*(known_keys(part, place) for part in inner))
