"""What each of two processes does for tests/test_distributed.py, and what it leaves there. Started by torchrun.

Shapes: B images · C channels · H×W pixels.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import helpers
import torch
import torch.distributed as dist
from ondisk import config, plain
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn

from fewmask import distributed
from fewmask.config import Config
from fewmask.data.domain import Domain
from fewmask.engine import fit
from fewmask.engine.evaluation import count_predictions, evaluate
from fewmask.engine.run import load_domains
from fewmask.methods import parse_config
from fewmask.models.batch_norm import synchronise

STEPS = 4
METHODS: dict[str, dict[str, Any]] = {
    "univ-full": {"pretrain": 0.5},
    "hung2018": {"warmup": 0.5, "channels": 4, "optimiser": {"name": "sgd", "lr": 0.001}},
    "co-training": {"cutmix": 0},  # with it, each process mixes its own rows
    "cycada": {
        "pretrain": 0.25,
        "translate": 0.5,
        "channels": 4,
        "translator": {"channels": 4, "blocks": 1, "patch": 16, "discriminator_channels": 4, "history": 5},
        "optimiser": {"name": "sgd", "lr": 0.001},
    },
}


class Stop(Exception):
    """What an interrupted run ends with."""


def settings(data: Path, name: str, **train: Any) -> Config:
    """Small steps of plain gradient descent: a random network multiplies rounding by a hundred in each step of rate
    0.01, and AdamW's first steps are signs of gradients."""
    method = {"name": name, **METHODS.get(name, {})}
    options = {"steps": STEPS, "batch_size": 8, "unlabelled_batch_size": 4, "crop": [64, 64], "evaluate_every": 2}
    changes = plain(data, method, **{**options, "optimiser": {"name": "sgd", "lr": 0.0001, "head_lr": 0.0005}, **train})
    changes["model"]["decoder_options"]["decoder_aspp_dropout"] = 0
    return parse_config(changes)


def normalised(x: Tensor) -> dict[str, Tensor]:
    """Outputs, gradients and running statistics of two batch normalisations over this process's part of `x`."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1), BatchNormAct2d(4))
    for name, parameter in network.named_parameters():
        parameter.data = torch.rand(parameter.shape, generator=torch.Generator().manual_seed(len(name))) + 0.5
    synchronise(network)
    share = x.chunk(distributed.world())[distributed.rank()].clone().requires_grad_()
    weights = torch.rand(x.shape[0], 4, *x.shape[2:], generator=torch.Generator().manual_seed(5))
    for _ in range(2):
        out = network(share)
    (out * weights.chunk(distributed.world())[distributed.rank()]).sum().backward()
    assert share.grad is not None
    results = {"out": distributed.all_gather(out), "image": distributed.all_gather(share.grad)}
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None
        results[f"gradient of {name}"] = distributed.all_reduce_sum(parameter.grad)
    network.eval()
    return results | dict(network.state_dict()) | {"in eval mode": distributed.all_gather(network(share)).detach()}


def images(far: bool) -> Tensor:
    """(4,3,5,6); `far` from zero, where sums of squares lose the variance."""
    x = torch.randn(4, 3, 5, 6, generator=torch.Generator().manual_seed(1))
    x[2:] = 3 * x[2:] + 1  # the halves have statistics of their own
    return x + 3000 if far else x


def confusions(domains: dict[str, Domain]) -> tuple[dict[str, Tensor], dict[str, Any], list[str]]:
    """The summed confusion matrix and every image's counts of each domain, the scores, and what this process read."""
    of = {n: helpers.replace(d, source=Reading(d.source)) for n, d in domains.items()}
    model = helpers.model(of)
    counts = {n: count_predictions(model, d, "val", workers=0, precision="fp32") for n, d in of.items()}
    matrices = {f"{n} {what}": getattr(c, what) for n, c in counts.items() for what in ("confusion", "images")}
    scores = evaluate(model, of, "val", workers=0, precision="fp32")
    read = [f"{n}/{stem}" for n, d in of.items() for stem in d.source.read]  # type: ignore[attr-defined]
    return matrices, scores, read


class Reading:
    def __init__(self, source: Any) -> None:
        self.source, self.read = source, []

    def mask(self, stem: str) -> Any:
        self.read.append(stem)
        return self.source.mask(stem)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.source, name)


def trained(configuration: Config, folder: Path, stop: int | None = None) -> dict[str, Tensor]:
    """This process's networks at the end of a run, the method's among them; it may be stopped before a step, on all
    sides."""
    made: list[Any] = []
    step = fit._Fit._step

    def watched(self: Any, batches: Any) -> dict[str, float]:
        made.append(self)
        if self.done == stop:
            raise Stop
        return step(self, batches)

    fit._Fit._step = watched  # type: ignore[method-assign]
    try:
        fit.train(configuration, folder)
    except Stop:
        dist.barrier()
    finally:
        fit._Fit._step = step  # type: ignore[method-assign]
    parts = {"model": made[-1].model, "method": made[-1].method}
    return {f"{p}.{n}": v.clone() for p, of in parts.items() for n, v in of.state_dict().items()}


def refused(configuration: Config, folder: Path) -> str:
    try:
        fit.train(configuration, folder)
    except ValueError as error:
        return str(error)
    return "not refused"


def first_refuses() -> str:
    def refuse() -> None:
        raise ValueError(f"process {distributed.rank()}")

    try:
        distributed.call_in_first(refuse)
    except ValueError as error:
        return str(error)
    return "not refused"


def main(data: Path, out: Path) -> None:
    results: dict[str, Any] = {}
    with distributed.processes():
        me = distributed.rank()
        for far in (False, True):
            results[f"norm, far {far}"] = normalised(images(far))
        for name in ("joint", *METHODS):
            results[name] = trained(settings(data, name), out / name)
        stopped = settings(data, "univ-full", checkpoint_every=2)
        trained(stopped, out / "resumed", stop=3)
        results["resumed"] = trained(stopped, out / "resumed")
        results["accumulated"] = trained(settings(data, "univ-full", accumulate=2), out / "accumulated")
        mixed = settings(data, "co-training", unlabelled_batch_size=8).model_dump(serialize_as_any=True) | {
            "method": {"name": "co-training"}
        }
        results["mixed"] = trained(parse_config(mixed), out / "mixed")
        results["confusions"] = confusions(load_domains(config(data)))
        # Each process has its own place here, which stays empty unless it writes.
        for key in ("summary", "summary again"):
            results[key] = fit.train(settings(data / "without val", "joint", steps=1), out / f"only{me}")
        results["refused"] = first_refuses()
        results["errors"] = [
            refused(settings(data, "joint", batch_size=3), out / "wrong batch"),
            refused(settings(data, "joint"), data),
            refused(settings(data, "joint", batch_size=16), out / "joint"),
            refused(settings(data / "nowhere", "joint"), out / "no data"),
        ]
        torch.save(results, out / f"{me}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
