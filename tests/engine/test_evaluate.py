"""Evaluation and what a confusion matrix says.

Shapes: C classes · P columns · H×W pixels.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import helpers
import numpy as np
import pytest
import torch
from helpers import ArraySource
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from fewmask.data.domain import Domain
from fewmask.engine.evaluation import count_predictions, evaluate, same_size_batches
from fewmask.engine.metrics import confusion, mean, scores
from fewmask.labels import NOT_LABELLED, VOID, ClassMapping
from fewmask.models.universal import UniversalSegmenter
from fewmask.runs import ImageCounts, read_counts, write_counts

# ── The confusion matrix ─────────────────────────────────────────────────────────────────────────────────────────────


def looped(prediction: Tensor, label: Tensor, classes: int, columns: int) -> Tensor:
    matrix = torch.zeros(classes, columns, dtype=torch.long)
    for p, t in zip(prediction.flatten().tolist(), label.flatten().tolist(), strict=True):
        if t not in (NOT_LABELLED, VOID):
            matrix[t, p] += 1
    return matrix


@given(st.integers(1, 20), st.booleans(), st.integers(0, 2**32))
def test_the_confusion_matrix_equals_a_loop(classes: int, none: bool, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    columns = classes + none
    label = torch.randint(0, classes + 2, (2, 5, 6), generator=rng)
    label = torch.where(label >= classes, label - classes + NOT_LABELLED, label).to(torch.uint8)
    prediction = torch.randint(0, columns, (2, 5, 6), generator=rng)
    assert torch.equal(confusion(prediction, label, classes, columns), looped(prediction, label, classes, columns))


def test_254_classes_leave_254_and_255_out() -> None:
    label = torch.arange(256, dtype=torch.uint8)
    prediction = torch.arange(256).clamp_max(253)
    assert torch.equal(confusion(prediction, label, 254), torch.eye(254, dtype=torch.long))


NAMES = ["road", "sky", "car", "pole"]


def test_scores_by_hand() -> None:
    matrix = torch.tensor([[6, 2, 0, 0], [1, 3, 0, 0], [0, 0, 0, 0], [4, 0, 0, 4]])
    metrics = scores(matrix, NAMES)
    road, sky, pole = 6 / (8 + 11 - 6), 3 / (4 + 5 - 3), 4 / (8 + 4 - 4)
    assert metrics["iou"] == pytest.approx({"road": road, "sky": sky, "car": None, "pole": pole})
    assert metrics["miou"] == pytest.approx((road + sky + pole) / 3)
    assert metrics["miou_legacy"] == pytest.approx((road + sky + pole) / 4)
    assert metrics["pixel_accuracy"] == pytest.approx(13 / 20)
    assert metrics["pixels"] == 20


def test_an_absent_class_that_is_predicted_costs_the_others_but_is_no_class_of_the_mean() -> None:
    metrics = scores(torch.tensor([[5, 5], [0, 0]]), NAMES[:2])
    assert metrics["iou"] == {"road": 0.5, "sky": None}
    assert (metrics["miou"], metrics["miou_legacy"]) == (0.5, 0.25)


def test_nothing_labelled_is_no_score() -> None:
    metrics = scores(torch.zeros(3, 3, dtype=torch.long), NAMES[:3])
    assert metrics["miou"] is None
    assert metrics["pixel_accuracy"] is None
    assert metrics["iou"] == dict.fromkeys(NAMES[:3])
    assert mean([None, None]) is None
    assert mean([None, 0.5, 0.0]) == 0.25


def test_a_prediction_without_counterpart_is_a_miss_and_no_false_alarm() -> None:
    """The last column stands for source classes that mean nothing here."""
    metrics = scores(torch.tensor([[5, 0, 5], [0, 8, 2]]), NAMES[:2])
    assert metrics["iou"] == {"road": 0.5, "sky": 0.8}
    assert metrics["pixel_accuracy"] == 13 / 20


def test_classes_that_no_source_class_means_are_left_out_of_the_mean() -> None:
    matrix = torch.tensor([[5, 0, 5], [4, 0, 0]])
    metrics = scores(matrix, NAMES[:2], reachable={0})
    assert metrics["miou"] == pytest.approx(5 / 14)
    assert metrics["miou_legacy"] == pytest.approx(5 / 28)
    assert metrics["iou"]["sky"] == 0.0


def test_counts_beyond_single_precision_are_exact() -> None:
    big = 2**40
    metrics = scores(torch.tensor([[big, 1], [0, 1]]), NAMES[:2])
    assert metrics["iou"]["sky"] == 0.5
    assert metrics["iou"]["road"] == big / (big + 1)


# ── Evaluating a network ─────────────────────────────────────────────────────────────────────────────────────────────


def domain(sizes: list[tuple[int, int]], name: str = "a", classes: int = 3) -> Domain:
    """A domain whose masks can be read off the red channel, with images of these sizes in its split val."""
    rng = np.random.default_rng(0)
    images, masks = {}, {}
    for i, size in enumerate(sizes):
        mask = rng.integers(0, classes, size).astype(np.uint8)
        image = rng.integers(0, 256, (*size, 3)).astype(np.uint8)
        image[..., 0] = 50 * mask
        mask[0, : size[1] // 2] = VOID
        mask[1, : size[1] // 2] = NOT_LABELLED
        images[f"{i}"], masks[f"{i}"] = image, mask
    stems = tuple(images)
    return Domain(name, helpers.space(classes, name), ArraySource(images, masks), {"train": stems, "val": stems}, stems)


class Reader(UniversalSegmenter):
    """A network that reads the class from the red channel, at the size of the image."""

    def __init__(self, of: dict[str, Domain], wrong: int = 0) -> None:
        nn.Module.__init__(self)
        self.spaces = {n: d.space for n, d in of.items()}
        self.register_buffer("mean", torch.zeros(1))
        self.wrong = wrong
        self.shapes: list[tuple[int, ...]] = []
        self.modes: list[bool] = []

    def forward(self, image: Tensor, domain: str) -> Tensor:
        self.shapes.append(tuple(image.shape))
        self.modes.append(self.training)
        classes = self.spaces[domain].num_classes
        answer = (image[:, 0].long() // 50 + self.wrong) % classes
        return torch.nn.functional.one_hot(answer, classes).permute(0, 3, 1, 2).float()


SIZES = [(40, 48)] * 3 + [(37, 51), (40, 48), (9, 200), (9, 200)]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_every_image_is_scored_once_at_its_own_size(workers: int, batch_size: int) -> None:
    of = {"a": domain(SIZES)}
    network = Reader(of)
    matrix = count_predictions(
        network, of["a"], "val", batch_size=batch_size, workers=workers, precision="fp32"
    ).confusion
    expected = [int((m < NOT_LABELLED).sum()) for m in of["a"].source.masks.values()]  # type: ignore[attr-defined]
    assert int(matrix.sum()) == int(matrix.diagonal().sum()) == sum(expected)
    assert sorted(s[2:] for s in network.shapes for _ in range(s[0])) == sorted(SIZES)
    assert max(s[0] for s in network.shapes) <= batch_size


def test_a_real_network_takes_every_size_and_the_batch_size_does_not_matter() -> None:
    of = {"a": domain(SIZES)}
    network = helpers.model(of)
    one, many = (count_predictions(network, of["a"], "val", batch_size=b, workers=0, precision="fp32") for b in (1, 4))
    assert torch.equal(one.confusion, many.confusion)
    assert torch.equal(one.images, many.images)
    network.eval()
    source, looping = of["a"].source, []
    for stem in of["a"].splits["val"]:
        with torch.no_grad():
            logits = network(torch.from_numpy(source.image(stem)).permute(2, 0, 1)[None], "a")
        label = torch.from_numpy(source.mask(stem))
        assert logits.shape[2:] == label.shape
        looping.append(looped(logits.argmax(1), label, 3, 3))
    assert torch.equal(one.confusion, torch.stack(looping).sum(0))
    assert torch.equal(one.images, torch.stack([torch.stack([m.diagonal(), m.sum(1), m.sum(0)], 1) for m in looping]))


@pytest.mark.parametrize("training", [False, True])
def test_evaluation_is_in_eval_mode_and_leaves_the_mode_as_it_was(training: bool) -> None:
    of = {"a": domain(SIZES)}
    network = Reader(of).train(training)
    count_predictions(network, of["a"], "val", workers=0)
    assert not any(network.modes)
    assert network.training == training
    real = helpers.model(of).train(training)
    before = {n: v.clone() for n, v in real.state_dict().items()}
    count_predictions(real, of["a"], "val", workers=0)
    assert helpers.same(before, real.state_dict())


def test_another_domains_head_through_a_mapping() -> None:
    """Head b has 5 classes: 0 and 1 mean the first here, 2 the second, 3 and 4 nothing; the third is never meant."""
    target = domain([(20, 20)] * 2)
    source = replace(domain([(20, 20)], "b", 5), name="b")
    names = {"b0": "a0", "b1": "a0", "b2": "a1", "b3": None, "b4": None}
    mapping = ClassMapping.by_name(source.space, target.space, names)
    network = Reader({"a": target, "b": source}, wrong=1)  # where the mask says 0, 1, 2 it answers b1, b2, b3
    matrix = count_predictions(network, target, "val", head="b", mapping=mapping, workers=0).confusion
    pixels = [sum(int((m == c).sum()) for m in target.source.masks.values()) for c in range(3)]  # type: ignore[attr-defined]
    assert matrix.tolist() == [[pixels[0], 0, 0, 0], [0, pixels[1], 0, 0], [0, 0, 0, pixels[2]]]
    metrics = scores(matrix, target.space.names, mapping.reachable)
    assert metrics["miou"] == 1.0
    assert metrics["iou"] == {"a0": 1.0, "a1": 1.0, "a2": 0.0}
    assert metrics["pixel_accuracy"] == (pixels[0] + pixels[1]) / sum(pixels)


def test_shared_and_private_classes_have_means_of_their_own() -> None:
    one, other = domain([(20, 20)] * 2), domain([(20, 20)], "b", 4)
    of = {"a": one, "b": other}
    metrics = evaluate(Reader(of), of, "val", synonyms=[["a0", "b1"], ["a2", "b2"]], workers=0)
    assert metrics["avg_miou"] == 1.0
    assert metrics["domains"]["a"]["miou_shared"] == metrics["domains"]["a"]["miou_private"] == 1.0
    wrong = Reader(of)
    wrong.forward = (
        lambda image, domain: (
            torch.eye(of[domain].space.num_classes)[1]
            .view(1, -1, 1, 1)
            .expand(  # type: ignore[method-assign]
                len(image), -1, *image.shape[2:]
            )
        )
    )  # always class 1
    metrics = evaluate(wrong, of, "val", synonyms=[["a0", "b1"], ["a2", "b2"]], workers=0)["domains"]
    assert metrics["a"]["miou_shared"] == 0.0
    assert metrics["a"]["miou_private"] == metrics["a"]["iou"]["a1"] > 0.2
    assert metrics["b"]["miou_shared"] == metrics["b"]["iou"]["b1"] / 2
    assert metrics["b"]["miou_private"] == 0.0
    assert "miou_shared" not in evaluate(Reader({"a": one}), {"a": one}, "val", workers=0)["domains"]["a"]


def test_a_domain_without_the_split_is_left_out_of_the_scores_and_asking_for_it_alone_is_an_error() -> None:
    of = {"a": domain([(20, 20)]), "b": replace(domain([(20, 20)], "b"), splits={"train": ("0",)})}
    assert set(evaluate(Reader(of), of, "val", workers=0)["domains"]) == {"a"}
    with pytest.raises(ValueError, match="domain b: no images in split 'val'; it has train"):
        count_predictions(Reader(of), of["b"], "val")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_mask_of_another_size_is_named_plainly(workers: int) -> None:
    """Also where a loader's process finds it: without its traceback."""
    one = domain([(20, 20)] * 3)
    one.source.masks["1"] = np.zeros((20, 21), np.uint8)  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"^images/1.png: image \(20, 20\) and mask \(20, 21\) differ in size"):
        count_predictions(Reader({"a": one}), one, "val", workers=workers)


@given(st.lists(st.integers(0, 2**31), min_size=18, max_size=18), st.text("aö/. ", min_size=1))
def test_counts_of_images_come_back_from_the_disk_and_give_the_scores(numbers: list[int], name: str) -> None:
    matrices = torch.tensor(numbers).view(2, 3, 3)
    images = torch.stack([matrices.diagonal(0, 1, 2), matrices.sum(2), matrices.sum(1)], 2)
    kept = ImageCounts(np.array(["eins", "zwei/ö"]), images.numpy(), matrices.sum(0).numpy())
    with tempfile.TemporaryDirectory() as folder:
        write_counts(Path(folder) / "scores.npz", {name: kept, "b": kept})
        counts = read_counts(Path(folder) / "scores.npz")
    assert list(counts) == [name, "b"]
    for part in counts.values():
        assert part.stems.tolist() == ["eins", "zwei/ö"]
        assert np.array_equal(part.counts, kept.counts)
        assert np.array_equal(part.confusion, kept.confusion)
        of_all = [np.nan if v is None else v for v in scores(matrices.sum(0), ["x", "y", "z"])["iou"].values()]
        assert part.iou.tolist() == pytest.approx(of_all, nan_ok=True)


def test_a_damaged_file_of_counts_is_named(tmp_path: Path) -> None:
    file = tmp_path / "scores.npz"
    kept = ImageCounts(np.array(["0"]), np.ones((1, 2, 3), np.int64), np.ones((2, 2), np.int64))
    write_counts(file, {"a": kept})
    for damaged in (file.read_bytes()[:80], b"", b"nothing of the kind"):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"scores.npz: damaged .* `fewmask evaluate` counts again"):
            read_counts(file)


def test_progress_ends_with_all_images() -> None:
    of = {"a": domain(SIZES)}
    calls: list[tuple[int, int]] = []
    count_predictions(
        Reader(of), of["a"], "val", batch_size=2, workers=0, progress=lambda done, total: calls.append((done, total))
    )
    assert calls[-1] == (7, 7)
    assert [d for d, _ in calls] == sorted({d for d, _ in calls})


@given(st.lists(st.integers(0, 2)), st.integers(1, 4))
def test_batches_are_of_one_size_in_order_and_complete(sizes: list[int], batch_size: int) -> None:
    items = list(enumerate(sizes))
    batches = list(same_size_batches(iter(items), batch_size, size=lambda item: item[1]))
    assert [item for batch in batches for item in batch] == items
    assert all(len({s for _, s in batch}) == 1 and len(batch) <= batch_size for batch in batches)
