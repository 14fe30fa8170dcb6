"""Finds the places where a path is made of text that may be a user's."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from source import FILES, dotted, tree_of

PATH_METHODS = {"absolute", "expanduser", "resolve", "with_name", "with_stem", "with_suffix", "joinpath", "below"}
PATH_METHODS |= {"iterdir", "glob", "rglob", "Path", "PurePosixPath"}
PATH_NAMES = {"folder", "path", "root", "out", "run", "cache", "file"}


@cache
def path_attributes() -> set[str]:
    """The attributes, properties, functions and methods of the package that are, or return, a path."""
    names = {"parent"}
    for node in (node for path in FILES for node in ast.walk(tree_of(path))):
        if isinstance(node, ast.FunctionDef) and node.returns is not None and _speaks_of_paths(node.returns):
            names.add(node.name)
        if isinstance(node, ast.AnnAssign) and _speaks_of_paths(node.annotation):
            names.add(dotted(node.target).rpartition(".")[2])
    return names


def _speaks_of_paths(annotation: ast.expr) -> bool:
    return bool(re.search(r"\b(Path|ConfigPath|PurePosixPath)\b", ast.unparse(annotation)))


def raw_joins(path: Path) -> Iterator[tuple[int, str]]:
    """Every path that is made of text that may be a user's, without `below`: (line, what is written there).

    A path is what is annotated so, what a method of paths returns, what is called like one, and what is divided by an
    f-string; text is safe that is a constant, or an f-string of whole numbers (`{number:02d}`).
    """
    tree = tree_of(path)
    names = PATH_NAMES | {
        node.arg for node in ast.walk(tree) if isinstance(node, ast.arg) and node.annotation
        if _speaks_of_paths(node.annotation)
    }  # fmt: skip

    def is_path(node: ast.AST) -> bool:
        if isinstance(node, ast.BinOp):
            return isinstance(node.op, ast.Div) and (is_path(node.left) or isinstance(node.right, ast.JoinedStr))
        if isinstance(node, ast.Name):
            return node.id in names
        if isinstance(node, ast.Attribute):
            return node.attr in path_attributes() | PATH_NAMES
        whose, _, called = dotted(node.func).rpartition(".") if isinstance(node, ast.Call) else ("", "", "")
        return whose not in ("np", "torch") and called in path_attributes() | PATH_METHODS

    def is_safe(node: ast.expr) -> bool:
        if isinstance(node, ast.JoinedStr):
            parts = [part for part in node.values if isinstance(part, ast.FormattedValue)]
            return all(part.format_spec and ast.unparse(part.format_spec).endswith(("d'", "x'")) for part in parts)
        return isinstance(node, ast.Constant) or dotted(node).rpartition(".")[2].isupper()

    # A name that is given a path somewhere in the file is one everywhere in it; twice, for a path made of such a name.
    for _ in range(2):
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign | ast.NamedExpr | ast.For | ast.comprehension):
                value = node.value if isinstance(node, ast.Assign | ast.NamedExpr) else node.iter
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                if is_path(value):
                    names |= {target.id for target in targets if isinstance(target, ast.Name)}
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp) and is_path(node) and not is_safe(node.right):
            yield node.lineno, ast.unparse(node)
        if isinstance(node, ast.Call) and node.args:
            called = dotted(node.func)
            method = called.rpartition(".")[2]
            made = method in ("joinpath", "with_name", "with_stem", "with_suffix") or called == "os.path.join"
            if made and not all(map(is_safe, node.args)):
                yield node.lineno, ast.unparse(node)
            if method in ("Path", "open") and isinstance(node.args[0], ast.JoinedStr) and not is_safe(node.args[0]):
                yield node.lineno, ast.unparse(node)
