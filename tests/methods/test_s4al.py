"""S4AL: when its adaptive ClassMix begins, and its memory of rare rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import ArraySource, domains, model, run, same, steps, train_settings
from semi_supervised import STRONG, method, rng

from fewmask.data.domain import Domain
from fewmask.labels import NOT_LABELLED, VOID
from fewmask.methods.common.replay import Replay


def with_answered_squares(of: dict[str, Domain]) -> dict[str, Domain]:
    """One more image of each domain has an answered square."""
    out = {}
    for name, d in of.items():
        assert isinstance(d.source, ArraySource)
        stem = d.splits["train"][-1]
        mask = np.full((40, 52), NOT_LABELLED, np.uint8)
        mask[8:24, 8:24] = 1
        source = ArraySource(d.source.images, {**d.source.masks, stem: mask})
        out[name] = replace(d, source=source, labelled=(*d.labelled, stem), partial={stem: 256 / (40 * 52)})
    return out


def test_adaptive_classmix_begins_when_regions_have_been_asked_for() -> None:
    plain = domains(3, 4)
    for adaptive, of, expected in [
        ("auto", plain, False),
        ("auto", with_answered_squares(plain), True),
        ("always", plain, True),
        ("never", with_answered_squares(plain), False),
    ]:
        made = method("s4al", of, adaptive=adaptive)
        history = run(made, model(of), of, 3)
        assert ("replay" in history[-1]) is expected
    assert "replay" not in run(method("s4al", plain, replay_weight=0), model(plain), plain, 2)[-1]


@pytest.mark.parametrize("name", STRONG)
def test_images_with_answers_stand_in_the_pool_alone_unless_told_otherwise(name: str) -> None:
    of = with_answered_squares(domains(3))
    for whole in (True, False):
        (*_, phase) = method(name, of, whole=whole).phases(4)
        data = steps(of, [phase], train_settings(batch_size=6))
        rows = [part for step in range(phase.start, 4) for part in data[step]]
        assert any("a-5" in n for part in rows for n in part.names[part.pool :])
        assert any("a-5" in n for part in rows for n in part.names[: part.pool]) is not whole


def test_frequencies_are_counted_as_labels_pass_and_rare_rows_are_remembered() -> None:
    memory = Replay(3, 4, tail_share=0.2, heads=1, tails=1)
    label = torch.zeros(3, 8, 8, dtype=torch.uint8)
    label[0, :2] = 1
    label[1, 0, :4] = 2
    label[2, :] = NOT_LABELLED
    label[:, 7] = VOID
    image = torch.arange(3, dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 3, 8, 8)
    memory.fit(image)
    memory.observe(image, label)
    assert memory.counts.tolist() == [2 * 56 - 16 - 4, 16, 4]
    # 4 and 4 + 16 of 112 pixels are less than a fifth: classes 1 and 2 are rare, and row 2 has neither.
    assert memory.remembered == 2
    drawn_image, drawn_label, mask = memory.draw(50, rng())
    for i in range(50):
        row = int(drawn_image[i, 0, 0, 0])
        assert row in (0, 1)
        assert torch.equal(drawn_label[i], label[row])
        assert torch.equal(mask[i], drawn_label[i] < NOT_LABELLED)  # one head and one tail class are all that it has


def test_a_memory_takes_no_more_rows_than_it_has_places() -> None:
    memory = Replay(2, 2, tail_share=0.5, heads=1, tails=1)
    label = torch.zeros(5, 4, 4, dtype=torch.uint8)
    label[:, 0, 0] = 1
    image = torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1).expand(5, 3, 4, 4)
    memory.fit(image)
    memory.observe(image, label)
    assert sorted(memory.image[:, 0, 0, 0].tolist()) == [3, 4]


def test_a_memory_goes_on_from_its_state() -> None:
    memory, fresh = Replay(3, 4, 0.5, 1, 1), Replay(3, 4, 0.5, 1, 1)
    label = torch.randint(0, 3, (4, 6, 7), generator=rng(), dtype=torch.uint8)
    image = torch.randint(0, 256, (4, 3, 6, 7), generator=rng(1), dtype=torch.uint8)
    memory.fit(image)
    memory.observe(image, label)
    assert memory.remembered > 0
    fresh.load_state_dict(memory.state_dict())
    assert same(memory.state_dict(), fresh.state_dict())
    for one, other in zip(memory.draw(9, rng(2)), fresh.draw(9, rng(2)), strict=True):
        assert torch.equal(one, other)
