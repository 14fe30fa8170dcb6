"""YAML that people write: what is read, what is refused with its line and its fix, in bounded time and memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from command import Fewmask, is_refused
from hypothesis import given
from hypothesis import strategies as st
from ondisk import two_domains

from fewmask import config as configuration
from fewmask import strict_yaml
from fewmask.config import Settings
from fewmask.labels import LabelSpace
from fewmask.methods import parse_config, read_config

ALIASES = "a: &a [x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join(f'*{old}' for _ in range(8))}]\n"
    for old, new in zip("abcdefghijkl", "bcdefghijklm", strict=True)
)


def refusal(call: Callable[..., object], *arguments: Any) -> str:
    """What a ValueError says; empty where there is none."""
    try:
        call(*arguments)
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("-2.5E+3", -2500.0),
        (".5", 0.5),
        ("12", 12),
        ("-0x1f", -31),
        ("010", "010"),  # YAML 1.1 reads eight
        ("12:30", "12:30"),  # … and 750
        ("2024-02-30", "2024-02-30"),
        ("2024-02-28", "2024-02-28"),
        ("no", False),
        ("'no'", "no"),
        ("~", None),
        ("\ufeffa: 1", {"a": 1}),
    ],
)
def test_a_word_is_read_as_documented(text: str, value: object, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(text, encoding="utf-8")
    data, _ = strict_yaml.read_yaml(tmp_path / "a.yaml")
    assert (data, type(data)) == (value, type(value))


def test_merge_keys_give_what_is_not_given() -> None:
    text = "a: &a {x: 1, y: 2}\nb: &b {<<: *a, y: 3}\nc: {<<: *b, y: 4}\nd: {<<: [*b, {y: 9, z: 5}], x: 0}\n"
    assert strict_yaml.parse_yaml(text) == {
        "a": {"x": 1, "y": 2},
        "b": {"x": 1, "y": 3},
        "c": {"x": 1, "y": 4},
        "d": {"x": 0, "y": 3, "z": 5},
    }


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (ALIASES, "aliases counted"),
        ("&a [*a]", "refers to itself"),
        ("a: &a {b: {c: *a}}", "refers to itself"),
        ("[" * 100_000, "nested more than 50 deep"),
        ("{a: " * 60 + "1" + "}" * 60, "nested more than 50 deep"),
        ("a: 1\nb: 2\na: 3", "line 3, column 1: a given twice"),
        ("a: &a {x: 1}\nb:\n  <<: *a\n  <<: *a", "<< given twice"),
        ("1: a\n0x1: b", "0x1 given twice"),
        ("a:\n\tb: 1", "indent with spaces, not with tabs"),
        ("a: [1", "line 1"),
        ("--- 1\n--- 2", "another document"),
        ("? [a, b]\n: 1", "a key is a word or a number"),
        ("<<: 3", "takes a mapping"),
        ("*nobody", "undefined alias"),
        ("!!int many", "its tag or its form"),
        ("!!bool maybe", "its tag or its form"),
        ("!!float ''", "its tag or its form"),
        ("!!timestamp 2024-99-99", "timestamp"),
        ("!!python/name:os.system x", "python"),
        ("9" * 5000, "its tag or its form"),
        ('"\\ud83d"', "surrogate"),
        ("a: \x07", "not allowed in YAML"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_a_short_message(text: str, complaint: str) -> None:
    message = refusal(strict_yaml.parse_yaml, text)
    assert complaint in message
    assert len(message) < 500


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    for data, complaint in {
        "a: ü\nb: ö".encode("latin-1"): "line 1 is not UTF-8; save the file as UTF-8",
        "a: 1".encode("utf-16"): "not UTF-8",
        b"a: " + bytes(strict_yaml.LARGEST): "larger than 1 MiB",
    }.items():
        (tmp_path / "a.yaml").write_bytes(data)
        with pytest.raises(ValueError, match=complaint) as caught:
            strict_yaml.read_yaml(tmp_path / "a.yaml")
        assert str(tmp_path / "a.yaml") in str(caught.value)
    with pytest.raises(ValueError, match="not readable as YAML"):
        strict_yaml.read_yaml(tmp_path)
    with pytest.raises(FileNotFoundError):
        strict_yaml.read_yaml(tmp_path / "b.yaml")


def test_the_keys_of_a_large_mapping_are_each_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A count, not a time: twice the keys are twice the work."""
    counts: list[int] = []

    class Counted(str):
        __slots__ = ()
        compared = 0

        def __eq__(self, other: object) -> bool:
            Counted.compared += 1
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    construct = strict_yaml._Loader.construct_object
    monkeypatch.setattr(
        strict_yaml._Loader,
        "construct_object",
        lambda self, node, deep=False: Counted(v) if isinstance(v := construct(self, node, deep), str) else v,
    )
    for keys in (500, 1000):
        Counted.compared = 0
        strict_yaml.parse_yaml("\n".join(f"k{i}: 1" for i in range(keys)))
        counts.append(Counted.compared)
    assert counts[1] <= 3 * max(counts[0], 1000)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
MARKS = ["a", "b", "no", "on", "null", "~", "1", "1e3", "010", "2020-13-01", *":-?&*[]{},#|>!%@'\"\\\t\n ", "&a", "*a"]
KEYS = ["!!int", "!!map", "<<:", "{<<:", *(f"{key}: " for key in ("name", "domains", "method", "train", "classes"))]
WORDS = st.sampled_from(MARKS + KEYS)
LOOKALIKES = ["1e3", "1e-3", "-1E5", ".5", "1.", "010", "no", "null", "2020-01-01", "1:30", "0x1f", "<<", "=", "~"]


@given(PLAIN)
def test_what_is_dumped_is_read_back(data: Any) -> None:
    assert strict_yaml.parse_yaml(strict_yaml.dump(data)) == data


@pytest.mark.parametrize("word", LOOKALIKES)
def test_text_that_looks_like_something_else_stays_text(word: str) -> None:
    assert strict_yaml.parse_yaml(strict_yaml.dump({word: word})) == {word: word}


@given(st.text() | st.lists(WORDS, max_size=12).map(" ".join) | st.lists(WORDS, max_size=12).map("".join))
def test_any_text_is_a_value_or_a_value_error(text: str) -> None:
    assert len(refusal(strict_yaml.parse_yaml, text)) < 600


@given(st.binary(max_size=60) | st.lists(WORDS, max_size=12).map(lambda w: " ".join(w).encode()))
def test_any_file_is_read_or_refused_by_its_name(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(data)
    assert str(path) in refusal(read_config, path)
    problem = refusal(LabelSpace.from_yaml, path)
    if problem:
        assert str(path) in problem
    else:
        assert b"classes" in data or isinstance(strict_yaml.parse_yaml(data.decode()), list)


@given(st.dictionaries(st.sampled_from(["name", "seed", "domains", "method", "train", "model", "campaign"]), PLAIN))
def test_any_data_is_a_configuration_or_a_value_error(data: dict[str, Any]) -> None:
    assert len(refusal(parse_config, data)) < 60_000


# ── Settings ─────────────────────────────────────────────────────────────────────────────────────────────────────────

BASE: dict[str, Any] = {"name": "x", "domains": {"d": {"layout": "folder", "root": "r"}}, "method": "joint"}


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("seed: true", "seed: input should be a valid integer"),
        ("seed: 1.0", "seed: input should be a valid integer"),
        ("seed: '1'", "seed: input should be a valid integer"),
        ("train: {steps: true}", "train.steps: input should be a valid integer"),
        ("train: {crop: [true, 32]}", "train.crop.0: input should be a valid integer"),
        ("train: {optimiser: {lr: true}}", "train.optimiser.lr: input should be a valid number"),
        ("train: {optimiser: {betas: [no, 0.9]}}", "train.optimiser.betas.0: input should be a valid number"),
        ("train: {tensorboard: 1}", "train.tensorboard: input should be a valid boolean"),
        ("train: {augment: {flip: yes, scale: [on, 2]}}", "train.augment"),
        ("method: {name: fixmatch, threshold: true}", "method.threshold: input should be a valid number"),
        ("labelled: {images: off}", "labelled.images: input should be a valid integer"),
        ("synonyms: [[no, nein]]", "synonyms.0.0: YAML reads no as a truth value; write it in quotes: 'no'"),
        ("synonyms: [[car, 12]]", "synonyms.0.1: YAML reads 12 as a number; write it in quotes: '12'"),
        ("name: ON", "name: YAML reads ON as a truth value; write it in quotes: 'ON'"),
        ("domains: {off: {layout: folder, root: r}}", "YAML reads off as a truth value; write it in quotes: 'off'"),
        ("yes: 1", "YAML reads yes as a truth value; write it in quotes: 'yes'"),
        ("held_out: {d2: {layout: folder, root: ~nobody-here/x}}", "no home folder ~nobody-here"),
    ],
)
def test_numbers_and_words_are_what_they_are_written_as(tmp_path: Path, extra: str, message: str) -> None:
    base = {key: value for key, value in BASE.items() if not extra.startswith(key)}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(base) + extra + "\n", encoding="utf-8")
    assert message in refusal(read_config, tmp_path / "c.yaml")


def test_usual_notations_of_numbers_are_numbers(tmp_path: Path) -> None:
    text = (
        yaml.safe_dump(BASE) + "seed: 7\ntrain: {steps: 1_000, optimiser: {lr: 1e-4, weight_decay: 0, nesterov: no}}\n"
    )
    (tmp_path / "c.yaml").write_text(text, encoding="utf-8")
    train = read_config(tmp_path / "c.yaml", ["train.optimiser.head_lr=3e-3"]).train
    assert (train.steps, train.optimiser.lr, train.optimiser.head_lr) == (1000, 1e-4, 3e-3)
    assert train.optimiser.nesterov is False


def test_every_number_of_every_setting_is_strict() -> None:
    """By the schema, so that a setting which is added later is covered too."""

    def numbers(schema: Any) -> Any:
        if isinstance(schema, dict):
            if schema.get("type") in ("int", "float", "bool"):
                yield schema
            for part in schema.values():
                yield from numbers(part)
        elif isinstance(schema, list | tuple):
            for part in schema:
                yield from numbers(part)

    def below(kind: type[Settings]) -> set[type[Settings]]:
        return {kind}.union(*(below(sub) for sub in kind.__subclasses__()))

    schemas = [n for kind in below(Settings) for n in numbers(kind.__pydantic_core_schema__)]
    assert len(schemas) > 100
    assert all(n.get("strict") for n in schemas)


def test_an_alias_is_a_copy_to_an_override(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(
        "x-data: &data {layout: folder, root: r}\nname: x\ndomains: {a: *data, b: {<<: *data, size: 0.5}, c: *data}\n"
        "method: joint\n",
        encoding="utf-8",
    )
    domains = read_config(tmp_path / "c.yaml", ["domains.a.root=other"]).domains
    assert [d.root.name for d in domains.values()] == ["other", "r", "r"]  # type: ignore[union-attr]
    assert domains["b"].size == 0.5


def test_of_thousands_of_wrong_keys_the_first_are_told() -> None:
    wrong: dict[str, Any] = {f"key{i}": ["x" * 10_000] for i in range(3000)}
    with pytest.raises(ValueError, match="and 2,950 more") as caught:
        parse_config(BASE | wrong)
    assert len(str(caught.value)) < 30_000
    with pytest.raises(ValueError, match="seed") as caught:
        parse_config(BASE | {"seed": ["x" * 100] * 100_000})
    assert len(str(caught.value)) < 1000


def test_a_configuration_whose_words_look_like_numbers_is_read_back(tmp_path: Path) -> None:
    config = parse_config(BASE | {"name": "1e3", "synonyms": [["no", "nein", "12", "2020-01-01"]]})
    (tmp_path / "c.yaml").write_text(configuration.dump(config), encoding="utf-8")
    assert read_config(tmp_path / "c.yaml") == config


# ── Classes ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("classes: {0: no, 1: sky}", "class 0: YAML reads no as a truth value; write it in quotes: 'no'"),
        ("classes: {0: sky, 3: {name: Off}}", "class 3: YAML reads Off as a truth value; write it in quotes: 'Off'"),
        ("classes: {0: ~}", "class 0: YAML reads ~ as nothing; write it in quotes: '~'"),
        ("classes: {0: Null}", "class 0: YAML reads Null as nothing; write it in quotes: 'Null'"),
        ("classes: {0: 1e3}", "class 0: YAML reads 1e3 as a number; write it in quotes: '1e3'"),
        ("classes:\n  0: {name:}", "class 0: YAML reads"),
        ("classes: {no: sky}", "the id False is not a number"),
        ("classes: {010: sky}", "the id '010' is not a number"),
        ("classes: {0: {name: sky, color: [true, 0, 0]}}", "three numbers"),
    ],
)
def test_a_class_that_yaml_reads_as_no_word_is_told_the_fix(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "classes.yaml").write_text(text, encoding="utf-8")
    error = refusal(LabelSpace.from_yaml, tmp_path / "classes.yaml")
    assert str(tmp_path / "classes.yaml") in error
    assert message in error


def test_names_that_need_quotes_are_written_with_them(tmp_path: Path) -> None:
    names = ("no", "on", "null", "1", "1e3", "~", "2020-01-01", "a: b", "Müller")
    space = LabelSpace(names, tuple((i, 0, 0) for i in range(9)), {i: i for i in range(9)})
    space.write_yaml(tmp_path / "classes.yaml")
    assert LabelSpace.from_yaml(tmp_path / "classes.yaml") == space


def test_a_class_mapping_with_such_words_is_told_the_fix(tmp_path: Path, fewmask: Fewmask) -> None:
    from fewmask.cli.runs import _class_names

    for text, message in {
        "no: road": "YAML reads no as a truth value; write it in quotes: 'no'",
        "road: yes": "road: YAML reads yes as a truth value; write it in quotes: 'yes'",
        "- road": "write lines `source: target`",
    }.items():
        (tmp_path / "m.yaml").write_text(text, encoding="utf-8")
        assert message in refusal(_class_names, tmp_path / "m.yaml")
    (tmp_path / "m.yaml").write_text("road: street\nsky: null\n", encoding="utf-8")
    assert _class_names(tmp_path / "m.yaml") == {"road": "street", "sky": None}
    two_domains(tmp_path)
    (tmp_path / "a" / "classes.yaml").write_text("classes: {0: no, 1: b, 2: c}", encoding="utf-8")
    text = f"name: x\ndomains: {{a: {{root: {tmp_path / 'a'}, layout: folder}}}}\nmethod: joint\n"
    (tmp_path / "c.yaml").write_text(text, encoding="utf-8")
    done = fewmask("check", tmp_path / "c.yaml")
    assert done.code == 2 and "'no'" in done.out + done.err
    is_refused(fewmask("train", tmp_path / "c.yaml"), "write it in quotes: 'no'")


def test_infinity_is_no_setting(tmp_path: Path) -> None:
    assert math.isinf(strict_yaml.parse_yaml(".inf"))
    with pytest.raises(ValueError, match=r"train.optimiser.lr"):
        parse_config(BASE | {"train": {"optimiser": {"lr": math.inf}}})
