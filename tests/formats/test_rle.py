"""Run-length codes: equal to those of the tools they come from, and nothing but whole codes is read.

Shapes: N pixels in a row · H×W pixels of an image.
"""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fewmask.formats import rle
from fewmask.formats.rle import HEADER, SPARE, counts, decode_brush, encode_brush, pack, positions, unpack

# Made with pycocotools 2.0.11, down the columns of masks that are given row by row.
COCO = [
    ((1, 1), "1", "01"),
    ((1, 1), "0", "1"),
    ((4, 3), "001111011010", "1135N"),
    (
        (7, 9),
        "001001101000001001001010010000000100010101000110000101000000101",
        "5151LO0070L001NO0000O11O21O0",
    ),
]
BIG = "1omYb0PnYb0"  # 1200×1000, the left half and not the first pixel of it


masks = arrays(bool, st.integers(1, 400), elements=st.booleans(), fill=st.booleans())


def slow_counts(mask: np.ndarray) -> list[int]:
    runs, current = [0], False
    for value in mask.tolist():
        if value != current:
            runs.append(0)
            current = value
        runs[-1] += 1
    return runs


def slow_bits(data: bytes) -> str:
    return "".join(f"{byte:08b}" for byte in data)


def slow_brush(data: bytes) -> list[int]:
    """The values of a code of Label Studio, read token by token as the format is described."""
    bits, at, out = slow_bits(data), 0, list[int]()

    def read(n: int) -> int:
        nonlocal at
        assert at + n <= len(bits)
        at += n
        return int(bits[at - n : at], 2)

    total, word = read(32), read(5) + 1
    widths = [read(4) + 1 for _ in range(4)]
    while len(out) < total:
        repeated = read(1)
        length = read(widths[read(2)]) + 1
        out += [read(word)] * length if repeated else [read(word) for _ in range(length)]
    assert len(out) == total
    return out


def written(tokens: str, values: int, widths: tuple[int, ...] = (3, 4, 8, 16), word: int = 8) -> bytes:
    """A code of Label Studio from its tokens' bits."""
    bits = f"{values:032b}{word - 1:05b}" + "".join(f"{w - 1:04b}" for w in widths) + tokens.replace(" ", "")
    bits += "0" * (-len(bits) % 8)
    return bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8))


@settings(max_examples=1000, deadline=None)
@given(mask=masks)
def test_every_code_gives_the_mask_back(mask: np.ndarray) -> None:
    runs = counts(mask)
    assert runs.tolist() == slow_counts(mask)
    np.testing.assert_array_equal(positions(runs, mask.size), np.flatnonzero(mask))
    np.testing.assert_array_equal(unpack(pack(runs)), runs)
    np.testing.assert_array_equal(decode_brush(encode_brush(mask).tobytes(), mask.size), np.flatnonzero(mask))


@settings(max_examples=1000, deadline=None)
@given(runs=arrays(np.int64, st.integers(1, 30), elements=st.integers(0, 2**34 - 1)))
def test_cocos_string_holds_any_runs(runs: np.ndarray) -> None:
    np.testing.assert_array_equal(unpack(pack(runs)), runs)


@pytest.mark.parametrize(("size", "pixels", "text"), COCO)
def test_cocos_strings_are_those_of_pycocotools(size: tuple[int, int], pixels: str, text: str) -> None:
    mask = np.array([p == "1" for p in pixels]).reshape(size)
    assert pack(counts(mask.ravel(order="F"))) == text
    np.testing.assert_array_equal(positions(unpack(text), mask.size), np.flatnonzero(mask.ravel(order="F")))


def test_a_large_mask_of_pycocotools() -> None:
    mask = np.zeros((1200, 1000), dtype=bool)
    mask[:, :500] = True
    mask[0, 0] = False
    assert pack(counts(mask.ravel(order="F"))) == BIG
    np.testing.assert_array_equal(positions(unpack(BIG), mask.size), np.flatnonzero(mask.ravel(order="F")))


@settings(max_examples=100, deadline=None)
@given(mask=masks)
def test_a_brush_is_coded_as_the_format_says(mask: np.ndarray) -> None:
    assert slow_brush(encode_brush(mask).tobytes()) == np.repeat(mask * 255, 4).tolist()


@pytest.mark.parametrize("pixels", [1, 2, 3, 4, 5, 63, 64, 65, 16383, 16384, 16385, 40000])
def test_runs_of_every_width_and_beyond_the_longest(pixels: int) -> None:
    mask = np.ones(pixels + 2, dtype=bool)
    mask[[0, -1]] = False
    code = encode_brush(mask).tobytes()
    assert slow_brush(code) == np.repeat(mask * 255, 4).tolist()
    np.testing.assert_array_equal(decode_brush(code, mask.size), np.flatnonzero(mask))


@pytest.mark.parametrize("block", range(1, 9))
def test_tokens_are_found_across_blocks(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rle, "BLOCK", block)
    mask = np.repeat(np.arange(300) % 2, np.random.default_rng(block).integers(1, 9, 300)).astype(bool)
    np.testing.assert_array_equal(decode_brush(encode_brush(mask).tobytes(), mask.size), np.flatnonzero(mask))


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_any_tokens_are_read(data: st.DataObject) -> None:
    """Runs and single values of any width, values that fade, tokens that begin and end inside of a pixel."""
    widths = tuple(data.draw(st.lists(st.integers(1, 16), min_size=4, max_size=4)))
    pixels = data.draw(st.integers(1, 60))
    tokens, left = "", pixels * 4
    while left:
        kind, repeated = data.draw(st.integers(0, 3)), data.draw(st.booleans())
        length = data.draw(st.integers(1, min(left, 1 << widths[kind], 40)))
        values = data.draw(st.lists(st.integers(0, 255), min_size=1 if repeated else length, max_size=length))
        values = values[:1] if repeated else values
        tokens += f"{repeated:b}{kind:02b}{length - 1:0{widths[kind]}b}" + "".join(f"{v:08b}" for v in values)
        left -= length
    code = written(tokens, pixels * 4, widths)
    alpha = np.array(slow_brush(code)[3::4])
    np.testing.assert_array_equal(decode_brush(code, pixels), np.flatnonzero(alpha >= 128))


RUN = "1 00 111 11111111"  # 8 values, 255: two pixels


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (b"", "0 bytes; it is cut short"),
        (written("", 8)[: HEADER // 8], "6 bytes; it is cut short"),
        (written("", 8), "ends before them; it is cut short"),
        (written(RUN, 8)[:-1], "ends before them; it is cut short"),
        (written("1 00 110 11111111", 8), "ends before them; it is cut short"),
        (written("0 00 111" + "1" * 56, 8), "ends before them; it is cut short"),
        (written(RUN, 12), "of 12 values; an image of 2 pixels has 8"),
        (written(RUN, 2**32 - 1), "of 4294967295 values; an image of 2 pixels has 8"),
        (written("1 01 1111 11111111", 8), "goes on after its 8 values"),
        (written("1 11 1111111111111111 11111111", 8), "goes on after its 8 values"),
        (written("1 00 110 11111111 0 00 001 11111111 11111111", 8), "goes on after its 8 values"),
        (written(RUN, 8) + bytes(SPARE), "goes on after its 8 values"),
        (written(RUN, 8) + bytes(1000), "goes on after"),
        (written(RUN, 8, word=16), "of 16 bits a value; Label Studio writes 8"),
    ],
)
def test_a_brush_that_is_not_whole_is_refused(code: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode_brush(code, 2)


def test_what_converters_add_at_the_end_is_no_fault() -> None:
    assert decode_brush(written(RUN, 8) + b"\0", 2).tolist() == [0, 1]


@settings(max_examples=300, deadline=None)
@given(noise=st.binary(max_size=80), pixels=st.integers(1, 40))
def test_noise_is_a_mask_or_refused(noise: bytes, pixels: int) -> None:
    for code in (noise, written("", pixels * 4)[:7] + noise):
        with suppress(ValueError):
            assert decode_brush(code, pixels).size <= pixels


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ([3, 4], "runs of 7 pixels together where there are 6"),
        ([3, 2], "runs of 5 pixels together"),
        ([9, -3], "a run of -3 pixels"),
        ([2**62, 2**62, 2**62, 2**62, 6], "together where there are 6"),
        ([], "runs of 0 pixels together"),
    ],
)
def test_runs_that_do_not_fit_are_refused(runs: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        positions(np.array(runs, dtype=np.int64), 6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1\u00e9", "characters are not"),
        ("1 1", "characters are not"),
        ("1o", "cut short"),
        ("oooooooo1", "longer than any image"),
    ],
)
def test_a_string_that_is_no_code_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        unpack(text)
