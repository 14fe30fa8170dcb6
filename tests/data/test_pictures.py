"""Masks on disk hold the dataset's ids; overlays, legends and sheets show what they are given."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fewmask.data import pictures
from fewmask.data.domain import read_image, read_mask
from fewmask.data.pictures import Row, legend, overlay, sheet, write_image, write_mask
from fewmask.labels import NOT_LABELLED, VOID, LabelSpace

SPACE = LabelSpace(
    ("road", "sky", "car"), ((90, 90, 120), (130, 200, 230), (60, 80, 190)), {7: 0, 23: 1, 26: 2, 27: 2}, frozenset({0})
)


def photo(height: int = 12, width: int = 16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def halves(height: int = 12, width: int = 16) -> np.ndarray:
    mask = np.zeros((height, width), dtype=np.uint8)
    mask[:, width // 2 :] = 1
    return mask


@given(
    st.integers(1, 9),
    st.integers(1, 9),
    st.data(),
)
def test_a_mask_comes_back_as_it_was(tmp_path_factory, height, width, data):
    values = data.draw(
        st.lists(st.sampled_from([0, 1, 2, NOT_LABELLED, VOID]), min_size=height * width, max_size=height * width)
    )
    mask = np.array(values, dtype=np.uint8).reshape(height, width)
    path = tmp_path_factory.mktemp("masks") / "m.png"
    write_mask(path, mask, SPACE)
    assert np.array_equal(SPACE.encode(read_mask(path)), mask)


def test_a_mask_file_holds_raw_ids_and_colours(tmp_path):
    path = tmp_path / "m.png"
    mask = np.array([[0, 1, 2], [NOT_LABELLED, VOID, 2]], dtype=np.uint8)
    write_mask(path, mask, SPACE)
    with Image.open(path) as image:
        assert image.mode == "P"
        assert np.array(image).tolist() == [[7, 23, 26], [254, 255, 26]]
        assert np.array_equal(np.array(image.convert("RGB")), SPACE.colourise(mask))
    assert [p.name for p in tmp_path.iterdir()] == ["m.png"], "no temporary file stays"


def test_a_mask_with_values_outside_of_the_space_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"m\.png: mask values \[3, 200\] have no raw id"):
        write_mask(tmp_path / "m.png", np.array([[0, 3, 200]], dtype=np.uint8), SPACE)
    assert not list(tmp_path.iterdir())


def test_void_has_an_id_where_a_class_has_255(tmp_path):
    taken = LabelSpace(("a", "b"), ((1, 2, 3), (4, 5, 6)), {0: 0, 255: 1})
    write_mask(tmp_path / "fine.png", np.array([[0, 1]], dtype=np.uint8), taken)
    assert read_mask(tmp_path / "fine.png").tolist() == [[0, 255]]
    write_mask(tmp_path / "void.png", np.array([[0, VOID]], dtype=np.uint8), taken)
    assert read_mask(tmp_path / "void.png").tolist() == [[0, 253]]


def test_an_interrupted_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "m.png"
    write_mask(path, halves(), SPACE)
    before = path.read_bytes()

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fewmask.files.os.fsync", full)
    with pytest.raises(OSError, match="No space left on device"):
        write_mask(path, halves()[::-1, ::-1], SPACE)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["m.png"]


@pytest.mark.parametrize("ending", [".png", ".jpg", ".JPEG"])
def test_an_image_is_written_by_its_ending(tmp_path, ending):
    smooth = np.repeat(np.linspace(0, 255, 32).astype(np.uint8)[None, :, None], 20, 0) * np.ones(3, np.uint8)
    path = tmp_path / f"x{ending}"
    write_image(path, smooth)
    back = read_image(path)
    assert back.shape == smooth.shape
    assert np.abs(back.astype(int) - smooth).max() <= (0 if ending == ".png" else 6)


def test_an_unknown_ending_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"x\.gif: pictures are written as \.png or \.jpg, not \.gif"):
        write_image(tmp_path / "x.gif", photo())


def test_overlay_blends_and_draws_borders():
    image, mask = np.full((6, 8, 3), 100, dtype=np.uint8), halves(6, 8)
    shown = overlay(image, mask, SPACE, opacity=0.25)
    assert shown[0, 0].tolist() == [98, 98, 105]  # 100 + (90, 90, 120 − 100) / 4, rounded half up
    assert shown[0, 3].tolist() == list(SPACE.colours[0]), "the last column of road is border"
    assert shown[0, 4].tolist() == list(SPACE.colours[1])
    assert np.array_equal(overlay(image, mask * 0, SPACE, opacity=0), image)
    assert np.array_equal(overlay(image, mask, SPACE, opacity=1), SPACE.colourise(mask))


@pytest.mark.parametrize("empty", [NOT_LABELLED, VOID])
def test_overlay_leaves_void_as_it_is_and_changes_no_input(empty):
    image, mask = photo(), halves()
    mask[2:9, 5:12] = empty
    kept = image.copy(), mask.copy()
    shown = overlay(image, mask, SPACE)
    assert np.array_equal(shown[mask == empty], image[mask == empty])
    assert not np.array_equal(shown[mask != empty], image[mask != empty])
    assert np.array_equal(image, kept[0]) and np.array_equal(mask, kept[1])


def test_overlay_enlarged_has_thin_borders():
    image, mask = np.full((6, 8, 3), 100, dtype=np.uint8), halves(6, 8)
    shown = overlay(image, mask, SPACE, opacity=0, zoom=4)
    assert shown.shape == (24, 32, 3)
    changed = (shown != 100).any((0, 2))
    assert np.flatnonzero(changed).tolist() == [15, 16]


def test_overlay_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"an image of \(12, 16\) pixels and a mask of \(12, 15\)"):
        overlay(photo(), halves(12, 15), SPACE)


def shows(picture: np.ndarray, colour: tuple[int, int, int]) -> bool:
    return bool((picture == np.array(colour, dtype=np.uint8)).all(-1).any())


def test_a_legend_names_the_classes_that_are_present():
    full = legend(SPACE, width=300)
    assert full.shape[1] == 300 and all(shows(full, colour) for colour in SPACE.colours)
    some = legend(SPACE, present=[2, VOID], width=300)
    assert [shows(some, colour) for colour in SPACE.colours] == [False, False, True]
    assert legend(SPACE, width=80).shape[0] > full.shape[0], "a narrow legend breaks its lines"


def test_a_sheet_holds_every_picture_and_a_legend_for_each_space():
    other = LabelSpace(("wall",), ((201, 17, 33),), {0: 0})
    flat = [
        np.full(size, value, dtype=np.uint8) for value, size in ((11, (40, 60, 3)), (22, (80, 30, 3)), (33, (7, 9, 3)))
    ]
    page = sheet([Row(flat[:2], SPACE, "streets"), Row(flat[2:] * 2, other)], ["input", "truth"], cell=64)
    for value in (11, 22, 33):
        assert shows(page, (value, value, value))
    assert all(shows(page, colour) for colour in (*SPACE.colours, *other.colours))
    without = sheet([Row(flat[:2]), Row(flat[2:] * 2)], cell=64)
    assert without.shape[0] < page.shape[0] and without.shape[1] < page.shape[1]


def test_rows_of_one_space_share_a_legend():
    one, two = (sheet([Row([photo(50, 50)], SPACE)] * n, cell=50).shape[0] for n in (1, 2))
    assert two - one == 50 + pictures.GAP


@pytest.mark.parametrize(
    ("rows", "titles", "words"),
    [
        ([], [], "at least one picture"),
        ([Row([])], [], "at least one picture"),
        ([Row([photo()])], ["a", "b"], "row 0 has 1 pictures for 2 columns"),
        ([Row([photo()]), Row([photo()] * 2)], [], "row 1 has 2 pictures for 1 columns"),
    ],
)
def test_a_sheet_that_does_not_add_up_is_refused(rows, titles, words):
    with pytest.raises(ValueError, match=words):
        sheet(rows, titles)
