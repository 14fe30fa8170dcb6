"""Depthwise convolutions in fp32 under a CPU's bf16: the same network, and what it must not change."""

from __future__ import annotations

import copy

import torch
from torch import nn

from fewmask.models.depthwise import keep_fast


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8),
        nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
    )


IMAGE = torch.randn(2, 3, 12, 16, generator=torch.Generator().manual_seed(1))


def test_without_autocast_nothing_changes() -> None:
    plain, fast = network(), keep_fast(network())
    assert torch.equal(plain(IMAGE), fast(IMAGE))
    assert plain.state_dict().keys() == fast.state_dict().keys()


def test_under_autocast_the_answer_keeps_its_type_and_comes_closer_to_the_exact_one() -> None:
    model = keep_fast(network())
    with torch.autocast("cpu", torch.bfloat16):
        out = model(IMAGE)
    assert out.dtype == torch.bfloat16
    exact = network().double()(IMAGE.double())
    with torch.autocast("cpu", torch.bfloat16):
        plain = network()(IMAGE)
    assert (out.double() - exact).abs().mean() <= (plain.double() - exact).abs().mean()


def test_a_copy_computes_with_its_own_weights() -> None:
    model = keep_fast(network())
    teacher = copy.deepcopy(model)
    for parameter in teacher.parameters():
        nn.init.zeros_(parameter)
    with torch.autocast("cpu", torch.bfloat16):
        assert teacher(IMAGE).abs().max() == 0
        assert model(IMAGE).abs().max() > 0
