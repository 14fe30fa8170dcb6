"""Joint mini-batches are a function of (seed, step, row), whoever draws them and in whatever parts.

Shapes: B rows · h×w pixels of a crop · K domains.
"""

from __future__ import annotations

import pickle
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ArraySource, domain, domains, model, space, steps, train_settings
from hypothesis import given, settings
from hypothesis import strategies as st
from ondisk import run_python

from fewmask.data.batch import Batch, Phase, count_pixels
from fewmask.data.batches import loader
from fewmask.data.domain import Domain
from fewmask.data.drawing import answered_share
from fewmask.labels import NOT_LABELLED, VOID
from fewmask.models.universal import at_stride


def both(of: dict[str, Domain], stop: int = 50) -> list[Phase]:
    return [Phase("train", 0, stop, tuple(of), tuple(of))]


def equal(one: Batch, other: Batch) -> bool:
    return (
        torch.equal(one.image, other.image)
        and torch.equal(one.label, other.label)
        and torch.equal(one.domain, other.domain)
        and one.names == other.names
        and all(torch.equal(one.counts[s].table(), other.counts[s].table()) for s in one.counts)
        and (one.step, one.steps) == (other.step, other.steps)
    )


def test_a_step_does_not_depend_on_what_was_drawn_before() -> None:
    of = domains(3, 4)
    forward = steps(of, both(of))
    batches = [forward[s][0] for s in range(12)]
    for s in (11, 3, 7, 3):
        assert equal(steps(of, both(of))[s][0], batches[s])
    assert not equal(batches[3], batches[4])
    assert not equal(steps(of, both(of), seed=1)[3][0], batches[3])


def test_the_loader_yields_the_same_steps_from_any_step_on_with_any_workers() -> None:
    of = domains(3, 4)
    data = steps(of, both(of, stop=6))
    for workers, first in ((0, 0), (2, 0), (2, 4)):
        got = [parts[0] for parts in loader(data, first, workers)]
        assert len(got) == 6 - first
        assert all(equal(part, data[first + i][0]) for i, part in enumerate(got))


@pytest.mark.parametrize(("world", "accumulate"), [(1, 2), (2, 1), (2, 2), (4, 1)])
def test_the_parts_of_all_processes_are_the_global_batch(world: int, accumulate: int) -> None:
    of = domains(3, 4, 2)
    network = model(of)
    rows = {"batch_size": 8, "unlabelled_batch_size": 4}
    split = train_settings(accumulate=accumulate, **rows)
    for step in (0, 5, 17):
        (whole,) = steps(of, both(of), train_settings(**rows), network)[step]
        parts = [
            part for rank in range(world) for part in steps(of, both(of), split, network, rank=rank, world=world)[step]
        ]
        assert len(parts) == world * accumulate
        share, extra = 8 // len(parts), 4 // len(parts)
        labelled = [slice(0, share), slice(0, 8)]
        unlabelled = [slice(share, share + extra), slice(8, 12)]
        for of_part, of_whole in (labelled, unlabelled):
            for field in ("image", "label", "domain"):
                union = torch.cat([getattr(p, field)[of_part] for p in parts])
                assert torch.equal(union, getattr(whole, field)[of_whole])
            assert [n for p in parts for n in p.names[of_part]] == list(whole.names[of_whole])
        for stride, count in whole.counts.items():
            assert torch.equal(torch.stack([p.counts[stride].table() for p in parts]).sum(0), count.table())


def test_rows_that_do_not_divide_are_refused() -> None:
    of = domains(3)
    with pytest.raises(ValueError, match=r"train.batch_size 4 does not divide over 3 processes × 1 .*multiple of 3"):
        steps(of, both(of), world=3)


@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 7), st.booleans())
@settings(max_examples=20)
def test_every_epoch_of_a_domain_visits_each_image_once(rows: int, count: int, images: int, labelled: bool) -> None:
    of = {
        n: domain(n, 2, images=images + i, labelled=images + i if labelled else 1) for i, n in enumerate("abcd"[:count])
    }
    phase = Phase("train", 0, 400, tuple(of)) if labelled else Phase("train", 0, 400, ("a",), tuple(of))
    data = steps(of, [phase], train_settings(batch_size=rows, unlabelled_batch_size=rows))
    needed = -(-3 * (images + count) * count // rows)
    drawn: dict[str, list[str]] = {n: [] for n in of}
    for step in range(needed):
        for _, name, stem, _ in data._draw(step, tuple(of), 0, False if labelled else None):
            drawn[name].append(stem)
    for name, stems in drawn.items():
        stock = of[name].labelled if labelled else of[name].unlabelled or of[name].splits["train"]
        epochs = [stems[i : i + len(stock)] for i in range(0, len(stems), len(stock))]
        assert len(epochs) >= 3
        for epoch in epochs[:-1]:
            assert Counter(epoch) == Counter(stock)
        if len(stock) > 5:
            assert epochs[0] != epochs[1]


def test_every_stock_of_every_domain_has_an_order_of_its_own() -> None:
    """Or the i-th labelled image would meet the i-th of the pool in every epoch."""
    of = {n: domain(n, 2, images=12, labelled=12) for n in "ab"}
    of = {n: replace(d, partial=dict.fromkeys(d.labelled[::2], 0.5)) for n, d in of.items()}
    data = steps(of, both(of))
    orders = []
    for whole in (False, None):
        rows = [row for step in range(30) for row in data._draw(step, tuple(of), 0, whole)]
        for name, d in of.items():
            for stock in (d.whole, tuple(d.partial)):
                drawn = [stem for _, owner, stem, _ in rows if owner == name and stem in stock]
                orders += [tuple(stock.index(stem) for stem in drawn[:6])] if drawn else []
    assert len(orders) == 6
    assert all(sorted(order) == [*range(6)] for order in orders)
    assert len(set(orders)) == 6


def test_domains_take_equal_turns_whatever_their_size() -> None:
    of = {"large": domain("large", 3, images=40, labelled=30), "small": domain("small", 3, images=4, labelled=1)}
    data = steps(of, both(of))
    counts = Counter(int(k) for s in range(10) for k in data[s][0].domain)
    assert counts == {0: 40, 1: 40}


def test_fully_labelled_domains_serve_their_images_as_unlabelled_ones_too() -> None:
    of = {"a": domain("a", 3, images=4, labelled=4)}
    (part,) = steps(of, both(of))[0]
    assert part.has_label.tolist() == [True] * 4 + [False] * 4
    assert part.has_unlabelled.tolist() == [False] * 4 + [True] * 4


def test_phases_draw_from_their_own_domains() -> None:
    of = domains(3, 4, 2)
    data = steps(of, [Phase("one", 0, 2, ("b",)), Phase("two", 2, 4, ("a", "c"), ("b",))])
    assert data[1][0].domain.tolist() == [1] * 4
    assert data[2][0].domain.tolist() == [0, 2, 0, 2, 1, 1, 1, 1]
    assert data[2][0].has_label.tolist() == [True] * 4 + [False] * 4


@given(seed=st.integers(0, 99), few=st.integers(0, 20), more=st.integers(0, 20))
def test_labelled_images_of_one_seed_are_nested(seed: int, few: int, more: int) -> None:
    of = domain("a", images=25, labelled=20)
    drawn, others = (of.with_labelled(count, seed).labelled for count in (few, more))
    assert len(drawn) == few
    assert set(drawn) <= set(others) or set(others) <= set(drawn)
    assert list(drawn) == [stem for stem in of.labelled if stem in drawn]


@pytest.mark.parametrize(
    ("whole", "answered", "labelled_fraction", "share"),
    [(2, 0, 0.0, 0.0), (0, 5, 0.1, 1.0), (30, 10, 0.001, 0.2), (30, 1, 0.001, 1 / 31), (10, 40, 0.9, 36 / 46)],
)
def test_the_rows_of_images_with_a_few_answers(
    whole: int, answered: int, labelled_fraction: float, share: float
) -> None:
    of = domain("a", images=whole + answered, labelled=whole + answered)
    assert answered_share(replace(of, partial=dict.fromkeys(of.labelled[whole:], labelled_fraction))) == pytest.approx(
        share
    )


def test_a_phase_without_labelled_images_is_refused_by_name() -> None:
    of = {"a": domain("a"), "bare": domain("bare", labelled=0)}
    with pytest.raises(ValueError, match="domains without a labelled image in train: bare; label one"):
        steps(of, both(of))
    steps(of, [Phase("train", 0, 4, ("a",), ("a", "bare"))])[0]


def test_cells_are_counted_by_domain_and_stride() -> None:
    of = domains(3, 4, 2)
    network = model(of)
    (part,) = steps(of, both(of), train_settings(batch_size=3), network)[2]
    assert set(part.counts) == {1, network.stride, network.embedding_stride}
    for stride, counts in part.counts.items():
        label = at_stride(part.label, stride, network.multiple)
        for k in range(3):
            own = label[part.domain == k].flatten().tolist()
            pool = label[part.pool :][part.domain[part.pool :] == k].flatten().tolist()
            assert counts.table()[:, k].tolist() == [
                sum(condition(v) for v in values)
                for values in (own, pool)
                for condition in (lambda v: v < NOT_LABELLED, lambda v: v == NOT_LABELLED)
            ] + [sum(v < NOT_LABELLED for v in own)]
    assert count_pixels(torch.full((1, 2, 2), VOID), torch.tensor([1]), 2, 0).table().tolist() == [[0, 0]] * 5


@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    strides=st.sampled_from([(2, 4), (4, 4), (8, 16), (16, 16), (4, 14), (8, 32)]),
)
def test_cells_are_those_of_the_label_padded_with_void(size: tuple[int, int], strides: tuple[int, int]) -> None:
    stride, multiple = strides
    label = torch.arange(size[0] * size[1], dtype=torch.uint8).reshape(1, *size) % 200
    padded = torch.full((1, *(-(-side // multiple) * multiple for side in size)), VOID, dtype=torch.uint8)
    padded[:, : size[0], : size[1]] = label
    expected = padded[:, stride // 2 :: stride, stride // 2 :: stride]
    assert torch.equal(at_stride(label, stride, multiple), expected)


def test_a_worker_sends_few_tensors_and_all_of_the_batch() -> None:
    """torch opens a file and a connection for every tensor that a worker sends."""
    of = domains(3, 4)
    of["a"] = replace(of["a"], partial={of["a"].labelled[0]: 0.25})
    (part,) = steps(of, both(of), train_settings(batch_size=3))[2]
    assert part.pixel_weight is not None
    pickled = pickle.dumps(part)
    sent = part.__getstate__()
    assert {name for name, value in sent.items() if isinstance(value, torch.Tensor)} == {"image", "label"}
    assert all(isinstance(table, np.ndarray) for table in sent["counts"].values())
    copied = pickle.loads(pickled)  # noqa: S301
    assert equal(copied, part)
    assert copied.image.stride() == part.image.stride()
    for name in ("has_label", "has_unlabelled", "pixel_weight"):
        assert torch.equal(getattr(copied, name), getattr(part, name))
    assert torch.equal(copied.without_pool().counts[1].table(), part.without_pool().counts[1].table())


def test_a_step_does_not_go_through_all_images_of_a_domain() -> None:
    class Counted(dict[str, float]):
        asked = 0

        def __contains__(self, stem: object) -> bool:
            Counted.asked += 1
            return super().__contains__(stem)

    of = {"a": domain("a", images=60, labelled=40)}
    of["a"] = replace(of["a"], partial=Counted({of["a"].labelled[0]: 0.5}))
    drawn = steps(of, both(of), train_settings(batch_size=3))
    drawn[0]
    Counted.asked = 0
    drawn[1]
    assert 0 < Counted.asked <= 2 * 3  # one question for each row


def test_the_rows_of_the_pool_and_those_without_it() -> None:
    of = domains(3, 4)
    (part,) = steps(of, both(of), train_settings(batch_size=6, unlabelled_batch_size=4))[1]
    for k, rows in part.pool_rows().items():
        assert (part.domain[part.pool :][rows] == k).all()
    assert sum(map(len, part.pool_rows().values())) == 4
    alone = part.without_pool()
    assert torch.equal(alone.image, part.image[:6])
    assert torch.equal(alone.label, part.label[:6])
    assert len(alone.domain) == len(alone.has_label) == len(alone.has_unlabelled) == len(alone.names) == alone.pool == 6
    assert torch.equal(alone.counts[1].table(), count_pixels(alone.label, alone.domain, 2, 6).table())
    assert not alone.pool_rows()
    assert alone.strong is None


def partly_labelled(labelled_fraction: float) -> dict[str, Domain]:
    """Two wholly labelled images, and six of which the upper part is labelled."""
    of = domain("a", 2, images=8, labelled=8)
    source = of.source
    assert isinstance(source, ArraySource)
    rows = round(labelled_fraction * source.masks["a-0"].shape[0])
    masks = {stem: mask.copy() for stem, mask in source.masks.items()}
    for stem in of.labelled[2:]:
        masks[stem][rows:] = NOT_LABELLED
    share = rows / source.masks["a-0"].shape[0]
    return {
        "a": replace(of, source=replace(source, masks=masks), partial=dict.fromkeys(of.labelled[2:], share)),
        "b": domain("b", 3),
    }


def test_every_labelled_pixel_counts_alike_whether_its_image_is_wholly_labelled_or_not() -> None:
    """Over an epoch of rows, by how often it is drawn and what it counts there; its row says so, others count 1."""
    of = partly_labelled(1 / 2)
    settings = train_settings(batch_size=4, unlabelled_batch_size=2, crop=(40, 52), augment={"scale": (1, 1)})
    data = steps(of, [Phase("train", 0, 200, ("a",), ("a",))], settings)
    weight = dict.fromkeys(of["a"].labelled, 0.0)
    for step in range(100):
        (part,) = data[step]
        stems = [name.rpartition("/")[2].removesuffix(".png") for name in part.names]
        worth = torch.ones(len(stems)) if part.pixel_weight is None else part.pixel_weight
        shares = [of["a"].partial.get(s, 1.0) if i < part.pool else 1.0 for i, s in enumerate(stems)]
        torch.testing.assert_close(worth, 1 / torch.tensor(shares))
        counted = (part.label < NOT_LABELLED).sum((1, 2))
        for i, stem in enumerate(stems[: part.pool]):
            weight[stem] += float(worth[i] * counted[i])
        assert part.counts[1].weighted[0] == (counted * worth).sum()
        assert part.without_pool().counts[1].weighted[0] == (counted * worth)[: part.pool].sum()
    each = {stem: value / (of["a"].mask(stem) < NOT_LABELLED).sum() for stem, value in weight.items()}
    assert list(each.values()) == pytest.approx([each["a-0"]] * 8, rel=0.02)
    (plain,) = steps(of, [Phase("train", 0, 9, ("b",))], settings)[0]
    assert plain.pixel_weight is None


def test_rows_are_grouped_by_domain_in_order_and_tell_what_they_hold() -> None:
    of = domains(3, 4, 2)
    (part,) = steps(of, both(of), train_settings(batch_size=6))[0]
    assert list(part.labelled_rows()) == [0, 1, 2]
    for rows, flag in ((part.labelled_rows(), part.has_label), (part.unlabelled_rows(), part.has_unlabelled)):
        for k, index in rows.items():
            assert (part.domain[index] == k).all()
            assert flag[index].all()
            assert index.tolist() == sorted(index.tolist())
        assert sum(map(len, rows.values())) == flag.sum()


def test_a_row_with_a_part_of_its_labels_is_labelled_and_unlabelled() -> None:
    d = domain("a", 3, images=2, labelled=2)
    assert isinstance(d.source, ArraySource)
    masks = {
        s: np.where(np.arange(m.shape[1]) < 26, m, NOT_LABELLED).astype(np.uint8) for s, m in d.source.masks.items()
    }
    of = {"a": replace(d, source=ArraySource(d.source.images, masks))}
    flat = train_settings(crop=(40, 52), augment={"scale": (1, 1)})
    (part,) = steps(of, [Phase("train", 0, 1, ("a",))], flat)[0]
    assert part.has_label.all()
    assert part.has_unlabelled.all()
    assert part.counts[1].table().flatten().tolist() == [4 * 26 * 37, 4 * 26 * 40, 0, 0, 4 * 26 * 37]


def test_unlabelled_rows_are_not_labelled_inside_the_image_and_void_around_it() -> None:
    of = {"a": domain("a", size=(20, 24))}
    flat = train_settings(augment={"scale": (1, 1)})
    (part,) = steps(of, both(of), flat)[0]
    unlabelled = part.label[~part.has_label]
    assert ((unlabelled == NOT_LABELLED).sum((1, 2)) == 20 * 24).all()
    assert ((unlabelled == VOID).sum((1, 2)) == 32 * 32 - 20 * 24).all()


def test_images_are_channels_last_and_batches_stay_on_the_cpu_without_a_copy() -> None:
    of = domains(3)
    (part,) = steps(of, both(of))[0]
    assert part.image.dtype == part.label.dtype == torch.uint8
    assert part.image.is_contiguous(memory_format=torch.channels_last)
    assert part.to(torch.device("cpu")) is part


def test_a_mask_of_another_size_is_named() -> None:
    source = ArraySource({"x": np.zeros((20, 30, 3), np.uint8)}, {"x": np.zeros((20, 31), np.uint8)})
    of = {"camvid": Domain("camvid", space(2), source, {"train": ("x",)}, ("x",))}
    with pytest.raises(ValueError, match=r"camvid: images/x\.png is 30×20 but its mask 31×20; make them equal"):
        steps(of, [Phase("train", 0, 1, ("camvid",))])[0]


def test_a_worker_whose_run_was_killed_as_it_started_ends(tmp_path: Path) -> None:
    code = """
import os, sys, time
from fewmask.data import batches
if os.fork() == 0:  # a worker that starts after its run is gone
    batches._leave_with(int(sys.argv[1]), "fork", 0)
    open(sys.argv[2], "w").close()
    os._exit(0)
batches._leave_with(os.getppid(), "fork", 0)  # a worker of a run that is there goes on
assert os.wait()[1] >> 8 == 1
print("went on")
"""
    done = run_python(code, 1, tmp_path / "stayed")
    assert done.stdout == "went on\n", done.stderr
    assert not (tmp_path / "stayed").exists()


def test_images_with_a_few_answers_are_drawn_for_what_is_labelled_of_them() -> None:
    few = domain("a", 2, images=9, labelled=9)
    few = replace(few, partial=dict.fromkeys(few.labelled[2:], 2 / 21))  # 2/3 of an image beside two whole ones
    assert answered_share(few) == pytest.approx(1 / 4)
    data = steps({"a": few}, [Phase("train", 0, 40, ("a",))], train_settings(batch_size=2))
    drawn = [stem for step in range(28) for _, _, stem, _ in data._draw(step, ("a",), 0, False)]
    assert Counter(drawn) == dict.fromkeys(few.whole, 21) | dict.fromkeys(few.labelled[2:], 2)
    assert all(sum(stem in few.partial for stem in drawn[i : i + 4]) == 1 for i in range(0, 56, 4))
    whole = [stem for step in range(4) for _, _, stem, _ in data._draw(step, ("a",), 0, True)]
    assert set(whole) == set(few.whole)
    pool = [stem for step in range(7) for _, _, stem, _ in data._draw(step, ("a",), 0, None)]
    assert Counter(pool[:7]) == dict.fromkeys(few.unlabelled, 1)
