"""Train every variant of the method tests for four steps, and write a hash of its weights and its logged numbers.

    PYTHONPATH=CHECKOUT/src python experiments/variant_losses.py OUT.json

Two checkouts that compute the same write the same file. The runs are those of this checkout's tests.
"""

from __future__ import annotations

import json
import sys
import tempfile
from hashlib import sha256
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
from ondisk import metrics_of, two_domains
from variants import VARIANTS, small

from fewmask import train


def main() -> None:
    outcomes = {}
    with tempfile.TemporaryDirectory() as folder:
        data = two_domains(Path(folder) / "data")
        for number, (name, method) in enumerate(VARIANTS.items()):
            run = Path(folder) / str(number)
            train(small(data, method, steps=4, checkpoint_every=3, evaluate_every=2), run)
            weights = sha256((run / "model.safetensors").read_bytes()).hexdigest()
            outcomes[name] = {"weights": weights, "metrics": metrics_of(run)}
            print(name, weights[:16], flush=True)
    Path(sys.argv[1]).write_text(json.dumps(outcomes, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
