"""Damaged and overlong files: nothing but a ValueError comes of them, within stated limits of memory and work.

Shapes: H×W pixels of an image.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from amiss import chunks_of, png_of
from annotating import EXAMPLES, asked
from exports import FORMATS, OF, QUESTIONS, both

from fewmask.annotation.inbox import Import

# ── Damage ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("examples", EXAMPLES)
@pytest.mark.parametrize("name", FORMATS)
def test_nothing_but_a_value_error_comes_of_damage(name: str, examples: int, tmp_path: Path) -> None:
    """Seeded flips, cuts, doublings and foreign numbers: an import either passes or says that nothing was imported."""
    kit, rng, passed = FORMATS[name], random.Random(f"{name} {examples}"), 0
    path = kit.write(tmp_path, both())
    targets = sorted(p for p in tmp_path.rglob("*") if p.is_file())
    before = {target: target.read_bytes() for target in targets}
    for _ in range(examples):
        target = rng.choice(targets)
        spoilt = damaged(before[target], rng)
        target.write_bytes(png_of(chunks_of(spoilt)) if target.suffix == ".png" and rng.random() < 0.8 else spoilt)
        with asked(OF["a"], *QUESTIONS) as ledger:
            said = taken_or_said(lambda: kit.read(ledger, OF, path, "ann"))
            passed += isinstance(said, Import)
            assert isinstance(said, Import) or (said.startswith("nothing was imported:") and not ledger.answers())
        target.write_bytes(before[target])
    assert 0 < passed < examples


def taken_or_said(read: Callable[[], Import]) -> Import | str:
    try:
        return read()
    except ValueError as error:
        return str(error)


NASTY = [b"\0", b"\xff" * 9, b"-1", b"1e999", b"9" * 400, b"NaN", b"null", b"true", b"[[]]", b'"', b"<a>", b"]", b"{}"]


def damaged(data: bytes, rng: random.Random) -> bytes:
    at, much = rng.randrange(len(data)), bytearray(data)
    kind = rng.randrange(5)
    if kind == 0:
        much[at] ^= 1 << rng.randrange(8)
    elif kind == 1:
        del much[at:]
    elif kind == 2:
        much[at : at + rng.randrange(12)] = rng.choice(NASTY)
    elif kind == 3:
        end = min(at + rng.randrange(1, 60), len(data))
        much[at:at] = data[at:end]
    else:
        numbers = [i for i, byte in enumerate(data) if 48 <= byte < 58]
        if numbers:
            at = rng.choice(numbers)
            much[at : at + 1] = rng.choice(NASTY)
    return bytes(much)
