"""What `import fewmask` offers."""

from __future__ import annotations

import inspect
import os
import shutil
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import yaml
from ondisk import config, two_domains

import fewmask


@pytest.mark.parametrize("name", fewmask.__all__)
def test_a_name_is_what_it_says_whatever_was_imported_before(name: str) -> None:
    """Also where a module is called like it: importing that must not take its place."""
    home = import_module(fewmask._HOME[name])
    assert getattr(fewmask, name) is getattr(fewmask, name) is getattr(home, name)


def test_all_names_are_listed_and_no_others_are_there() -> None:
    assert sorted(fewmask._HOME) == fewmask.__all__
    with pytest.raises(AttributeError, match="no attribute 'tarin'"):
        fewmask.tarin  # noqa: B018


def public() -> Iterator[tuple[str, Callable[..., Any]]]:
    """What is called by users: functions, classes, and the public methods of these."""
    for name in fewmask.__all__:
        thing = getattr(fewmask, name)
        yield name, thing.__init__ if inspect.isclass(thing) else thing
        if inspect.isclass(thing) and name != "Config":
            for own, method in vars(thing).items():
                if not own.startswith("_") and callable(function := getattr(method, "__func__", method)):
                    yield f"{name}.{own}", function


def parts(hint: Any) -> set[Any]:
    if isinstance(hint, list):  # the parameters of a Callable
        return set().union(*map(parts, hint))
    return {hint}.union(*map(parts, get_args(hint)))


@pytest.mark.parametrize(("name", "function"), [pair for pair in public() if inspect.isfunction(pair[1])])
def test_who_takes_a_path_takes_a_string(name: str, function: Callable[..., Any]) -> None:
    hints = get_type_hints(function)
    hints.pop("return", None)
    for parameter, hint in hints.items():
        if parts(hint) & {Path, os.PathLike[str]}:
            assert str in parts(hint), f"{name}({parameter})"


def test_strings_do_what_paths_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    two_domains(tmp_path)
    monkeypatch.chdir(tmp_path)
    settings = config(tmp_path, steps=1).model_dump(mode="json", serialize_as_any=True)
    Path("my.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    read = fewmask.read_config("my.yaml")
    assert read == fewmask.parse_config(settings, ".")
    fewmask.train(read, "runs/mine")
    shutil.copytree("runs/mine", "runs/other")
    assert fewmask.load_config("runs/mine") == read
    model = fewmask.load_model("runs/mine")
    assert fewmask.load_fused("runs/mine").domains[:2] == model.domains
    fewmask.train(read.model_copy(update={"seed": 1}), "runs/warm", start="runs/mine/model.safetensors")
    assert fewmask.predict(model, "a/images", "out", "a")["images"] == 10
    assert fewmask.predict(model, ["a/images/test0.png"], "one", "a")["images"] == 1
    assert Path(fewmask.report("runs/mine", "page.html")["report"]).exists()
    with pytest.raises(ValueError, match="runs of one method only"):
        fewmask.compare("runs/mine")
    space = fewmask.LabelSpace.from_yaml("a/classes.yaml")
    space.write_yaml("again.yaml")
    assert fewmask.LabelSpace.from_yaml("again.yaml") == space
    with pytest.raises(ValueError, match="campaign: missing"):
        fewmask.campaign(read, "runs/campaign")
    pytest.importorskip("onnx")
    assert Path(fewmask.export("runs/mine", "model.onnx", seeds=["runs/mine"])["file"]).exists()
