"""How the pool is labelled: in eval mode, by a teacher that suits the length of the training, and from which step on.

Shapes: B rows of a batch · C_k classes of domain k · H×W pixels.
"""

from __future__ import annotations

import copy
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers import domains, model, needs, relabelled, steps, train_settings
from torch import Tensor, nn

from fewmask.config import SETTINGS
from fewmask.data.batch import Batch
from fewmask.data.domain import Domain
from fewmask.labels import NOT_LABELLED
from fewmask.losses.pseudo_label import pseudo_label
from fewmask.methods import METHODS, build
from fewmask.methods.common.base import Method
from fewmask.methods.common.pool import encode_for_labels
from fewmask.methods.common.teacher import MeanTeacherMethod
from fewmask.models.universal import UniversalSegmenter

LABELS_ITSELF: dict[str, dict[str, Any]] = {
    "pseudo-label": {},
    "fixmatch": {"ema": None},
    "unimatch": {"ema": None},
    "hung2018": {"channels": 4},
    "co-training": {},
}
TAUGHT = [name for name, kind in METHODS.items() if issubclass(kind, MeanTeacherMethod)]


def made_of(name: str, of: dict[str, Domain], length: int = 100, **options: Any) -> Method:
    return build(SETTINGS[name].model_validate({"name": name, **needs(name, of), **options}), of, length)


def last_batch(made: Method, of: dict[str, Domain], network: UniversalSegmenter) -> Batch:
    """Of the method's last step, no pixel of whose pool has a label."""
    (part,) = steps(of, [p for p in made.phases(4) if p.stop > p.start], train_settings(batch_size=4), network)[3]
    label = part.label.clone()
    label[part.pool :] = NOT_LABELLED
    # The bare batch has neither the phase nor the length.
    return replace(relabelled(part, label, network), step=3, steps=4, phase=made.phases(4)[-1].name)


def network_of(of: dict[str, Domain]) -> UniversalSegmenter:
    """In train mode, with answers that differ from pixel to pixel and running statistics that no forward moves."""
    network = model(of).train()
    with torch.no_grad():
        for name, parameter in network.heads.named_parameters():
            parameter.mul_(100 if "weight" in name else 0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0
    return network


def labelled_in(
    made: Method, network: UniversalSegmenter, part: Batch, monkeypatch: pytest.MonkeyPatch
) -> list[Tensor]:
    """The logits of which a step of the method makes labels."""
    inputs: list[Tensor] = []

    def watched(logits: Tensor) -> tuple[Tensor, Tensor]:
        inputs.append(logits.detach().clone())
        return pseudo_label(logits)

    for module in [m for n, m in sys.modules.items() if n.startswith("fewmask.methods") and hasattr(m, "pseudo_label")]:
        if callable(module.pseudo_label):
            monkeypatch.setattr(module, "pseudo_label", watched)
    made.step(network, part, torch.Generator().manual_seed(1))
    return inputs


@pytest.mark.parametrize("name", METHODS)
def test_every_method_labels_the_pool_in_eval_mode(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the dropout and the batch statistics of train mode the logits would be others."""
    of = domains(3, 4)
    network = network_of(of)
    made = made_of(name, of, **LABELS_ITSELF.get(name, {}))
    made.prepare(network, torch.Generator().manual_seed(0))
    made.train()
    part = last_batch(made, of, network)
    still = copy.deepcopy(network).eval()
    logits = labelled_in(made, network, part, monkeypatch)
    assert bool(logits) == (name in LABELS_ITSELF or name in TAUGHT)
    assert network.training
    with torch.no_grad():
        features = still.encode(part.image[part.domain == 0])
        cells = still.decode(features, still.domains[0])
        expected = {tuple(v.shape[2:]): v for v in (cells, still.upsample(cells, part.size))}
    # Methods that label the pool alone have its rows of a domain, which are the last ones.
    for got in logits[:1]:
        whole = expected[tuple(got.shape[2:])]
        torch.testing.assert_close(got, whole[-len(got) :], rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("name", LABELS_ITSELF)
def test_the_sources_labels_of_the_forward_that_learns_stay_reachable(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = domains(3, 4)
    network = network_of(of)
    made = made_of(name, of, **LABELS_ITSELF[name], labels_in="train")
    made.prepare(network, torch.Generator().manual_seed(0))
    part = last_batch(made, of, network)
    still = copy.deepcopy(network).eval()
    got, *_ = labelled_in(made, network, part, monkeypatch)
    with torch.no_grad():
        expected = still(part.image[part.domain == 0], still.domains[0])[-len(got) :]
    assert (got - expected).abs().max() > 0.1


def test_features_for_labels_leave_the_network_as_it_was() -> None:
    network = model(domains(3)).train()
    network.heads.eval()
    before = {n: v.clone() for n, v in network.state_dict().items()}
    image = torch.randint(0, 256, (2, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    features = encode_for_labels(network, image)
    assert not features.requires_grad
    assert network.training
    assert network.features.training
    assert all(torch.equal(v, before[n]) for n, v in network.state_dict().items())


# ── How far a teacher lies behind ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", TAUGHT)
@pytest.mark.parametrize(("length", "momentum"), [(10_000, 0.995), (400, 0.875), (100, 0.5), (50, 0), (4, 0)])
def test_auto_ties_the_teacher_to_the_length(name: str, length: int, momentum: float) -> None:
    of = domains(3, 4)
    made = made_of(name, of, length)
    made.prepare(model(of), torch.Generator())
    assert isinstance(made, MeanTeacherMethod)
    assert made.teacher is not None
    assert made.teacher.momentum == pytest.approx(momentum)


@pytest.mark.parametrize("name", TAUGHT)
def test_a_momentum_that_is_given_stays(name: str) -> None:
    of = domains(3, 4)
    made = made_of(name, of, 4, ema=0.996)
    made.prepare(model(of), torch.Generator())
    assert isinstance(made, MeanTeacherMethod)
    assert made.teacher is not None
    assert made.teacher.momentum == 0.996


# ── When the pool's terms begin ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["fixmatch", "unimatch", "co-training"])
def test_the_pool_has_no_term_before_it_begins(name: str) -> None:
    of = domains(3, 4)
    made = made_of(name, of, 8, begin=0.5)
    before, after = made.phases(8)
    assert (before.start, before.stop, before.unlabelled, before.strong) == (0, 4, (), ())
    assert (after.start, after.stop, after.unlabelled) == (4, 8, ("a", "b"))
    network = model(of).train()
    made.prepare(network, torch.Generator().manual_seed(0))
    (part,) = steps(of, made.phases(8), train_settings(batch_size=4), network)[1]
    assert part.phase == before.name
    assert set(made.step(network, part, torch.Generator())) == {"supervised"}
