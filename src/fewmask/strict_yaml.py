"""A reader of hand-written YAML with bounded time and memory, whose errors name the line and the fix.

Words have their meaning in YAML 1.1 (`no` and `on` are truth values), as in most editors and tools. Numbers are those
of YAML 1.2: `1e-3` is a number, `010` and `12:30` are text, and so is a date. Values are text, numbers, truth values,
nothing, lists and mappings.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

LARGEST = 2**20
"""The largest number of bytes in a file. A configuration or a list of classes has a few thousand."""
MOST = 100_000
"""The largest number of values in a file. Values of an alias count at every use, since 300 bytes of aliases can expand
to gigabytes."""
DEEPEST = 50

_MERGE = "tag:yaml.org,2002:merge"
_CORE = ("str", "int", "float", "bool", "null", "seq", "map")
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F_]+|0b[01_]+)$")
_FLOAT = re.compile(
    r"(?:[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)
_NUMBERS = (("tag:yaml.org,2002:float", _FLOAT), ("tag:yaml.org,2002:int", _INT))


def _resolvers(resolvers: dict[str, list[tuple[str, re.Pattern[str]]]]) -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    """PyYAML's resolvers by first character, with the numbers of this module and without dates."""
    replaced = {tag for tag, _ in _NUMBERS} | {"tag:yaml.org,2002:timestamp"}
    kept = {first: [pair for pair in pairs if pair[0] not in replaced] for first, pairs in resolvers.items()}
    return kept | {first: [*_NUMBERS, *kept.get(first, [])] for first in "-+.0123456789"}


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = _resolvers(yaml.SafeLoader.yaml_implicit_resolvers)
    yaml_constructors = {  # leave out dates, sets, binary data and others
        tag: make
        for tag, make in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag.rpartition(":")[2] in _CORE
    }
    depth, most = 0, MOST

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.depth += 1
        if self.depth > DEEPEST:
            mark = self.peek_event().start_mark
            raise yaml.composer.ComposerError(None, None, f"nested more than {DEEPEST} deep", mark)
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def get_single_node(self) -> yaml.Node | None:
        node: yaml.Node | None = super().get_single_node()
        if node is not None:
            self._measure(node, {})
        return node

    def _measure(self, node: yaml.Node, sizes: dict[int, tuple[int, int] | None]) -> tuple[int, int]:
        """The number of values in a node and its depth, with its aliases expanded. The keys are checked too."""
        if id(node) in sizes:
            if (measured := sizes[id(node)]) is None:
                raise _error("it refers to itself", node)
            return measured
        sizes[id(node)] = None
        if isinstance(node, yaml.MappingNode):
            self._check_keys(node)
        elif isinstance(node, yaml.ScalarNode):
            with suppress(UnicodeEncodeError):
                node.value.encode()
                sizes[id(node)] = (1, 1)
                return 1, 1
            raise _error("half of a surrogate pair, which is no character", node)
        children = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        parts = [self._measure(child, sizes) for child in children]
        size, depth = 1 + sum(s for s, _ in parts), 1 + max((d for _, d in parts), default=0)
        if size > self.most:
            raise _error(f"more than {self.most:,} values, aliases counted as often as they are used", node)
        if depth > DEEPEST:
            raise _error(f"nested more than {DEEPEST} deep", node)
        sizes[id(node)] = size, depth
        return size, depth

    def _check_keys(self, node: yaml.MappingNode) -> None:
        """Raise an error for a repeated key, of which PyYAML would drop the first value. A key that `<<` brings may be
        given again."""
        values: set[Any] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _error("a key is a word or a number", key)
            value = _MERGE if key.tag == _MERGE else self.construct_object(key, deep=True)
            if value in values:
                raise _error(f"{key.value} given twice", key)
            values.add(value)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Replace `<<` by the keys that it brings. The mapping's keys take precedence, then those of the mappings named
        first. PyYAML's function would leave a key twice, and would give an inner `<<` precedence over its mapping."""
        pairs = [(key, value) for key, value in node.value if key.tag != _MERGE]
        if len(pairs) == len(node.value):
            return
        words = {self.construct_object(key, deep=True) for key, _ in pairs}
        (merge,) = (value for key, value in node.value if key.tag == _MERGE)
        for part in merge.value if isinstance(merge, yaml.SequenceNode) else [merge]:
            if not isinstance(part, yaml.MappingNode):
                raise _error("`<<` takes a mapping, such as `*name`, or a list of them", part)
            self.flatten_mapping(part)
            for key, value in part.value:
                if (word := self.construct_object(key, deep=True)) not in words:
                    words.add(word)
                    pairs.append((key, value))
        node.value = pairs


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers = {
        first: [*yaml.SafeDumper.yaml_implicit_resolvers.get(first, []), *numbers]
        for numbers in [list(_NUMBERS)]
        for first in {*yaml.SafeDumper.yaml_implicit_resolvers, *"-+.0123456789"}
    }

    def ignore_aliases(self, data: Any) -> bool:
        return True


def read_yaml(path: Path, times: int = 1) -> tuple[Any, str]:
    """The value of a file, and its text. Raises ValueError that names the file, and FileNotFoundError.

    `times` multiplies the limits of size, for files that programs write.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(times * LARGEST + 1)
        if len(data) > times * LARGEST:
            raise ValueError(f"larger than {times * LARGEST >> 20} MiB; is it another file?")
        text = data.decode("utf-8-sig")
        return parse_yaml(text, times), text
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ValueError(f"{path}: not readable as YAML: line {line} is not UTF-8; save the file as UTF-8") from None
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(f"{path}: not readable as YAML: {error.strerror}; name a file that can be read") from None
    except ValueError as error:
        raise ValueError(f"{path}: not readable as YAML: {error}") from None


def parse_yaml(text: str, times: int = 1) -> Any:
    """The value of a text. Raises ValueError with the line and the fix."""
    try:
        return _load(text, lambda loader: loader.get_single_data(), times)
    except yaml.reader.ReaderError as error:
        raise ValueError(f"character {error.character!r} is not allowed in YAML; remove it") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        position = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        problem = (error.problem or error.context or "").replace("\t", r"\t")
        fix = "; indent with spaces, not with tabs" if r"\t" in problem else ""
        raise ValueError(f"{position}{short(problem, quoted=False)}{fix}") from None
    except (RecursionError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError) as error:
        # A tag forces a type on text of another type, such as `!!int many`, or a number has thousands of digits.
        raise ValueError(f"a value does not fit its tag or its form ({short(str(error), quoted=False)})") from None


def dump(data: Any) -> str:
    """Plain data as YAML that `parse_yaml` reads back to an equal value."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, default_flow_style=None)


def dump_line(value: Any) -> str:
    """A value on one line of YAML."""
    line = yaml.dump([value], Dumper=_Dumper, sort_keys=False, default_flow_style=True, width=float("inf"))
    return line.strip()[1:-1]


def unquoted(text: str | None, place: Sequence[Any], value: Any, key: bool = False) -> str:
    """Why a value that should be text is another type, and the fix: `no` without quotes is a truth value. `place` is
    the list of keys that lead to the value. With `key` the last key itself is meant."""
    spelt = _spelling(text, place, value, key) if text else None
    if spelt is None:
        spelt = {True: "yes", False: "no", None: "null"}.get(value, str(value)) if _simple(value) else short(value)
    kind = {True: "a truth value", False: "a truth value", None: "nothing"}.get(value) if not _number(value) else None
    return f"YAML reads {spelt} as {kind or 'a number'}; write it in quotes: '{spelt}'"


def short(value: Any, most: int = 200, quoted: bool = True) -> str:
    """A value for a message."""
    try:
        text = repr(value) if quoted else str(value)
    except ValueError:  # Python refuses to print a number of more than 4,300 digits
        text = "a very long number"
    return text if len(text) <= most else f"{text[:most]} …"


def _load(text: str, get: Any, times: int = 1) -> Any:
    loader = _Loader(text)
    loader.most = times * MOST
    try:
        return get(loader)
    finally:
        loader.dispose()


def _spelling(text: str, place: Sequence[Any], value: Any, key: bool) -> str | None:
    """How the unquoted value at a place was written; None where the place holds another value."""

    def find(loader: _Loader) -> str | None:
        node, key_node = loader.get_single_node(), None
        for step in place:
            key_node = None
            if isinstance(node, yaml.MappingNode):
                matches = [(k, v) for k, v in node.value if step in (word := loader.construct_object(k), str(word))]
                key_node, node = matches[0] if matches else (None, None)
            else:
                in_range = isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value)
                node = node.value[step] if node is not None and in_range else None
        node = key_node if key else node
        plain = isinstance(node, yaml.ScalarNode) and node.style is None
        return node.value if plain and node is not None and loader.construct_object(node) == value else None

    with suppress(yaml.YAMLError, ValueError):
        spelt: str | None = _load(text, find)
        return spelt
    return None


def _simple(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _error(problem: str, node: yaml.Node) -> yaml.composer.ComposerError:
    return yaml.composer.ComposerError(None, None, problem, node.start_mark)
