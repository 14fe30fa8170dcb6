"""Run-length codes of masks: COCO's, CVAT's and Label Studio's. No function loops over pixels or over COCO's runs.

Shapes: H×W pixels of an image · N pixels in a row · R runs · T tokens of a stream · V values in a stream.

Each code is a list `counts` (R,) of the lengths of runs that alternate between 0 and 1. The first run is of 0 and may
be empty. COCO counts down the columns of an image, CVAT along the rows of a box, and Label Studio along the rows of an
image.
"""

from __future__ import annotations

from array import array

import numpy as np

# Label Studio packs the bytes of an RGBA image with @thi.ng/rle-pack. A header comes first: 32 bits hold the number of
# values, 5 bits the width of a value less 1, and 4 times 4 bits the width of a run's length less 1. Tokens follow: 1
# bit tells a run from single values, 2 bits choose one of the four widths, then come the length less 1 and the value
# or values.
CHANNELS = 4
BITS = 8
WIDTHS = np.array([3, 4, 8, 16])
HEADER = 32 + 5 + 4 * 4
OPAQUE = 128
"""The alpha from which on a pixel counts as painted: the brush covers half of it. Edges of brush strokes fade out."""
MAX_RUNS, MAX_CODE = 4_000_000, 8_000_000
"""The most runs of one code, and the most characters of COCO's string."""
BLOCK = 1 << 16
SPARE = 3
"""A code may have fewer than this many bytes after its last token. label-studio-converter adds up to one."""
# A character of COCO's string holds 5 bits; an image of 170 million pixels needs 6 of them for a run.
CHARACTERS = 7


def counts(mask: np.ndarray) -> np.ndarray:
    """The lengths (R,) of the runs of a mask (N,) bool, in the order of its pixels."""
    ends = np.flatnonzero(np.diff(mask, prepend=False, append=not mask[-1] if mask.size else True))
    return np.diff(ends, prepend=0)


def positions(runs: np.ndarray, size: int) -> np.ndarray:
    """The ascending positions of the ones in N pixels that are coded by runs (R,).

    Raises ValueError when the runs do not add up to N pixels.
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
    """The positions of runs that end before `ends`, one after the other. The cost grows with the painted pixels."""
    return np.repeat(ends - np.cumsum(lengths), lengths) + np.arange(lengths.sum())


def pack(runs: np.ndarray) -> str:
    """COCO's string for runs (R,): the differences to the run two before, 5 bits a character, lowest first."""
    values = runs.astype(np.int64)
    values[3:] -= runs[1:-2]
    place = np.arange(int(np.abs(values).max(initial=0)).bit_length() // 5 + 1)
    groups = values[:, None] >> 5 * place & 31
    remainder = values[:, None] >> 5 * (place + 1)
    last = np.where(groups & 16, remainder == -1, remainder == 0)  # the remainder is only the top bit's sign
    needed = place <= last.argmax(axis=1)[:, None]
    text = groups + np.where(last, 0, 32) + 48
    return text[needed].astype(np.uint8).tobytes().decode()


def unpack(text: str) -> np.ndarray:
    """The runs (R,) of COCO's string. Raises ValueError for text that is no such code."""
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
    for first in (1, 2):  # each run after the third is stored as the difference to the run two before
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
    """The ascending positions of the painted pixels in Label Studio's code of N pixels: their alpha is `OPAQUE` or
    more.

    Raises ValueError when the bytes are no such code, or when they code another number of pixels.
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

    The start of a token follows from the token before it. The loop over tokens is fast because the length that a run
    would have is computed for all bits of a block at once. Tokens of single values are rare and long.
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
    """The length in bits of the token of single values that begins at bit `at`."""
    window = int.from_bytes(data[at >> 3 : (at >> 3) + 4].ljust(4, b"\0")) << (at & 7) & 0xFFFFFFFF
    width = int(widths[window >> 29 & 3])
    return 3 + width + BITS * ((window >> 29 - width & (1 << width) - 1) + 1)


def _read(stream: np.ndarray, at: np.ndarray, bits: int | np.ndarray) -> np.ndarray:
    """The numbers of up to 16 bits that begin at bits `at` of a stream of bytes."""
    byte = at >> 3
    window = stream[byte].astype(np.int64) << 16 | stream[byte + 1].astype(np.int64) << 8 | stream[byte + 2]
    return window >> 24 - (at & 7) - bits & (1 << bits) - 1


def _sum(runs: np.ndarray) -> int:
    """The sum of runs. It must not wrap around, because the numbers come from a stranger's file."""
    return int(runs.sum(dtype=np.float64)) if runs.size and np.abs(runs).max() > 1 << 40 else int(runs.sum())
