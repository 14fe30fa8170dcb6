"""Score the heads of the other domains on each held-out domain of a configuration, alone and fused.

    python experiments/generalisation.py CONFIG --held-out rooms countryside --seeds 0 1 2 [--set key.sub=value …]

For every run the result file holds the scores on the test images of the held-out domain and of the training domains: by
each head, by all heads fused, and by the head that is chosen for each image, with its name. Classes with equal names
are one class. All others have no counterpart.
"""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

from compare import cpu_name, report

from fewmask.data.layouts import load_domain
from fewmask.engine.fit import train
from fewmask.engine.generalise import every_head
from fewmask.engine.prototypes import load_fused
from fewmask.engine.run import versions
from fewmask.files import write_json
from fewmask.methods import read_config

KEPT = ("miou", "miou_union", "pixel_accuracy", "iou")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--held-out", nargs="+", required=True)
    parser.add_argument("--seeds", nargs="+", type=int, required=True)
    parser.add_argument("--set", nargs="*", default=[], metavar="key.sub=value", dest="overrides")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="The folder of the runs, which are resumed.")
    parser.add_argument("--out", type=Path, required=True, help="The result file.")
    arguments = parser.parse_args()
    runs: dict[str, Any] = {}
    for seed in arguments.seeds:
        for name in arguments.held_out:
            config = read_config(arguments.config, [*arguments.overrides, f"seed={seed}"])
            domains = dict(config.domains)
            config = config.model_copy(update={"held_out": {name: domains.pop(name)}, "domains": domains})
            folder = arguments.runs / f"{config.name}-without-{name}-{seed}"
            summary = train(config, folder, report)
            model = load_fused(folder)
            scored = {}
            for n, settings in {**config.domains, **config.held_out}.items():
                domain = load_domain(n, settings)
                names = dict.fromkeys(c for c in model.union.space.names if c not in domain.space.names)
                found = every_head(model, domain, names, "test", workers=0, precision=config.train.precision)
                found["heads"] = {h: {k: s[k] for k in KEPT} for h, s in found["heads"].items()}
                scored[n] = {k: found[k] for k in ("heads", "chosen", "ambiguous", "excess")}
            runs[f"{name}/{seed}"] = {"seconds": summary["seconds"], "method": summary["method"], "domains": scored}
            heads = scored[name]["heads"]
            print(name, seed, {h: round(s["miou_union"], 4) for h, s in heads.items()}, scored[name]["chosen"])
            words = [str(arguments.config), "--held-out", *arguments.held_out, "--seeds", *map(str, arguments.seeds)]
            words += ["--set", *arguments.overrides] if arguments.overrides else []
            result = {
                "command": "python experiments/generalisation.py " + shlex.join(words),
                "hardware": {"cpu": cpu_name(), **summary["hardware"]},
                "versions": versions(),
                "steps": summary["steps"],
                "labelled": summary["labelled"],
                "runs": runs,
            }
            write_json(arguments.out, result)


if __name__ == "__main__":
    main()
