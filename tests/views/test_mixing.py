"""Every pixel of a mixed row comes from its right source; 254 and 255 are never classes and keep their values.

Shapes: B rows · h×w pixels · C classes · N places of a buffer.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from fewmask.labels import NOT_LABELLED, VOID
from fewmask.views.mixing import (
    ReplayBuffer,
    adaptive_class_masks,
    box_masks,
    class_masks,
    head_and_tail,
    partners,
    paste,
    present_classes,
    recall,
    remember,
)

sizes = st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9))
shares = st.sampled_from([0.0, 0.25, 0.75, 1.0])
seeds = st.integers(0, 2**32)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def labels(size: tuple[int, int, int], classes: int, ignored: float, seed: int) -> Tensor:
    """(B,h,w) uint8: random classes, of which the given share is 254 or 255."""
    generator = rng(seed)
    label = torch.randint(classes, size, generator=generator, dtype=torch.uint8)
    blank = torch.randint(NOT_LABELLED, VOID + 1, size, generator=generator, dtype=torch.uint8)
    return blank.where(torch.rand(size, generator=generator) < ignored, label)


def classes_of(label: Tensor) -> set[int]:
    return set(label.unique().tolist()) - {NOT_LABELLED, VOID}


# ── Pasting ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(sizes, st.sampled_from([torch.uint8, torch.float32, torch.bfloat16]), st.booleans(), seeds)
def test_every_pixel_comes_from_its_right_source(
    size: tuple[int, int, int], dtype: torch.dtype, with_channels: bool, seed: int
) -> None:
    b, h, w = size
    shape = (b, 3, h, w) if with_channels else size
    onto, source = torch.randint(256, (2, *shape), generator=rng(seed)).to(dtype)
    mask = torch.rand(size, generator=rng(seed)) < 0.5
    kept = [values.clone() for values in (mask, onto, source)]
    mixed = paste(mask, onto, source)
    assert mixed.dtype == dtype
    assert mixed.shape == shape
    for i in range(b):
        for y in range(h):
            for x in range(w):
                right = source if mask[i, y, x] else onto
                assert torch.equal(mixed[i, ..., y, x], right[i, ..., y, x])
    assert all(torch.equal(now, before) for now, before in zip((mask, onto, source), kept, strict=True))


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("source_memory", [torch.contiguous_format, torch.channels_last])
def test_a_mixed_image_lies_in_memory_as_the_one_pasted_onto(
    memory: torch.memory_format, source_memory: torch.memory_format
) -> None:
    onto = torch.zeros(2, 3, 5, 7).contiguous(memory_format=memory)
    source = torch.ones(2, 3, 5, 7).contiguous(memory_format=source_memory)
    assert paste(torch.rand(2, 5, 7, generator=rng()) < 0.5, onto, source).is_contiguous(memory_format=memory)


def test_a_label_is_not_promoted() -> None:
    mask, label = torch.ones(1, 2, 2, dtype=torch.bool), torch.zeros(1, 2, 2, dtype=torch.uint8)
    with pytest.raises(AssertionError):
        paste(mask, label, label.long())


@given(st.lists(st.integers(0, 4), min_size=1, max_size=12))
def test_a_rows_partner_is_the_one_before_it_of_its_domain(domain: list[int]) -> None:
    expected = []
    for row, k in enumerate(domain):
        of_domain = [r for r, other in enumerate(domain) if other == k]
        expected.append(of_domain[of_domain.index(row) - 1])
    assert partners(torch.tensor(domain)).tolist() == expected


# ── CutMix ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def box_of(mask: Tensor) -> tuple[int, int, int, int] | None:
    """Top, left, height, width of the true pixels of (h,w), which must be a full rectangle; None for none."""
    inside = mask.nonzero().tolist()
    if not inside:
        return None
    ys, xs = zip(*inside, strict=True)
    box = min(ys), min(xs), max(ys) - min(ys) + 1, max(xs) - min(xs) + 1
    assert len(inside) == box[2] * box[3]
    return box


@given(st.integers(1, 5), st.integers(1, 60), st.integers(1, 60), seeds)
def test_boxes_are_rectangles_of_the_drawn_area(rows: int, h: int, w: int, seed: int) -> None:
    masks = box_masks(rows, (h, w), rng(seed), probability=1, area=(0.1, 0.3))
    assert masks.shape == (rows, h, w)
    assert masks.dtype == torch.bool
    for mask in masks:
        box = box_of(mask)
        assert box is not None
        _, _, height, width = box
        # Rounding moves each side by half a pixel at most.
        assert (height - 0.5) * (width - 0.5) <= 0.3 * h * w + 1e-3
        assert (height + 0.5) * (width + 0.5) >= 0.1 * h * w - 1e-3
        if 10 <= h <= 20 and 10 <= w <= 20:  # where every aspect of the interval fits
            assert (height - 0.5) / (width + 0.5) <= 1 / 0.3 + 1e-3
            assert (height + 0.5) / (width - 0.5) >= 0.3 - 1e-3


def test_boxes_come_with_their_probability_in_all_sizes_aspects_and_places() -> None:
    h, w = 40, 60
    boxes = [box_of(mask) for mask in box_masks(3000, (h, w), rng())]
    placed = [box for box in boxes if box is not None]
    assert len(placed) / len(boxes) == pytest.approx(0.5, abs=0.03)
    area = torch.tensor([height * width / (h * w) for _, _, height, width in placed])
    assert area.mean().item() == pytest.approx(0.21, abs=0.01)
    assert area.std().item() == pytest.approx(0.38 / math.sqrt(12), abs=0.01)
    # Small boxes of any aspect fit: there the drawn interval is seen undisturbed.
    small = [(height / width) for _, _, height, width in placed if height * width < 0.15 * h * w]
    assert sum(small) / len(small) == pytest.approx((0.3 + 1 / 0.3) / 2, abs=0.15)
    along_y = torch.tensor([top / (h - height) for top, _, height, _ in placed if height < h])
    along_x = torch.tensor([left / (w - width) for _, left, _, width in placed if width < w])
    for along in (along_y, along_x):
        assert along.mean().item() == pytest.approx(0.5, abs=0.04)
        assert along.min() == 0
        assert along.max() == 1


# ── ClassMix ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(sizes, st.integers(1, 12), shares, seeds)
def test_classmix_takes_half_of_the_classes_of_each_source_whole(
    size: tuple[int, int, int], classes: int, ignored: float, seed: int
) -> None:
    label = labels(size, classes, ignored, seed)
    kept = label.clone()
    masks = class_masks(label, rng(seed))
    assert torch.equal(label, kept)
    assert masks.shape == label.shape
    for mask, source in zip(masks, label, strict=True):
        chosen = set(source[mask].tolist())
        assert chosen <= classes_of(source)
        assert len(chosen) == len(classes_of(source)) // 2
        for y in range(size[1]):
            for x in range(size[2]):
                assert mask[y, x] == (source[y, x].item() in chosen)


def test_classmix_takes_each_half_equally_often() -> None:
    label = torch.tensor([0, 7, 30, 253, NOT_LABELLED, VOID], dtype=torch.uint8).expand(3000, 1, 6)
    halves = Counter(tuple(row.flatten().tolist()) for row in class_masks(label, rng()))
    assert len(halves) == 6
    assert min(halves.values()) > 400


@given(sizes, st.integers(1, 12), shares, st.integers(0, 3), st.integers(0, 3), seeds)
def test_adaptive_classmix_takes_so_many_head_and_tail_classes(
    size: tuple[int, int, int], classes: int, ignored: float, heads: int, tails: int, seed: int
) -> None:
    label = labels(size, classes, ignored, seed)
    kind = torch.randint(3, (classes,), generator=rng(seed))
    masks = adaptive_class_masks(label, kind == 0, kind == 1, rng(seed), heads, tails)
    for mask, source in zip(masks, label, strict=True):
        chosen, present = set(source[mask].tolist()), classes_of(source)
        assert torch.equal(mask, torch.isin(source, torch.tensor(sorted(chosen), dtype=torch.uint8)))
        for value, count in ((0, heads), (1, tails), (2, 0)):
            of_kind = {c for c in present if kind[c] == value}
            assert len(chosen & of_kind) == min(count, len(of_kind))
        assert chosen <= present


@pytest.mark.parametrize("blank", [NOT_LABELLED, VOID])
def test_a_source_without_a_class_gives_nothing(blank: int) -> None:
    label = torch.full((2, 5, 6), blank, dtype=torch.uint8)
    every = torch.ones(11, dtype=torch.bool)
    assert not present_classes(label).any()
    assert not class_masks(label, rng()).any()
    assert not adaptive_class_masks(label, every, every, rng()).any()


@pytest.mark.parametrize("make", [class_masks, lambda label, rng: box_masks(len(label), label.shape[1:], rng)])
def test_ignored_pixels_outside_the_mask_and_under_a_box_keep_their_values(
    make: Callable[[Tensor, torch.Generator], Tensor],
) -> None:
    label = labels((1, 12, 12), 4, 0.5, 3)
    onto = labels((1, 12, 12), 4, 0.5, 4)
    mask = make(label, rng())
    mixed = paste(mask, onto, label)
    assert mixed[mask].tolist() == label[mask].tolist()
    assert mixed[~mask].tolist() == onto[~mask].tolist()
    assert torch.equal(paste(mask, label, label[partners(torch.zeros(1, dtype=torch.int64))]), label)


# ── Head and tail ────────────────────────────────────────────────────────────────────────────────────────────────────


@given(
    st.lists(st.sampled_from([0, 1, 1, 2, 5, 30, 1000, 10**12]), min_size=1, max_size=20),
    st.sampled_from([0.0, 0.1, 0.5]),
)
def test_head_and_tail_against_a_loop(counts: list[int], share: float) -> None:
    expected_tail, pixels = set(), 0
    for index in sorted(range(len(counts)), key=lambda i: (counts[i], i)):
        pixels += counts[index]
        if counts[index] and pixels <= share * sum(counts):
            expected_tail.add(index)
    head, tail = head_and_tail(torch.tensor(counts), share)
    assert set(tail.nonzero().flatten().tolist()) == expected_tail
    assert torch.equal(head | tail, torch.tensor(counts) > 0)
    assert not (head & tail).any()
    assert head.any() or not sum(counts)


def test_the_tail_follows_the_frequencies_and_not_the_index() -> None:
    counts = torch.tensor([500, 2, 300, 0, 3, 190, 5])
    head, tail = head_and_tail(counts)
    assert tail.tolist() == [False, True, False, False, True, False, True]
    order = torch.randperm(7, generator=rng())
    for kind, moved in zip((head, tail), head_and_tail(counts[order]), strict=True):
        assert torch.equal(kind[order], moved)
    assert head_and_tail(torch.tensor([1, 1, 1, 7]), 0.2)[1].tolist() == [True, True, False, False]


# ── The buffer ───────────────────────────────────────────────────────────────────────────────────────────────────────


RARE = torch.tensor([False, False, True, False, True])


def drawn(rows: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images (B,3,4,5) and labels, of which about every second row has a rare class."""
    image = torch.randint(256, (rows, 3, 4, 5), generator=rng(seed), dtype=torch.uint8)
    label = labels((rows, 4, 5), 2, 0.3, seed)
    rare = torch.rand(rows, generator=rng(seed)) < 0.5
    label[:, 0, 0] = torch.where(rare, 4, label[:, 0, 0]).to(torch.uint8)
    return image, label


@given(st.integers(4, 7), st.lists(st.integers(1, 4), max_size=8), st.integers(0, 999))
def test_the_buffer_holds_the_last_rows_with_a_rare_class(places: int, batches: list[int], seed: int) -> None:
    buffer = ReplayBuffer.empty(places, (4, 5))
    expected: deque[tuple[Tensor, Tensor]] = deque(maxlen=places)
    for step, rows in enumerate(batches):
        image, label = drawn(rows, seed + step)
        before = [values.clone() for values in (*buffer, image, label)]
        after = remember(buffer, image, label, RARE)
        assert all(torch.equal(a, b) for a, b in zip((*buffer, image, label), before, strict=True))
        for shape, values in zip(buffer, after, strict=True):
            assert values.shape == shape.shape
            assert values.dtype == shape.dtype
        buffer = after
        expected.extend((i, k) for i, k in zip(image, label, strict=True) if classes_of(k) & {2, 4})
    held = {(i.numpy().tobytes(), k.numpy().tobytes()) for i, k in expected}
    images, targets = recall(buffer, 200, rng(seed))
    recalled = {(i.numpy().tobytes(), k.numpy().tobytes()) for i, k in zip(images, targets, strict=True)}
    if expected:
        assert recalled == held
    else:
        assert (targets == VOID).all()
        assert not class_masks(targets, rng()).any()
    assert images.shape == (200, 3, 4, 5)


def test_all_that_is_remembered_is_recalled_equally_often() -> None:
    image = torch.arange(3, dtype=torch.uint8)[:, None, None, None].expand(3, 3, 4, 5)
    buffer = remember(ReplayBuffer.empty(8, (4, 5)), image, torch.full((3, 4, 5), 2, dtype=torch.uint8), RARE)
    images, _ = recall(buffer, 3000, rng())
    assert images[:, 0, 0, 0].bincount().min() > 900


def test_the_buffer_survives_as_a_modules_state() -> None:
    class Keeper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name, values in ReplayBuffer.empty(5, (4, 5))._asdict().items():
                self.register_buffer(name, values)

        def held(self) -> ReplayBuffer:
            return ReplayBuffer(**dict(self.named_buffers()))

    one, other = Keeper(), Keeper()
    for step in range(4):
        one.image, one.label, one.seen = remember(one.held(), *drawn(3, step), RARE)
    other.load_state_dict(one.state_dict())
    for keeper in (one, other):
        keeper.image, keeper.label, keeper.seen = remember(keeper.held(), *drawn(3, 9), RARE)
    assert all(torch.equal(a, b) for a, b in zip(one.held(), other.held(), strict=True))
    assert all(
        torch.equal(a, b) for a, b in zip(recall(one.held(), 6, rng(1)), recall(other.held(), 6, rng(1)), strict=True)
    )


def test_a_batch_larger_than_the_buffer_is_our_mistake() -> None:
    with pytest.raises(AssertionError):
        remember(ReplayBuffer.empty(2, (4, 5)), *drawn(3, 0), RARE)


# ── Randomness ───────────────────────────────────────────────────────────────────────────────────────────────────────


LABEL = labels((3, 8, 9), 6, 0.25, 0)
HELD = remember(
    ReplayBuffer.empty(3, (8, 9)), torch.randint(256, (3, 3, 8, 9), dtype=torch.uint8, generator=rng()), LABEL, RARE
)


@pytest.mark.parametrize(
    "draw",
    [
        lambda rng: box_masks(3, (8, 9), rng),
        lambda rng: class_masks(LABEL, rng),
        lambda rng: adaptive_class_masks(LABEL, torch.arange(6) < 3, torch.arange(6) >= 3, rng, 1, 1),
        lambda rng: recall(HELD, 4, rng)[0],
    ],
    ids=["boxes", "classes", "adaptive", "recall"],
)
def test_draws_depend_on_the_generator_alone(draw: Callable[[torch.Generator], Tensor]) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one = draw(rng(5))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(one, draw(rng(5)))
    assert any(not torch.equal(one, draw(rng(seed))) for seed in range(6, 20))
