"""Train on X, score on Y: through a mapping of classes, and with a new head on the frozen network.

Shapes: H×W pixels · C classes.
"""

from __future__ import annotations

from dataclasses import replace

import helpers
import numpy as np
import pytest
import torch

from fewmask.engine.fit import NonFiniteError
from fewmask.engine.transfer import through_mapping, with_new_head
from fewmask.labels import NOT_LABELLED, LabelSpace, distinct_colour
from fewmask.models.universal import UniversalSegmenter


def named(*names):
    return LabelSpace(names, tuple(distinct_colour(i) for i in range(len(names))), {i: i for i in range(len(names))})


SOURCE = named("road", "lane", "sky", "cat")
TARGET = named("street", "sky", "house", "boat")
WORDS = {"road": "street", "lane": "street", "cat": None}


@pytest.fixture(scope="module")
def target():
    """Six labelled images for training and three for validation; 'boat' occurs nowhere in validation."""
    made = helpers.domain("y", classes=4, images=9, labelled=9)
    stems = made.splits["train"]
    made.source.masks.update({s: np.where(made.mask(s) == 3, 2, made.mask(s)).astype(np.uint8) for s in stems[6:]})
    return replace(made, space=TARGET, splits={"train": stems[:6], "val": stems[6:]}, labelled=stems[:6])


@pytest.fixture
def model():
    return UniversalSegmenter(helpers.model_settings(), {"x": SOURCE, "other": helpers.space(3)}, seed=2).eval()


@pytest.fixture
def varied(model, target):
    """The model with a head that answers with every class somewhere."""
    image = torch.from_numpy(target.image(target.splits["val"][0])).permute(2, 0, 1)[None]
    with torch.no_grad():
        head = model.heads[next(iter(model.heads))]
        head.bias.sub_(head(model.encode(image)).mean((0, 2, 3)))
    return model


def by_loop(model, target, table):
    """IoU of each target class from the definition, over sets of pixels; None for a class that does not occur."""
    label, predicted = [], []
    for stem in target.splits["val"]:
        image = torch.from_numpy(target.image(stem)).permute(2, 0, 1)[None]
        with torch.inference_mode():
            predicted += [table[int(i)] for i in model(image, "x").argmax(1).flatten()]
        label += [int(v) for v in target.mask(stem).flat]
    ious = []
    for c in range(target.space.num_classes):
        true = {i for i, v in enumerate(label) if v == c}
        mine = {i for i, v in enumerate(predicted) if v == c and label[i] < NOT_LABELLED}
        ious.append(len(true & mine) / len(true | mine) if true else None)
    return ious


def test_a_mapping_scores_what_the_source_can_name(varied, target):
    result = through_mapping(varied, "x", target, WORDS, "val", workers=0, precision="fp32")
    scores = result["domains"]["y"]
    expected = by_loop(varied, target, (0, 0, 1, None))
    assert expected[0] > 0 and expected[1] > 0, "the toy would hide a mistake"
    assert scores["iou"] == {
        "street": pytest.approx(expected[0], abs=2e-3),
        "sky": pytest.approx(expected[1], abs=2e-3),
        "house": None,
        "boat": None,
    }
    assert scores["unreachable"] == ["house", "boat"]
    assert scores["without_counterpart"] == ["cat"]
    assert scores["classes"] == {"road": "street", "lane": "street", "sky": "sky"}
    assert scores["miou"] == pytest.approx((expected[0] + expected[1]) / 2, abs=2e-3)
    # house occurs and cannot be named; boat does not occur
    assert scores["miou_present"] == pytest.approx((expected[0] + expected[1] + 0) / 3, abs=2e-3)
    assert result["avg_miou"] == scores["miou"]
    assert (scores["split"], scores["images"], scores["head"]) == ("val", 3, "x")


def test_an_identical_space_maps_to_itself(varied, target):
    same = replace(target, space=SOURCE)
    scores = through_mapping(varied, "x", same, None, "val", workers=0, precision="fp32")["domains"]["y"]
    assert scores["unreachable"] == scores["without_counterpart"] == []
    assert scores["miou"] == scores["miou_present"]


@pytest.mark.parametrize(
    ("head", "names", "message"),
    [
        ("z", WORDS, "no domain 'z'.*x, other"),
        ("x", {"road": "street"}, "lane: say which class.*cat: say which class"),
        ("x", {**WORDS, "cat": "dog"}, "no class 'dog'"),
        ("x", {**WORDS, "dog": None}, "no class 'dog'"),
        ("x", dict.fromkeys(SOURCE.names), "map at least one"),
    ],
)
def test_a_mapping_that_leaves_something_open_is_refused(model, target, head, names, message):
    with pytest.raises(ValueError, match=message):
        through_mapping(model, head, target, names, "val")


def test_a_split_that_is_absent_is_refused_before_any_training(model, target):
    for way in (lambda: through_mapping(model, "x", target, WORDS, "test"), lambda: train(model, target, split="test")):
        with pytest.raises(ValueError, match=r"no images in split 'test'.*train, val"):
            way()


def train(model, target, steps=25, split="val", seed=0, **changes):
    settings = helpers.train_settings(**{"workers": 0, "precision": "fp32", "optimiser": {"head_lr": 0.3}, **changes})
    return with_new_head(model, target, steps=steps, settings=settings, seed=seed, split=split)


def test_a_new_head_learns_and_the_network_stays_what_it_was(model, target):
    model.train()  # not even the statistics of batch normalisation may move
    before = {name: value.clone() for name, value in model.state_dict().items()}
    needed = [p.requires_grad for p in model.parameters()]
    result = train(model, target)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert model.training and [p.requires_grad for p in model.parameters()] == needed
    assert all(p.grad is None for p in model.parameters())
    assert model.domains == ("x", "other")
    scores = result["domains"]["y"]
    # of four classes, chance has an IoU of about 1/7 each
    assert scores["miou"] > 0.4
    assert scores["miou"] > train(model, target, steps=1)["domains"]["y"]["miou"] + 0.1
    assert result["loss"][1] < result["loss"][0]
    assert scores["iou"]["boat"] is None
    assert result["avg_miou"] == scores["miou"]
    assert (scores["labelled"], scores["steps"], scores["split"]) == (6, 25, "val")


def test_the_new_head_is_trained_in_the_network_as_it_is_used(model, target):
    """F's features in training are those of evaluation: one step on a batch gives the loss of the eval-mode network."""
    result = train(model, target, steps=1)
    model.train()
    assert train(model, target, steps=1)["loss"] == result["loss"]


def test_the_seed_decides_the_new_head(model, target):
    torch.manual_seed(0)
    state = torch.get_rng_state()
    one = train(model, target, steps=3)
    assert torch.equal(torch.get_rng_state(), state), "a global generator was drawn from"
    torch.manual_seed(1)
    assert train(model, target, steps=3) == one
    assert train(model, target, steps=3, seed=1)["loss"] != one["loss"]


def test_parts_of_a_batch_add_up_to_the_batch(model, target):
    whole = train(model, target, steps=3, accumulate=1)
    assert train(model, target, steps=3, accumulate=4)["loss"] == pytest.approx(whole["loss"], rel=1e-4)


def test_a_target_without_labels_is_refused(model, target):
    with pytest.raises(ValueError, match="without a labelled image"):
        train(model, replace(target, labelled=()))


def test_a_loss_that_is_not_finite_stops(model, target):
    with torch.no_grad():
        model.features.encoder.get_parameter(next(iter(dict(model.features.encoder.named_parameters())))).fill_(
            float("nan")
        )
    with pytest.raises(NonFiniteError, match="step 0: the loss is"):
        train(model, target, steps=2)
