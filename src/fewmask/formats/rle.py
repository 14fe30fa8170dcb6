"""Run-length codes of masks: COCO's, CVAT's and Label Studio's. Nothing here loops over pixels or runs of COCO's.

Shapes: H×W pixels of an image · N pixels in a row · R runs · T tokens of a stream · V values in a stream.

All of them are runs that alternate between 0 and 1 and begin with 0, so that the first may be empty: `counts` (R,).
COCO counts down the columns of an image; CVAT along the rows of a box; Label Studio along the rows of an image.
"""

from __future__ import annotations

from array import array

import numpy as np

# Label Studio packs the bytes of an RGBA image with @thi.ng/rle-pack: a header of 32 bits for the number of values, 5
# for the bits of a value less 1, and 4 times 4 for the bits of a run's length less 1; then tokens: a bit that tells a
# run from single values, 2 bits that choose one of the four widths, the length less 1, and the value or the values.
CHANNELS = 4
BITS = 8
WIDTHS = np.array([3, 4, 8, 16])
HEADER = 32 + 5 + 4 * 4
OPAQUE = 128
"""A pixel is painted where the brush covers half of it or more: edges of brush strokes fade out."""
MAX_RUNS, MAX_CODE = 4_000_000, 8_000_000
"""Runs of one code, and characters of COCO's string."""
BLOCK = 1 << 16
SPARE = 3
"""Bytes after the last token that a code may not have: label-studio-converter adds up to one."""
# A character of COCO's string holds 5 bits; an image of 170 million pixels needs 6 of them for a run.
CHARACTERS = 7


def counts(mask: np.ndarray) -> np.ndarray:
    """The runs (R,) of a mask (N,) bool, in its own order."""
    ends = np.flatnonzero(np.diff(mask, prepend=False, append=not mask[-1] if mask.size else True))
    return np.diff(ends, prepend=0)


def positions(runs: np.ndarray, size: int) -> np.ndarray:
    """The places, ascending, of the ones among N pixels that the runs (R,) are of.

    Raises ValueError when the runs are not N pixels together.
    """
    if runs.size > MAX_RUNS:
        raise ValueError(f"{runs.size} runs, more than {MAX_RUNS}; smooth the mask")
    total = _sum(runs)
    if runs.size and runs.min() < 0:
        raise ValueError(f"a run of {int(runs.min())} pixels; runs are 0 or more")
    if total != size:
        raise ValueError(f"runs of {total} pixels together where there are {size}")
    ends = np.cumsum(runs)[1::2]
    return _places(ends, runs[1::2])


def _places(ends: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The places of runs that end before `ends`, one after the other: their cost is that of what is painted."""
    return np.repeat(ends - np.cumsum(lengths), lengths) + np.arange(lengths.sum())


def pack(runs: np.ndarray) -> str:
    """COCO's string for runs (R,): differences to the run before the last, 5 bits a character, the lowest first."""
    values = runs.astype(np.int64)
    values[3:] -= runs[1:-2]
    places = np.arange(int(np.abs(values).max(initial=0)).bit_length() // 5 + 1)
    groups = values[:, None] >> 5 * places & 31
    rest = values[:, None] >> 5 * (places + 1)
    last = np.where(groups & 16, rest == -1, rest == 0)  # the sign of what remains is that of the group's top bit
    needed = places <= last.argmax(axis=1)[:, None]
    text = groups + np.where(last, 0, 32) + 48
    return text[needed].astype(np.uint8).tobytes().decode()


def unpack(text: str) -> np.ndarray:
    """The runs (R,) of COCO's string. Raises ValueError when it is none."""
    if len(text) > MAX_CODE:
        raise ValueError(f"a run-length code of {len(text)} characters, more than {MAX_CODE}; smooth the mask")
    try:
        codes = np.frombuffer(text.encode("ascii"), np.uint8).astype(np.int64) - 48
    except UnicodeEncodeError:
        codes = np.array([-1])
    if codes.size and (codes.min() < 0 or codes.max() > 63):
        raise ValueError("its characters are not those of a compressed run-length code")
    if not codes.size:
        return codes
    ends = np.flatnonzero(codes & 32 == 0)
    if not ends.size or ends[-1] != codes.size - 1:
        raise ValueError("the compressed run-length code is cut short")
    starts = np.concatenate([[0], ends[:-1] + 1])
    length = ends - starts + 1
    if length.max() > CHARACTERS:
        raise ValueError("a run is longer than any image")
    place = np.arange(codes.size) - np.repeat(starts, length)
    values = np.add.reduceat((codes & 31) << 5 * place, starts)
    values -= np.where(codes[ends] & 16, 1 << 5 * length, 0)
    for first in (1, 2):  # every run but the first three is told as its difference to the one before the last
        values[first::2] = np.cumsum(values[first::2])
    return values


def encode_brush(mask: np.ndarray) -> np.ndarray:
    """Label Studio's bytes, uint8, for a mask (N,) bool along the rows of an image: 255 or 0 in all four channels."""
    runs, longest = counts(mask) * CHANNELS, 1 << int(WIDTHS[-1])
    parts = -(-runs // longest)
    lengths = np.full(int(parts.sum()), longest)
    lengths[np.cumsum(parts)[parts > 0] - 1] = (runs - (parts - 1) * longest)[parts > 0]
    values = np.repeat(np.arange(runs.size) % 2 * 255, parts)
    kind = np.searchsorted(1 << WIDTHS, lengths)
    width = WIDTHS[kind]
    code = ((4 | kind) << width | lengths - 1) << BITS | values
    bits = np.unpackbits(code.astype(">u4").view(np.uint8).reshape(-1, 4), axis=1)
    tokens = bits[np.arange(32) >= 32 - (3 + width + BITS)[:, None]]
    head = f"{mask.size * CHANNELS:032b}{BITS - 1:05b}" + "".join(f"{w - 1:04b}" for w in WIDTHS)
    return np.packbits(np.concatenate([np.frombuffer(head.encode(), np.uint8) - 48, tokens]))


def decode_brush(data: bytes, size: int) -> np.ndarray:
    """The places, ascending, of painted pixels among N that Label Studio's bytes are of: alpha is `OPAQUE` or more.

    Raises ValueError when the bytes are no such code, or that of another number of pixels.
    """
    if len(data) * 8 < HEADER:
        raise ValueError(f"a run-length code of {len(data)} bytes; it is cut short")
    values, word = int.from_bytes(data[:4]), (data[4] >> 3) + 1
    if values != size * CHANNELS:
        raise ValueError(f"a run-length code of {values} values; an image of {size} pixels has {size * CHANNELS}")
    if word != BITS:
        raise ValueError(f"a run-length code of {word} bits a value; Label Studio writes {BITS}")
    if len(data) * 8 >= HEADER + values * (3 + 16 + BITS) + 8 * SPARE:
        raise ValueError(f"a run-length code of {len(data)} bytes for {values} values; it goes on after them")
    sizes = int.from_bytes(data[4:7]) >> 3
    widths = np.array([(sizes >> shift & 15) + 1 for shift in (12, 8, 4, 0)])
    stream = np.frombuffer(data + bytes(SPARE), np.uint8)
    starts = _starts(data, widths)
    head = _read(stream, starts, 3)
    single, width = head < 4, widths[head & 3]
    length = _read(stream, starts + 3, width) + 1
    ends, bits = np.cumsum(length), starts + 3 + width + np.where(single, BITS * length, BITS)
    used = int(np.searchsorted(ends, values)) + 1
    if used > ends.size or bits[used - 1] > len(data) * 8:
        raise ValueError(f"a run-length code of {values} values that ends before them; it is cut short")
    if ends[used - 1] > values or len(data) * 8 - bits[used - 1] >= 8 * SPARE:
        raise ValueError(f"a run-length code that goes on after its {values} values")
    single, width, length, starts = single[:used], width[:used], length[:used], starts[:used]
    many = np.where(single, length, 1)
    first = np.repeat(starts + 3 + width, many)
    at = first + BITS * (np.arange(first.size) - np.repeat(np.cumsum(many) - many, many))
    painted = _read(stream, at, BITS) >= OPAQUE
    pixels = np.cumsum(np.repeat(np.where(single, 1, length), many)) // CHANNELS  # alpha is each pixel's last value
    return _places(pixels[painted], np.diff(pixels, prepend=0)[painted])


def _starts(data: bytes, widths: np.ndarray) -> np.ndarray:
    """The bits (T,) at which tokens begin, to the end of the data.

    Where a token begins is known only from the one before. How long a run would be is looked up for all bits of a block
    at once, so that the loop over tokens only follows; single values are rare and long.
    """
    steps = np.concatenate([np.zeros(4, int), 3 + widths + BITS]).astype(np.uint8)
    starts, at, last = array("q"), HEADER, len(data) * 8
    while at < last:
        base = at >> 3
        block = np.frombuffer(data[base : base + BLOCK + 1] + b"\0", np.uint8)
        bits = np.unpackbits(block)
        step = steps[bits[:-2] << 2 | bits[1:-1] << 1 | bits[2:]].tobytes()
        end, at = min(last - base * 8, BLOCK * 8), at - base * 8
        while at < end:
            starts.append(base * 8 + at)
            at += step[at] or _single(data, base * 8 + at, widths)
        at += base * 8
    return np.frombuffer(starts, np.int64)


def _single(data: bytes, at: int, widths: np.ndarray) -> int:
    """The bits of the token at a bit, which is one of single values."""
    window = int.from_bytes(data[at >> 3 : (at >> 3) + 4].ljust(4, b"\0")) << (at & 7) & 0xFFFFFFFF
    width = int(widths[window >> 29 & 3])
    return 3 + width + BITS * ((window >> 29 - width & (1 << width) - 1) + 1)


def _read(stream: np.ndarray, at: np.ndarray, bits: int | np.ndarray) -> np.ndarray:
    """The numbers of up to 16 bits that stand at bits of a stream of bytes."""
    byte = at >> 3
    window = stream[byte].astype(np.int64) << 16 | stream[byte + 1].astype(np.int64) << 8 | stream[byte + 2]
    return window >> 24 - (at & 7) - bits & (1 << bits) - 1


def _sum(runs: np.ndarray) -> int:
    """The sum, which must not wrap around: a stranger chose the numbers."""
    return int(runs.sum(dtype=np.float64)) if runs.size and np.abs(runs).max() > 1 << 40 else int(runs.sum())
