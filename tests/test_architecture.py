"""The rules of the house that a reader cannot see in any one file, checked on the source text."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from joins import raw_joins
from source import FILES, ROOT, SOURCE, dotted, place, tree_of

# Each room's floor. A room imports from lower floors and from itself; a new room gets its floor here first.
# What every room speaks of lies below all of them, settings lie below what is built from them: see
# docs/decisions/0002-floors.md.
FLOORS = {
    "strict_yaml": -2,
    "lazy": -2,
    "plugins": -2,
    "paths": -2,  # the cellar: names of users as paths
    "plurals": -2,
    "files": -1,  # how anything is put on a disk
    "stopping": -1,
    "class_list": -1,
    "labels": 0,
    "randomness": 0,
    "formats": 0,  # what other programs write, within limits: no domain is known here
    "config": 1,
    "distributed": 1,
    "losses": 1,
    "acquisition": 1,
    "runs": 2,  # what a run's folder holds: everybody above reads and writes it through this room
    "models": 3,
    "views": 3,
    "data": 4,
    "methods": 5,
    "annotation": 5,
    "discovery": 5,
    "card": 5,
    "engine": 6,
    "document": 6,
    "campaigns": 7,
    "comparison": 7,
    "onnx_export": 7,
    "reports": 8,  # reads what all rooms below have written
    "recipes": 8,
    "demo": 9,
    "cli": 10,
    "fewmask": 11,  # the package itself: what `import fewmask` offers
    "__main__": 11,  # what `python -m fewmask` runs
}
LONGEST_FILE = 400

DRAWS = {"rand", "randn", "randint", "randperm", "rand_like", "randn_like", "randint_like", "normal", "multinomial"}
DRAWS |= {"bernoulli", "poisson"}
DRAWS_IN_PLACE = {
    "uniform_",
    "normal_",
    "random_",
    "bernoulli_",
    "exponential_",
    "cauchy_",
    "log_normal_",
    "geometric_",
}
SEEDS = {"torch.manual_seed", "torch.seed", "torch.random.manual_seed", "torch.random.seed", "torch.set_rng_state"}
SEEDS |= {"torch.cuda.manual_seed", "torch.cuda.manual_seed_all", "torch.mps.manual_seed"}

# Where torch's global generator may be seeded, inside of `fork_rng`: dropout and initialisers draw from no other.
SEEDING = {"engine/fit.py", "engine/committee.py", "models/universal.py"}
# Where a module may be imported by a name that is not written in an import statement.
DYNAMIC_IMPORTS = {"lazy.py", "models/torchvision_shim.py"}


def module_of(path: Path) -> str:
    """The dotted name of a source file; of a package's `__init__.py` the package's."""
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else module


def imports_of(path: Path, everywhere: bool = True) -> Iterator[tuple[str, int]]:
    """The modules that a file imports, with line numbers; inside functions too unless `everywhere` is False."""
    nodes = list(ast.walk(tree_of(path))) if everywhere else list(outside_functions(tree_of(path)))
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            assert node.level == 0, f"{path}:{node.lineno}: write the whole name of the module"
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                yield (whole if whole in MODULES else base), node.lineno


def outside_functions(node: ast.AST) -> Iterator[ast.AST]:
    """What runs when the file is imported: no function's body, and nothing that is there for the type checker alone."""
    yield node
    for_types = isinstance(node, ast.If) and dotted(node.test) == "TYPE_CHECKING"
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and not for_types:
        for child in ast.iter_child_nodes(node):
            yield from outside_functions(child)


def own_imports(path: Path) -> list[tuple[str, int]]:
    return [(name, line) for name, line in imports_of(path) if name.split(".")[0] == "fewmask"]


def test_the_source_is_found():
    assert {"fewmask", "fewmask.labels"} <= set(MODULES)


@pytest.mark.parametrize("path", FILES, ids=place)
def test_imports_go_down_the_floors(path):
    own = room_of(module_of(path))
    assert own in FLOORS, f"{own} has no floor yet; give it one in {Path(__file__).name}"
    wrong = [
        f"{place(path)}:{line} imports {name}, which is on floor {FLOORS.get(room_of(name), 'unknown')}"
        for name, line in own_imports(path)
        if room_of(name) != own and FLOORS.get(room_of(name), 99) >= FLOORS[own]
    ]
    assert not wrong, f"{own} is on floor {FLOORS[own]}:\n" + "\n".join(wrong)


def test_no_circle_inside_a_room():
    graph = {module: {name for name, _ in own_imports(path)} for module, path in MODULES.items() if module != "fewmask"}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail("imports run in a circle: " + " → ".join(error.args[1]))


def test_the_rules_see_what_they_forbid(tmp_path):
    """Each of the checks below on text that breaks it, so that none of them passes because it is blind."""
    bad = tmp_path / "bad.py"
    bad.write_text(
        "import random\nfrom random import choice\nimport numpy as np\nimport torch\n"
        "np.random.seed(1)\nnp.random.rand(2)\nnumpy.random.default_rng()\n"
        "torch.manual_seed(0)\ntorch.cuda.manual_seed_all(0)\ntorch.seed()\n"
        "torch.randn(2)\nx.uniform_(0, 1)\ntorch.randn(2).clamp(0).normal_()\n"
        "loss.item()\n__import__('os')\nimportlib.import_module(name)\n"
    )
    assert [line for _, line, _ in global_draws(bad)] == [1, 2, 5, 6, 7, 8, 9, 10, 11, 12, 13, 13]
    assert [line for _, line in calls_of(bad, {"item"})] == [14]
    assert [line for _, line in calls_of(bad, {"__import__", "import_module"})] == [15, 16]
    good = tmp_path / "good.py"
    good.write_text(
        "import numpy as np\nimport torch\n"
        "def f(rng: np.random.Generator, g: torch.Generator):\n"
        "    rng.normal(); rng.random(); torch.randn(2, generator=g); x.uniform_(generator=g); g.manual_seed(3)\n"
        "    with torch.random.fork_rng(devices=[]):\n"
        "        torch.manual_seed(1)\n"
    )
    assert [what for what, _, _ in global_draws(good)] == ["torch.manual_seed"]
    assert (forks(good), forks(bad)) == (True, False)


def global_draws(path: Path) -> Iterator[tuple[str, int, str]]:
    """Every use of a generator that nobody handed in: (what, line, why)."""
    uses: set[tuple[int, str, str]] = set()
    uses |= {(line, n, "the standard library's global generator") for n, line in imports_of(path) if n == "random"}
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Attribute):
            name = re.sub(r"^np\.", "numpy.", dotted(node))
            if name.startswith("numpy.random.") and name != "numpy.random.Generator":
                uses.add((node.lineno, name, "numpy's global generator, or one without a stream"))
        if isinstance(node, ast.Call):
            name, handed_in = dotted(node.func), any(k.arg == "generator" for k in node.keywords)
            method = name.rpartition(".")[2]
            if name in SEEDS:
                uses.add((node.lineno, name, "seeds torch's global generator"))
            elif not handed_in and (method in DRAWS_IN_PLACE or (name.startswith("torch.") and name[6:] in DRAWS)):
                uses.add((node.lineno, name, "draws from torch's global generator; pass generator="))
    yield from ((name, line, why) for line, name, why in sorted(uses))


def forks(path: Path) -> bool:
    """Whether the file has a `with torch.random.fork_rng(…)`, which gives a caller's generator back as it was."""
    blocks = [node for node in ast.walk(tree_of(path)) if isinstance(node, ast.With)]
    return any(dotted(item.context_expr) == "torch.random.fork_rng" for node in blocks for item in node.items)


def calls_of(path: Path, names: set[str]) -> Iterator[tuple[str, int]]:
    """Calls of functions or methods with one of these names."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else dotted(node.func)
            if called in names:
                yield called, node.lineno


def test_every_draw_comes_from_a_generator_that_was_handed_in():
    wrong = [
        f"{place(path)}:{line} {what}: {why}"
        for path in FILES
        for what, line, why in global_draws(path)
        if place(path) != "randomness.py" and not (what == "torch.manual_seed" and place(path) in SEEDING)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", sorted(SEEDING & {place(path) for path in FILES}))
def test_who_seeds_the_global_generator_gives_it_back(name):
    assert forks(SOURCE / name), f"{name} seeds torch's global generator outside of torch.random.fork_rng"


def test_no_step_waits_for_the_device():
    rooms = ("methods", "losses")
    wrong = [
        f"{place(p)}:{line} calls .item()"
        for p in FILES
        if room_of(module_of(p)) in rooms
        for _, line in calls_of(p, {"item"})
    ]
    assert not wrong, "\n".join(wrong)


# Where a path is made of something else than `below` and words that stand in the code: the join itself, and layouts,
# which read what a dataset's lists name and check that it lies inside the root, and names that a folder's listing gave.
JOINING = {"paths.py", "data/layouts/listing.py", "data/layouts/folder.py", "discovery/tree.py"}
RAW_JOINS = {
    "annotation/archive.py self.path / name",  # what errors call a file in a zip
    "annotation/coco.py folder / file",  # read where it stays in the folder once links are followed
    "annotation/page/listener.py memory.with_name(f'.{memory.stem}.lock')",  # beside a run's page.json
    "annotation/page/secret_file.py path.with_name(f'.{path.name}.{os.getpid()}.tmp')",
    "document/html.py files('fewmask.document') / name",  # of the package
    "onnx_export.py out.with_name(f'{out.stem}-card.md')",  # beside the file that the user named
    "recipes/__init__.py HERE / f'{recipe}.yaml'",  # of the package
}


def test_text_of_users_becomes_a_path_in_one_place():
    wrong = [
        f"{place(path)}:{line} {what}: use fewmask.paths.below"
        for path in FILES
        if place(path) not in JOINING
        for line, what in raw_joins(path)
        if f"{place(path)} {what}" not in RAW_JOINS
    ]
    assert not wrong, "\n".join(wrong)


def test_the_rule_sees_raw_joins(tmp_path):
    bad = tmp_path / "bad.py"
    bad.write_text(
        "def f(at: Path, stem, name):\n"
        "    at / stem\n    at / 'labels' / name\n    folder / domain.name\n    x.folder / name\n"
        "    somewhere / f'{stem}.png'\n    Path('runs') / name\n    at.joinpath('a', name)\n"
        "    at.with_name(f'.{name}.tmp')\n    os.path.join(at, name)\n    open(f'{at}/{name}')\n"
        "    inner = at / 'a'\n    inner / stem\n    for each in at.iterdir():\n        each / stem\n"
        "    run.weights / name\n    folder / quote(name)\n    at / str(name)\n    at / f'{name:>9}'\n"
    )
    lines = [*range(2, 12), 13, 15, 16, 17, 18, 19]
    assert sorted({line for line, _ in raw_joins(bad)}) == lines
    good = tmp_path / "good.py"
    good.write_text(
        "def f(at: Path, stem, number):\n"
        "    at / 'labels'\n    at / LABELS / 'x'\n    at / saved.WEIGHTS\n    at / f'{number:02d}.json'\n"
        "    below(at, stem, ending='.png')\n    total / count\n    x.size / len(stem)\n    at.with_suffix('.md')\n"
    )
    assert not list(raw_joins(good))


REMOVALS = {"unlink", "rmtree", "rmdir", "remove", "removedirs", "move", "rename", "replace", "truncate"}
# `Written` removes what was written and nothing else; a secret of the page takes the place of a file of its own.
REMOVING = {"files.py", "annotation/page/secret_file.py"}


def removals(path: Path) -> Iterator[tuple[str, int]]:
    """Calls that remove or replace files: methods of paths, and functions of `os` and `shutil`."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Call) and (name := dotted(node.func)):
            whose, _, called = name.rpartition(".")
            if called in ("unlink", "rmtree", "rmdir") or (called in REMOVALS and whose in ("os", "shutil")):
                yield name, node.lineno
        if isinstance(node, ast.ImportFrom) and node.module in ("os", "shutil"):
            yield from ((alias.name, node.lineno) for alias in node.names if alias.name in REMOVALS)


def test_files_are_removed_in_one_place():
    wrong = [
        f"{place(p)}:{line} {what}: use fewmask.files.Written"
        for p in FILES
        if place(p) not in REMOVING
        for what, line in removals(p)
    ]
    assert not wrong, "\n".join(wrong)


def test_the_rule_sees_removals(tmp_path):
    bad = tmp_path / "bad.py"
    bad.write_text(
        "import os, shutil\nfrom shutil import rmtree\nx.unlink()\nshutil.rmtree(x)\nos.remove(x)\nos.replace(x, y)\n"
        "a.b.rmdir()\nseen.remove(x)\ntext.replace('a', 'b')\n"
    )
    assert [line for _, line in removals(bad)] == [2, 3, 4, 5, 6, 7]


# Names of a run's files, which `fewmask.runs` alone knows; of its folders, where they are joined to a path.
RUN_FILES = {"config.yaml", "metrics.jsonl", "summary.json", "campaign.json", "model.json", "model.safetensors"}
RUN_FILES |= {"scores.npz", "evaluations.jsonl", "heads.json", "budget.json", "model-card.md", "last.pt"}
RUN_FILES |= {"prototypes.safetensors", "ledger.sqlite", ".run.lock"}
RUN_FOLDERS = {"rounds", "pool", "scores", "pseudo", "state", "phases", "superpixels"}
# What reads JSON that is no run's: a column of the ledger, what tools wrote, the page's own secrets.
OTHER_JSON = {"annotation/archive.py", "annotation/record.py", "annotation/page/secret_file.py", "files.py"}


def names_of_runs(path: Path) -> Iterator[tuple[int, str]]:
    """Where a file reads JSON, or names a file or a folder of a run: (line, what)."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Constant) and node.value in RUN_FILES:
            yield node.lineno, node.value
        joined = node.right if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) else None
        if isinstance(joined, ast.Constant) and joined.value in RUN_FOLDERS:
            yield joined.lineno, f"/ {joined.value}"
        if isinstance(node, ast.Call) and dotted(node.func) in ("json.loads", "json.load"):
            yield node.lineno, dotted(node.func)


def test_one_room_knows_the_files_of_a_run():
    wrong = [
        f"{place(path)}:{line} {what}: use fewmask.runs"
        for path in FILES
        if room_of(module_of(path)) != "runs"
        for line, what in names_of_runs(path)
        if not (place(path) in OTHER_JSON and what.startswith("json"))
    ]
    assert not wrong, "\n".join(wrong)


def test_the_rule_sees_names_of_runs(tmp_path):
    bad = tmp_path / "bad.py"
    bad.write_text("folder / 'summary.json'\nname = 'scores.npz'\nfolder / 'rounds' / x\njson.loads(text)\n")
    assert sorted(line for line, _ in names_of_runs(bad)) == [1, 2, 3, 4]
    good = tmp_path / "good.py"
    good.write_text("record['rounds']\nfolder / 'labels'\njson.dumps(record)\nf'{run}: no summary.json'\n")
    assert not list(names_of_runs(good))


def test_no_module_is_imported_by_a_computed_name():
    wrong = [
        f"{place(p)}:{line} {what}"
        for p in FILES
        if place(p) not in DYNAMIC_IMPORTS
        for what, line in calls_of(p, {"import_module", "__import__", "spec_from_file_location"})
    ]
    assert not wrong, "\n".join(wrong)


def test_every_imported_package_is_a_declared_dependency():
    """Extras are imported inside functions alone: the main job never needs them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = names_of(project["dependencies"])
    extras = names_of(r for extra, rs in project["optional-dependencies"].items() if extra != "dev" for r in rs)
    provided = importlib.metadata.packages_distributions()
    wrong = set()
    for path in FILES:
        always = {name for name, _ in imports_of(path, everywhere=False)}
        for name, line in imports_of(path):
            top = name.split(".")[0]
            if top == "fewmask" or top in sys.stdlib_module_names:
                continue
            allowed = needed if name in always else needed | extras
            if not allowed & names_of(provided.get(top, [top])):
                wrong.add(f"{place(path)}:{line} imports {top}")
    assert not wrong, "not in pyproject.toml, or an extra imported outside of a function:\n" + "\n".join(sorted(wrong))


# Of the standard library, absent on Windows. A function may import them where it has asked for the system.
ABSENT_ON_WINDOWS = {"fcntl", "grp", "posix", "pty", "pwd", "readline", "resource", "syslog", "termios", "tty"}


def test_no_file_needs_what_windows_lacks_to_be_imported():
    wrong = [
        f"{place(path)}:{line} imports {name}"
        for path in FILES
        for name, line in imports_of(path, everywhere=False)
        if name in ABSENT_ON_WINDOWS
    ]
    assert not wrong, "\n".join(wrong)


def names_of(requirements) -> set[str]:
    """The normalised distribution names of requirements."""
    return {re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", r)[0]).lower() for r in requirements}


def test_no_file_is_longer_than_one_idea():
    lengths = {place(path): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert not {name: length for name, length in lengths.items() if length > LONGEST_FILE}


@pytest.mark.parametrize("glance", ["import fewmask", "import fewmask.cli", "fewmask --help"])
def test_a_glance_costs_no_heavy_import(glance):
    """`fewmask --help` answers at once because nothing heavy is imported before a command runs."""
    heavy = (
        "numpy",
        "torch",
        "torchvision",
        "timm",
        "segmentation_models_pytorch",
        "sklearn",
        "scipy",
        "cv2",
        "jinja2",
        "onnx",
    )
    run = "from fewmask.cli import main; sys.argv = ['fewmask', '--help']; main()"
    code = f"""
import sys
try:
    {run if glance.endswith("--help") else glance}
except SystemExit as end:
    assert not end.code, end.code
print("heavy:", *(m for m in {heavy} if m in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "heavy:"


# The character classes keep these patterns from matching themselves.
FOREIGN = re.compile(
    r"(?<![\w.~-])/(?:home|root|Users|w[o]rk|f[a]rm|mnt)/\w"
    r"|\bp[y]pi\.org|python[h]osted\.org|download\.pyt[o]rch\.org|registry\.npm[j]s\.org"
)


def test_the_repository_names_no_machine_path_and_no_registry():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout: there is no list of the repository's files")
    wrong = []
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        if not path.is_file():
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        wrong += [f"{name}:{i} {m[0]}" for i, line in enumerate(text.splitlines(), 1) for m in FOREIGN.finditer(line)]
    assert not wrong, "\n".join(wrong)


def test_the_pattern_of_foreign_text_sees_it():
    # In two parts each, so that the test above does not see them in this file.
    for text in (
        "see /home" + "/me/x",
        "(/root" + "/a)",
        "'/wo" + "rk/main'",
        "https://py" + "pi.org/x",
        "/Users" + "/a",
    ):
        assert FOREIGN.search(text), text
    for text in ("a/home/b", "network/work/x", "../work/x", "~/wo" + "rk/x", "the framework/x"):
        assert not FOREIGN.search(text), text
