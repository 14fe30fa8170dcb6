"""Measure the coverage of the forecast's 80 % interval over simulated campaigns.

    python experiments/forecast_coverage.py [--campaigns 400] [--out results/forecast-coverage.json]

Each campaign has 3 to 6 rounds, each with 1.6 times the labels of the one before. Its scores come from a known curve
a − b·n^(−c) and scatter around it. The standard deviation of that scatter is drawn anew for each campaign between 0.6
and 3 points, uniformly on a log scale. These are the 10th and the 80th percentile over three seeds of the committed
budget tables (results/budget-*.json, 54 rounds).

The script counts how often the interval holds the curve's height at twice the labels, how often it holds the number of
labels that this height needs, and how often a campaign is called unexplained although nothing but labels and scatter
made its scores.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import numpy as np

from fewmask.acquisition.curve import fit_curve, unexplained_change

SCATTER = (0.006, 0.03)
ROUNDS = (3, 4, 5, 6)


def simulate(rounds: int, campaigns: int, seed: int) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    held = needed = alarms = 0
    for _ in range(campaigns):
        n = 0.05 * 1.6 ** np.arange(rounds + 1)
        n[-1] = 2 * n[-2]
        limit, share, steepness = rng.uniform(0.5, 0.9), rng.uniform(0.6, 0.95), math.exp(rng.uniform(-1.6, 0.4))
        truth = limit - limit * (1 - share) * (n / n[0]) ** -steepness
        scatter = math.exp(rng.uniform(*np.log(SCATTER)))
        scores = np.clip(truth[:-1] + rng.normal(0, scatter, rounds), 0, 1).tolist()
        curve = fit_curve(n[:-1].tolist(), scores)
        assert curve is not None
        low, _, high = curve.interval(n[-1])
        held += low <= truth[-1] <= high
        low, _, high = curve.needed(truth[-1])
        needed += low <= n[-1] <= high
        alarms += unexplained_change(n[:-1].tolist(), scores) is not None
    return {"score": held / campaigns, "labels": needed / campaigns, "called_unexplained": alarms / campaigns}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--campaigns", type=int, default=400, help="The number of campaigns for each number of rounds.")
    parser.add_argument("--out", type=Path, default=Path("results/forecast-coverage.json"))
    given = parser.parse_args()
    rows = [{"rounds": rounds, **simulate(rounds, given.campaigns, rounds)} for rounds in ROUNDS]
    told = {
        "command": f"python experiments/forecast_coverage.py --campaigns {given.campaigns}",
        "level": 0.8,
        "campaigns": given.campaigns,
        "scatter": SCATTER,
        "rows": rows,
        "mean": {key: float(np.mean([row[key] for row in rows])) for key in ("score", "labels", "called_unexplained")},
    }
    given.out.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(told["mean"]))


if __name__ == "__main__":
    main()
