"""Label spaces, their files, and mappings between them."""

from __future__ import annotations

import copy
import re
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewmask.labels import NOT_LABELLED, VOID, ClassMapping, LabelSpace, distinct_colour, shared_classes

NAMES = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=12)
COLOURS = st.tuples(*[st.integers(0, 255)] * 3)


@st.composite
def spaces(draw: st.DrawFn, many_to_one: bool = True, largest: int = 253) -> LabelSpace:
    names = draw(st.lists(NAMES, min_size=1, max_size=8, unique=True))
    extra = draw(st.integers(0, 5)) if many_to_one else 0
    voids = draw(st.integers(0, 4))
    count = len(names) + extra + voids
    ids = draw(st.lists(st.integers(0, largest), min_size=count, max_size=count, unique=True))
    raw_ids = {raw: i if i < len(names) else draw(st.integers(0, len(names) - 1)) for i, raw in enumerate(ids[voids:])}
    colours = draw(st.lists(COLOURS, min_size=len(names), max_size=len(names)))
    return LabelSpace(tuple(names), tuple(colours), raw_ids, frozenset(ids[:voids]))


def road_sky() -> LabelSpace:
    return LabelSpace(("road", "sky"), ((1, 2, 3), (4, 5, 6)), {7: 0, 8: 0, 23: 1}, frozenset({0, 1}))


@given(spaces(), st.data())
def test_decode_then_encode_is_the_identity_on_every_mask_value(space: LabelSpace, data: st.DataObject) -> None:
    values = st.sampled_from([*range(space.num_classes), NOT_LABELLED, VOID])
    mask = np.array(data.draw(st.lists(values, min_size=1, max_size=30)), dtype=np.uint8)[None]
    np.testing.assert_array_equal(space.encode(space.decode(mask)), mask)


@given(spaces(many_to_one=False))
def test_encode_then_decode_is_the_identity_where_each_class_has_one_id(space: LabelSpace) -> None:
    raw = np.array([[*space.raw_ids, NOT_LABELLED, VOID]], dtype=np.uint8)
    np.testing.assert_array_equal(space.decode(space.encode(raw)), raw)


@given(spaces())
def test_every_id_becomes_its_class_void_or_an_error(space: LabelSpace) -> None:
    for raw in range(256):
        mask = np.full((2, 3), raw, dtype=np.uint8)
        if raw in space.raw_ids:
            expected = space.raw_ids[raw]
        elif raw in space.void_ids or raw == VOID:
            expected = VOID
        elif raw == NOT_LABELLED:
            expected = NOT_LABELLED
        else:
            assert space.unknown_ids(mask) == {raw: 6}
            with pytest.raises(ValueError, match=rf"^x\.png: .*\b{raw} \(6 pixels\)"):
                space.encode(mask, "x.png")
            continue
        assert (space.encode(mask) == expected).all()
        assert space.unknown_ids(mask) == {}


@given(spaces(many_to_one=False))
def test_yaml_round_trip(space: LabelSpace) -> None:
    # classes.yaml orders classes by id, so only a space in that order comes back equal.
    order = sorted(space.raw_ids, key=space.raw_ids.__getitem__)
    space = LabelSpace(space.names, space.colours, {raw: i for i, raw in enumerate(sorted(order))}, space.void_ids)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "classes.yaml"
        space.write_yaml(path)
        assert LabelSpace.from_yaml(path) == space


@given(spaces())
def test_dictionary_and_reduce_round_trip(space: LabelSpace) -> None:
    assert LabelSpace.from_dict(space.to_dict()) == space
    again = copy.deepcopy(space)  # by __reduce__, as loader workers get it
    assert again == space
    assert hash(again) == hash(space)


def test_claimed_255_is_a_class_and_void_takes_a_void_id() -> None:
    binary = LabelSpace(("back", "front"), ((0, 0, 0), (9, 9, 9)), {0: 0, 255: 1}, frozenset({128}))
    raw = np.array([[0, 255, 128, 254]], dtype=np.uint8)
    np.testing.assert_array_equal(binary.encode(raw), [[0, 1, VOID, NOT_LABELLED]])
    np.testing.assert_array_equal(binary.decode(binary.encode(raw)), raw)


def test_decode_refuses_a_value_without_an_id() -> None:
    binary = LabelSpace(("back", "front"), ((0, 0, 0), (9, 9, 9)), {0: 0, 255: 1})
    with pytest.raises(ValueError, match=r"\[2\]"):
        binary.decode(np.array([[2]], dtype=np.uint8))
    with pytest.raises(ValueError, match=r"\[2, 200\]"):
        road_sky().decode(np.array([[0, 2, 200]], dtype=np.uint8))


@pytest.mark.parametrize("raw", [np.zeros((2, 2), np.int32), np.zeros((2, 2, 3), np.uint8)], ids=["int32", "colours"])
def test_encode_refuses_what_is_no_mask(raw: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"^m\.png: a mask is 8-bit with one channel"):
        road_sky().encode(raw, "m.png")


def test_all_faults_of_a_space_are_listed_at_once() -> None:
    with pytest.raises(ValueError, match=r"^label space: ") as error:
        LabelSpace(("a", "a", "b"), ((0, 0, 0),), {300: 0, 3: 9, 4: 1}, frozenset({4}))
    for part in ("a; every class", "1 colours for 3", "raw id 300", "raw id 3 stands for class 9", "both", "for b"):
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("classes: {0: road, 0: sky}", "0 given twice"),
        ("classes: {0: road, 1: road}", "given twice: road"),
        ("classes: [road, road]", "given twice: road"),
        ("classes: road", "mapping `classes:`"),
        ("[road, 3]", "class 1"),
        ("[{name: road, color: [0, 0, 0], colour: [0, 0, 0]}]", "class 0"),
        ("names: {0: road}", "mapping `classes:`"),
        ("classes: {0: road}\nvoid: [1]", "unknown keys void"),
        ("classes: {0: road}\nignore: 3", "`ignore` is a list"),
        ("classes: {0: road}\nignore: [0]", "both a class and void"),
        ("classes: {256: road}", "256 is not a number from 0 to 255"),
        ("classes: {yes: road}", "True is not a number"),
        ("classes: {0: {name: road, hue: [1, 2, 3]}}", "class 0"),
        ("classes: {0: {name: road, color: [1, 2]}}", "three numbers"),
        ("classes: {0: road", "not readable as YAML"),
        ("classes: {}", "no classes"),
    ],
)
def test_faults_of_classes_yaml_name_the_file(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "classes.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=re.escape(complaint)) as error:
        LabelSpace.from_yaml(path)
    assert str(error.value).startswith(f"{path}: ")


def test_classes_yaml_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not found; write one"):
        LabelSpace.from_yaml(tmp_path / "classes.yaml")


def test_classes_yaml_orders_by_number_not_by_text(tmp_path: Path) -> None:
    path = tmp_path / "classes.yaml"
    path.write_text("ignore: [3]\nclasses: {10: {name: ten, color: [1, 2, 3]}, 9: nine, 100: hundred}")
    space = LabelSpace.from_yaml(path)
    assert space.names == ("nine", "ten", "hundred")
    assert dict(space.raw_ids) == {9: 0, 10: 1, 100: 2}
    assert space.colours[1] == (1, 2, 3)
    assert space.void_ids == {3}


def test_palette_and_picture() -> None:
    picture = road_sky().colourise(np.array([[0, 1, NOT_LABELLED, VOID]], dtype=np.uint8))
    assert picture.shape == (1, 4, 3)
    assert picture[0].tolist() == [[1, 2, 3], [4, 5, 6], [90, 90, 90], [0, 0, 0]]


def test_colours_are_distinct() -> None:
    assert len({distinct_colour(i) for i in range(60)}) == 60


def test_index_of_an_unknown_class() -> None:
    assert road_sky().index("sky") == 1
    with pytest.raises(ValueError, match=r"no class 'sea'; the classes are road, sky"):
        road_sky().index("sea")


def space(*names: str) -> LabelSpace:
    return LabelSpace(names, tuple((i, i, i) for i in range(len(names))), {i: i for i in range(len(names))})


def test_mapping_is_many_to_one_and_missing_is_not_background() -> None:
    fine = space("background", "car", "bus", "sky", "cow")
    coarse = space("background", "sky", "vehicle")
    mapping = ClassMapping.by_name(fine, coarse, {"car": "vehicle", "bus": "vehicle", "cow": None})
    assert mapping.table == (0, 2, 2, 1, -1)
    assert mapping.reachable == {0, 1, 2}


def test_mapping_lists_every_fault_at_once() -> None:
    with pytest.raises(ValueError, match=r"^class mapping: ") as error:
        ClassMapping.by_name(space("car", "cow", "sky"), space("sky"), {"dog": "sky", "car": "auto"})
    for part in ("no class 'dog' to map from", "no class 'auto' to map to", "cow: say which class it is"):
        assert part in str(error.value)


@given(spaces())
def test_mapping_onto_itself_is_the_identity(space: LabelSpace) -> None:
    assert ClassMapping.by_name(space, space).table == tuple(range(space.num_classes))


def test_shared_classes() -> None:
    domains = {"a": space("road", "sky", "pole"), "b": space("road", "air", "cow"), "c": space("cow", "book")}
    assert shared_classes(domains) == {"a": {"road"}, "b": {"road", "cow"}, "c": {"cow"}}
    with_synonyms = shared_classes(domains, [["sky", "air"]])
    assert with_synonyms == {"a": {"road", "sky"}, "b": {"road", "air", "cow"}, "c": {"cow"}}
    assert shared_classes({"a": space("road")}) == {"a": frozenset()}


# ── Ids that void and not labelled move to ───────────────────────────────────────────────────────────────────────────


@given(
    st.dictionaries(st.integers(0, 255), st.integers(0, 3), min_size=1, max_size=120),
    st.frozensets(st.integers(0, 255), max_size=120),
)
def test_void_and_not_labelled_have_a_place_in_every_space(ids: dict[int, int], void: frozenset[int]) -> None:
    classes = sorted(set(ids.values()))
    raw_ids = {raw: classes.index(c) for raw, c in ids.items()}
    colours = tuple(distinct_colour(i) for i in range(len(classes)))
    space = LabelSpace(tuple(f"c{i}" for i in classes), colours, raw_ids, void - set(raw_ids))
    values = np.array([[*range(len(classes)), NOT_LABELLED, VOID]], dtype=np.uint8)
    raw = space.decode(values)
    np.testing.assert_array_equal(space.encode(raw), values)
    assert len(set(raw[0].tolist())) == len(values[0])


@pytest.mark.parametrize(
    ("text", "not_labelled", "void"),
    [
        ("classes: {0: a, 1: b}", 254, 255),
        ("classes: {0: a, 255: b}", 254, 253),
        ("ignore: [7, 3]\nclasses: {0: a, 255: b}", 254, 3),
        ("classes: {0: a, 254: b}", 253, 255),
        ("ignore: [254]\nclasses: {0: a}", 253, 255),
        ("classes: {253: a, 254: b, 255: c}", 252, 251),
    ],
)
def test_where_void_and_not_labelled_go(text: str, not_labelled: int, void: int, tmp_path: Path) -> None:
    path = tmp_path / "classes.yaml"
    path.write_text(text, encoding="utf-8")
    space = LabelSpace.from_yaml(path)
    assert (space.not_labelled_id, space.void_id) == (not_labelled, void)
    space.write_yaml(path)  # who paints finds void there, unless it is 255
    again = LabelSpace.from_yaml(path)
    assert (again.not_labelled_id, again.void_id) == (not_labelled, void)


def test_more_classes_than_a_byte_holds_are_refused_before_anything_else(tmp_path: Path) -> None:
    path = tmp_path / "classes.yaml"
    path.write_text("classes: {" + ", ".join(f"{i}: c{i}" for i in range(300)) + "}", encoding="utf-8")
    with pytest.raises(ValueError, match=r"300 classes; masks are 8-bit and hold at most 254"):
        LabelSpace.from_yaml(path)


def test_a_space_that_claims_every_id_is_refused() -> None:
    with pytest.raises(ValueError, match="all 256 ids are claimed, and none is left for void or not labelled"):
        LabelSpace(("a",), ((0, 0, 0),), dict.fromkeys(range(256), 0))
