"""Public names of a package that are imported when they are first used (PEP 562).

A package lists them twice: under `TYPE_CHECKING`, for type checkers and editors, and by module in a call of `attach`.
tests/test_package.py compares the two lists.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def attach(package: str, modules: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """The `__getattr__`, `__dir__` and `__all__` of a package.

    `modules` holds by module the public names that come from it, with spaces between them. No name may be the name of
    a submodule: Python binds a submodule to its package as soon as anyone imports it.
    """
    homes = {name: module for module, names in modules.items() for name in names.split()}

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(homes[name]), name)

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *homes})

    return get, names, sorted(homes)
