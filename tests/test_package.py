"""What `import fewmask` offers."""

from __future__ import annotations

import ast
import inspect
import os
import shutil
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any, get_args, get_type_hints

import pytest
import yaml
from exporting import without_exporter
from ondisk import config, two_domains
from source import FILES, SOURCE, dotted, tree_of

import fewmask

ROOMS = sorted(path.parent for path in FILES if path.name == "__init__.py" and "attach(" in path.read_text("utf-8"))


def typed_names(room: Path) -> dict[str, str]:
    """The public names of a package, by its `TYPE_CHECKING` block, with the module that each comes from."""
    blocks = [node for node in ast.walk(tree_of(room / "__init__.py")) if isinstance(node, ast.If)]
    assert [dotted(block.test) for block in blocks] == ["TYPE_CHECKING"]
    return {alias.asname: line.module for line in blocks[0].body for alias in line.names}


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.name)
def test_a_room_offers_what_type_checkers_see(room: Path) -> None:
    names = typed_names(room)
    package = import_module(".".join(room.relative_to(SOURCE.parent).parts))
    assert sorted(names) == package.__all__
    for name, module in names.items():
        assert getattr(package, name) is getattr(import_module(module), name), name
        assert name in dir(package)
    submodules = {path.stem for path in room.iterdir()}
    assert not submodules & set(names), "Python binds a submodule to its package, and hides the name"
    with pytest.raises(AttributeError, match="no attribute 'tarin'"):
        package.tarin  # noqa: B018


@pytest.mark.parametrize(
    ("room", "name"),
    [
        *(("losses", "cross_entropy"), ("losses", "entropy"), ("losses", "regional_contrast"), ("methods", "UniMatch")),
        *(("reports", "report"), ("comparison", "compare"), ("config", "read_config"), ("runs", "RunFolder")),
    ],
)
def test_a_name_is_no_module_whatever_was_imported_before(room: str, name: str) -> None:
    for path in sorted((SOURCE / room).glob("[!_]*.py")):
        import_module(f"fewmask.{room}.{path.stem}")
    package = import_module(f"fewmask.{room}")
    assert name in package.__all__
    assert not isinstance(getattr(package, name), ModuleType)


def test_the_version_is_the_installed_one() -> None:
    assert fewmask.__version__ == version("fewmask")
    assert "__version__" in dir(fewmask)


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
    # What a function returns may be a name that type checkers alone see.
    parameters = {name: hint for name, hint in function.__annotations__.items() if name != "return"}
    holder = type("Parameters", (), {"__annotations__": parameters})
    for parameter, hint in get_type_hints(holder, vars(import_module(function.__module__))).items():
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
    without_exporter(monkeypatch)
    assert Path(fewmask.export("runs/mine", "model.onnx", seeds=["runs/mine"])["file"]).exists()


@pytest.mark.parametrize(
    "name",
    ["annotation.facts.Question", "annotation.rle.encode_brush", "annotation.rle.decode_brush", "data.doctor.check"],
)
def test_names_that_scripts_outside_of_the_repository_use_stay(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    assert callable(getattr(import_module(f"fewmask.{module}"), attribute))
