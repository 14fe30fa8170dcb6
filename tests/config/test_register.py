"""Methods that are not fewmask's own: registered by a call, or by an installed package."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, Literal

import pytest
from ondisk import plain

import fewmask
from fewmask import methods, plugins
from fewmask.config import registry
from fewmask.methods.joint import Joint


class OwnSettings(fewmask.MethodSettings):
    name: Literal["own"] = "own"
    weight: float = 2.0


class Own(Joint):
    Settings = OwnSettings
    name = "own"


@pytest.fixture(autouse=True)
def nothing_stays_registered() -> Iterator[None]:
    tables = methods.METHODS, methods.SETTINGS
    before = [dict(table) for table in tables]
    registry.register_installed.cache_clear()
    yield
    for table, entries in zip(tables, before, strict=True):
        table.clear()
        table.update(entries)  # type: ignore[arg-type]
    registry.register_installed.cache_clear()


def install(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    points = [EntryPoint("own", value, "fewmask.methods")]
    monkeypatch.setattr(plugins, "entry_points", lambda group: [p for p in points if p.group == group])


def own(**options: Any) -> dict[str, Any]:
    return plain(Path("data"), {"name": "own", **options})


def test_a_registered_method_is_known_with_its_settings() -> None:
    with pytest.raises(ValueError, match="no method 'own'"):
        fewmask.parse_config(own())
    assert fewmask.register(Own) is Own
    config = fewmask.parse_config(own(weight=3))
    assert config.method == OwnSettings(weight=3)
    assert type(methods.build(config.method, {}, 1)) is Own
    with pytest.raises(ValueError, match=r"method\.wieght: unknown key"):
        fewmask.parse_config(own(wieght=3))


def test_a_class_that_is_defined_again_replaces_itself_and_no_other() -> None:
    fewmask.register(Own)
    again = type("Own", (Own,), {"__module__": Own.__module__})
    fewmask.register(again)
    assert methods.METHODS["own"] is again
    for taken in (
        type("Other", (Own,), {}),
        type("Mine", (Own,), {"name": "joint"}),
        type("A", (Own,), {"name": "auto"}),
    ):
        with pytest.raises(ValueError, match="take another name"):
            fewmask.register(taken)
    assert methods.METHODS["joint"] is Joint


def test_the_method_of_an_installed_package_needs_no_call(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, f"{__name__}:Own")
    assert type(methods.build(fewmask.parse_config(own()).method, {}, 1)) is Own


def test_an_installed_package_that_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, f"{__name__}:Missing")
    with pytest.raises(ValueError, match=r"method 'own' cannot be used \(AttributeError.*Missing.*fix or uninstall"):
        fewmask.parse_config(own())
