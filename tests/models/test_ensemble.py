"""An ensemble is a network: loaded, scored, given a new head and exported as one.

Shapes: B images · H×W pixels · C_k classes of domain k.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers import domain, domains, model, same, saved, train_settings
from torch import Tensor

from fewmask.engine.transfer import with_new_head
from fewmask.models.ensemble import Ensemble
from fewmask.models.saved import fingerprint, load_model


def pair() -> tuple[Ensemble, list[Tensor]]:
    """Two random networks, and the mean of their logits of each domain on `image()`."""
    of = domains(3, 4)
    members = [model(of, seed).eval() for seed in (1, 2)]
    with torch.no_grad():
        logits = [torch.stack([m(image(), name) for m in members]).mean(0) for name in of]
    return Ensemble(members), logits


def image() -> Tensor:
    return torch.randint(0, 256, (2, 3, 37, 50), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_it_answers_with_the_mean_of_its_members_logits_as_they_are_now(tmp_path: Path) -> None:
    network, expected = pair()
    with torch.no_grad():
        for name, logits in zip(network.domains, expected, strict=True):
            torch.testing.assert_close(network(image(), name), logits)
        again = load_model(saved(network, tmp_path))
        assert isinstance(again, Ensemble)
        assert same(network.state_dict(), again.state_dict())
        assert torch.equal(again(image(), "a"), network(image(), "a"))
        of = domains(3, 4)
        members = [model(of, 3).eval(), model(of, 4).eval()]
        live = Ensemble(members)
        before = live(image(), "a")
        members[1].heads["of_a"].bias.add_(torch.tensor([2.0, 0, 0]))
        torch.testing.assert_close(live(image(), "a")[:, 0], before[:, 0] + 1)
    assert live.embed(live.encode(image())).shape[1] == live.channels == 2 * members[0].channels


def test_a_new_head_is_trained_on_it() -> None:
    network, _ = pair()
    before = {n: v.clone() for n, v in network.state_dict().items()}
    target = domain("t", 3)
    target.splits["val"] = target.labelled
    scores = with_new_head(network, target, steps=2, settings=train_settings(workers=0, precision="fp32"))
    assert scores["domains"]["t"]["miou"] is not None
    assert same(before, network.state_dict())


def test_a_fingerprint_is_of_the_network(tmp_path: Path) -> None:
    network, _ = pair()
    one = fingerprint(saved(network, tmp_path / "one"))
    assert one == fingerprint(saved(network, tmp_path / "same"))
    with torch.no_grad():
        next(network.parameters()).view(-1)[0] += 1e-3
    assert one != fingerprint(saved(network, tmp_path / "other"))
    with pytest.raises(ValueError, match="no trained model in it"):
        fingerprint(tmp_path / "nowhere")


@pytest.mark.slow
def test_it_is_exported() -> None:
    pytest.importorskip("onnxruntime")
    from fewmask.onnx_export import compare, to_onnx

    network, _ = pair()
    assert compare(network, to_onnx(network, ["a"]).SerializeToString(), ["a"]) < 1e-3
