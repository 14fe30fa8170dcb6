"""Count lines by room, string keys, and the files behind a method.

    python experiments/count_source.py [CHECKOUT]

The figures of docs/decisions/0010-second-edition.md come from this script.
"""

from __future__ import annotations

import ast
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

METHOD_ROOMS = ("fewmask.methods", "fewmask.losses", "fewmask.views", "fewmask.data.batch")


def modules(source: Path) -> dict[str, Path]:
    """The source files by their dotted names."""
    names = {}
    for path in sorted(source.rglob("*.py")):
        parts = ("fewmask", *path.relative_to(source).with_suffix("").parts)
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def imports(path: Path, known: dict[str, Path]) -> Iterator[str]:
    """The modules of fewmask that a file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in known else node.module


def behind(method: str, known: dict[str, Path]) -> set[str]:
    """The files of methods, losses, views and the batch that a method's file reaches by imports."""
    reached, waiting = set(), [method]
    while waiting:
        if (module := waiting.pop()) not in reached:
            reached.add(module)
            waiting += [m for m in imports(known[module], known) if m in known and m.startswith(METHOD_ROOMS)]
    return reached


def string_keys(tree: ast.AST) -> int:
    """The number of accesses by a string key: `x["key"]` and `x.get("key")`."""
    subscripts = [n.slice for n in ast.walk(tree) if isinstance(n, ast.Subscript)]
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute) and n.args]
    keys = subscripts + [n.args[0] for n in calls if n.func.attr == "get"]
    return sum(isinstance(key, ast.Constant) and isinstance(key.value, str) for key in keys)


def main(checkout: Path) -> None:
    source = checkout / "src" / "fewmask"
    known = modules(source)
    texts = {name: path.read_text(encoding="utf-8") for name, path in known.items()}
    lines = {name: len(text.splitlines()) for name, text in texts.items()}
    rooms: Counter[str] = Counter()
    for name, path in known.items():
        rooms[path.relative_to(source).parts[0].removesuffix(".py")] += lines[name]
    for room, count in rooms.most_common():
        print(f"{room:16} {count:6,}")
    print(f"{'all':16} {sum(lines.values()):6,}")
    print("dict[str, Any]:", sum(text.count("dict[str, Any]") for text in texts.values()))
    print("string keys:", sum(string_keys(ast.parse(text)) for text in texts.values()))
    for names in (("univ_full", "univ"), ("s4al_plus",), ("unimatch",)):
        method = next(f"fewmask.methods.{name}" for name in names if f"fewmask.methods.{name}" in known)
        files = behind(method, known)
        print(f"behind {method}: {len(files)} files, {sum(lines[name] for name in files):,} lines")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[1]))
