"""Games in one backward pass: whom each term's gradient reaches.

Shapes: B rows · C channels · H×W pixels.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

from fewmask.methods.common.adversary import frozen, reverse
from fewmask.models.batch_norm import statistics_kept


def networks() -> tuple[nn.Linear, nn.Linear, Tensor]:
    """A player, a judge and the player's input, the same at every call."""
    rng = torch.Generator().manual_seed(0)
    player, judge = nn.Linear(3, 2), nn.Linear(2, 1)
    for parameter in (*player.parameters(), *judge.parameters()):
        parameter.data = torch.randn(parameter.shape, generator=rng)
    return player, judge, torch.randn(5, 3, generator=rng)


def test_one_backward_pass_gives_each_player_the_gradient_of_its_own_loss() -> None:
    player, judge, x = networks()
    with frozen(judge):
        fooled = judge(player(x))
        assert not any(p.requires_grad for p in judge.parameters())
    assert all(p.requires_grad for p in judge.parameters())
    fake = judge(player(x).detach())
    (cross_entropy(fooled, torch.ones_like(fooled)) + cross_entropy(fake, torch.zeros_like(fake))).backward()

    # What two backward passes of two losses give, as games are usually written.
    p, j, x = networks()
    out = p(x)
    fooling = torch.autograd.grad(cross_entropy(j(out), torch.ones(5, 1)), list(p.parameters()), retain_graph=True)
    telling = torch.autograd.grad(cross_entropy(j(out.detach()), torch.zeros(5, 1)), list(j.parameters()))
    for own, expected in zip((*player.parameters(), *judge.parameters()), (*fooling, *telling), strict=True):
        torch.testing.assert_close(own.grad, expected)


def test_what_was_frozen_before_stays_so_and_an_error_leaves_nothing_frozen() -> None:
    _, judge, _ = networks()
    judge.bias.requires_grad_(False)
    with pytest.raises(ZeroDivisionError), frozen(judge):
        raise ZeroDivisionError
    assert (judge.weight.requires_grad, judge.bias.requires_grad) == (True, False)


@pytest.mark.parametrize("first", ["frozen", "learning"])
def test_autocast_remembers_no_weight_from_one_term_to_the_other(first: str) -> None:
    """It keeps the bf16 copies of weights for a whole step; one without a gradient would leave the judge untrained."""
    player, judge, x = networks()

    def learning() -> Tensor:
        return judge(player(x).detach()).sum()

    def fooling() -> Tensor:
        with frozen(judge):
            return judge(player(x)).sum()

    with torch.autocast("cpu", torch.bfloat16):
        terms = [term() for term in ((fooling, learning) if first == "frozen" else (learning, fooling))]
    sum(terms).backward()  # type: ignore[union-attr]
    assert judge.weight.grad is not None
    torch.testing.assert_close(judge.weight.grad, player(x).sum(0)[None], rtol=0.05, atol=0.05)
    assert player.weight.grad is not None


def test_a_reversed_gradient() -> None:
    x = torch.arange(3.0, requires_grad=True)
    out = reverse(x, 0.5)
    assert torch.equal(out, x)
    (out**2).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, -0.5 * 2 * torch.arange(3.0))


def test_rows_that_are_no_data_leave_the_running_statistics_alone() -> None:
    norm = nn.BatchNorm2d(2)
    rng = torch.Generator().manual_seed(0)
    norm(torch.randn(4, 2, 3, 3, generator=rng))
    assert norm.running_mean is not None
    assert norm.running_var is not None
    before = norm.running_mean.clone(), norm.running_var.clone()
    with statistics_kept(norm):
        out = norm(5 + 3 * torch.randn(4, 2, 3, 3, generator=rng))
    torch.testing.assert_close(out.mean((0, 2, 3)), torch.zeros(2), atol=1e-5, rtol=0)  # its own statistics
    assert torch.equal(norm.running_mean, before[0])
    assert torch.equal(norm.running_var, before[1])
    norm(5 + torch.randn(4, 2, 3, 3, generator=rng))
    assert not torch.equal(norm.running_mean, before[0])
