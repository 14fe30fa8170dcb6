"""Measure the effect of feature alignment on shared and private classes, on a toy of Gaussian classes.

    python experiments/toy_alignment.py [--out results/toy-alignment] [--seeds 5]

The toy has the two domains of `toy_entropy.py` (private), with ten classes each, of which all, half or two are shared.
fewmask's methods train F and the heads. The results are means over both domains, on new cells:

own_shared, own_private   accuracy of a domain's own head on its shared and on its private classes
other_shared              accuracy of the other domain's head on the shared classes, the aim of alignment
apart                     MMD² between the features of the two domains, with the same widths as in training

It takes some minutes on one core of a busy machine.

Shapes: C cells of a test set · F features.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import asdict, replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from toy_entropy import CellNetwork, Cells, World, domain, make_batch, summary, write

from fewmask.losses.mmd import quadratic_mmd
from fewmask.methods import METHODS, build

CASES: dict[str, dict[str, Any]] = {
    "joint": {"name": "joint"},
    **{f"{name}, {weight:g}": {"name": name, "weight": weight}
       for name in ("mmd", "adversarial-align") for weight in (0.1, 1.0)},
}  # fmt: skip


def train(world: World, case: dict[str, Any], seed: int, steps: int) -> tuple[CellNetwork, list[Cells]]:
    """Train F and the heads. Every step has all labelled images and two unlabelled ones of each domain."""
    torch.manual_seed(seed)
    cells = [Cells(world, k, seed) for k in range(2)]
    of = {n: domain(n, c) for n, c in zip("ab", cells, strict=True)}
    method = build(METHODS[case["name"]].Settings.model_validate(case), of, steps)
    network: Any = CellNetwork(of, world.values)
    rng = torch.Generator().manual_seed(seed)
    method.prepare(network, rng)
    optimiser = torch.optim.AdamW([*network.parameters(), *method.parameters()], lr=2e-3, weight_decay=0.01)
    order = np.random.default_rng([seed, 2])
    for step in range(steps):
        rows = [(k, s) for k, c in enumerate(cells) for s in c.masks]
        drawn = [(k, f"u{i}") for k in range(2) for i in order.integers(0, world.unlabelled_images, 2)]
        rows += drawn if method.phases(steps)[0].unlabelled else []
        terms = method.step(network, make_batch(rows, cells, step, steps), rng)
        optimiser.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        optimiser.step()
    return network, cells


@torch.no_grad()
def measure(world: World, network: CellNetwork, cells: list[Cells]) -> dict[str, float]:
    found: dict[str, list[float]] = {"own_shared": [], "own_private": [], "other_shared": []}
    features = [network.encode(torch.from_numpy(c.test[0]).permute(2, 0, 1)[None]) for c in cells]
    for i, own in enumerate(cells):
        label = torch.from_numpy(own.test[1]).flatten()
        shared = label < world.shared
        right, as_other = (network.decode(features[i], n).argmax(1).flatten() == label for n in ("ab"[i], "ab"[1 - i]))
        for name, hit in (
            ("own_shared", right[shared]),
            ("own_private", right[~shared]),
            ("other_shared", as_other[shared]),
        ):
            found[name] += [hit.float().mean().item()] if len(hit) else []
    one, other = (f.flatten(2)[0].T[:: max(1, f[0, 0].numel() // 500)] for f in features)
    means = {name: mean(values) for name, values in found.items() if values}
    return {**means, "apart": max(quadratic_mmd(one, other).item(), 0.0)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/toy-alignment"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=300)
    args = parser.parse_args()
    torch.set_num_threads(1)  # the tensors are small
    for shared in (10, 5, 2):
        world, began = replace(World(), shared=shared, private=10 - shared), time.monotonic()
        runs = {
            name: [measure(world, *train(world, case, s, args.steps)) for s in range(args.seeds)]
            for name, case in CASES.items()
        }
        assert all(math.isfinite(v) for run in runs.values() for one in run for v in one.values())
        settings = {"world": asdict(world), "methods": CASES, "steps": args.steps}
        cases = {name: summary(of) for name, of in runs.items()}
        write(args.out, f"{shared}-of-10-shared", settings, range(args.seeds), cases, began)


if __name__ == "__main__":
    main()
