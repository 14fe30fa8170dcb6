"""Draw the picture at the end of each tutorial from the runs that it makes.

    python experiments/tutorial_pictures.py answer runs/people
    python experiments/tutorial_pictures.py draw FOLDER docs/pictures

`answer` stands for the annotator of the campaign's tutorial: it paints the masks of the scenes into the folder that
`fewmask query` wrote, and `fewmask answer --from` imports the asked regions of them. `draw` reads the runs in
FOLDER/runs, where the tutorials were followed. Images are chosen by their mIoU, at fixed quantiles, so that a picture
shows what is usual. The mIoU of an image is that over the classes in its mask.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import fewmask
from fewmask.data.domain import Domain
from fewmask.data.pictures import Row, overlay, sheet, write_mask
from fewmask.engine.metrics import confusion, scores
from fewmask.labels import Mask
from fewmask.models.universal import UniversalSegmenter
from fewmask.runs import RunFolder

ZOOM, CELL = 2, 192
OWN_DATA, UNIVERSAL, CAMPAIGN = "tutorial-own-data.jpg", "tutorial-universal.jpg", "tutorial-campaign.jpg"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("answer").add_argument("run", type=Path)
    drawing = verbs.add_parser("draw")
    drawing.add_argument("folder", type=Path)
    drawing.add_argument("out", type=Path)
    arguments = parser.parse_args()
    if arguments.verb == "answer":
        answer(arguments.run)
        return
    runs = arguments.folder / "runs"
    save(arguments.out / OWN_DATA, own_data(runs / "mine"))
    save(arguments.out / UNIVERSAL, universal(runs / "joint", runs / "univ-full"))
    save(arguments.out / CAMPAIGN, campaign(runs / "people"))


def save(path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(path, quality=78, optimize=True)


def answer(run: Path) -> None:
    """Paint the whole masks of the images that the open questions are about."""
    for name, domain in fewmask.load_domains(fewmask.load_config(run)).items():
        for path in sorted((run / "questions" / name / "labels").glob("*.png")):
            write_mask(path, domain.mask(path.stem), domain.space)


def own_data(run: Path) -> np.ndarray:
    """Three test images: the lower quartile, the median and the upper quartile."""
    model, domain = fewmask.load_model(run), fewmask.load_domains(fewmask.load_config(run))["mine"]
    rows = [
        Row(
            [
                domain.image(stem),
                *(drawn(domain, stem, m) for m in (domain.mask(stem), predicted(model, stem, domain))),
            ],
            domain.space,
        )
        for stem in quantiles(model, domain, domain.splits["test"], (0.25, 0.5, 0.75))
    ]
    return sheet(rows, ["image", "its mask", "prediction"], cell=CELL)


def universal(joint: Path, other: Path) -> np.ndarray:
    """The median test image of each domain, for both networks."""
    models, rows = [fewmask.load_model(run) for run in (joint, other)], []
    for name, domain in fewmask.load_domains(fewmask.load_config(joint)).items():
        (stem,) = quantiles(models[0], domain, domain.splits["test"], (0.5,))
        masks = [domain.mask(stem), *(predicted(model, stem, domain) for model in models)]
        rows.append(Row([domain.image(stem), *(drawn(domain, stem, mask) for mask in masks)], domain.space, name))
    return sheet(rows, ["image", "its mask", "joint", "univ-full"], cell=CELL)


def campaign(run: Path) -> np.ndarray:
    """Images of the pool with an answer: the lower quartile, the median and the upper quartile after the last round."""
    folder, rows = RunFolder(run), []
    ((name, domain),) = fewmask.load_domains(fewmask.load_config(run)).items()
    first, last = (fewmask.load_model(folder.round(number).folder) for number in (0, 2))
    stems = sorted(path.stem for path in (folder.labels / name).rglob("*.png"))
    for stem in quantiles(last, domain, stems, (0.25, 0.5, 0.75)):
        (label,) = (folder.labels / name).rglob(f"{stem}.png")
        masks = [
            domain.space.encode(fewmask.data.domain.read_mask(label), label),
            *(predicted(model, stem, domain) for model in (first, last)),
            domain.mask(stem),
        ]
        rows.append(Row([domain.image(stem), *(drawn(domain, stem, mask) for mask in masks)], domain.space))
    titles = ["image", "answered squares", "after round 1", "after round 3", "its whole mask"]
    return sheet(rows, titles, cell=144)


def quantiles(model: UniversalSegmenter, domain: Domain, stems: Sequence[str], fractions: Sequence[float]) -> list[str]:
    """The images at these quantiles of mIoU."""
    names, values = domain.space.names, []
    for stem in stems:
        matrix = confusion(torch.tensor(predicted(model, stem, domain)), torch.tensor(domain.mask(stem)), len(names))
        values.append(scores(matrix, names)["miou"])
    order = np.argsort(values, kind="stable")
    chosen = [int(order[round(fraction * (len(stems) - 1))]) for fraction in fractions]
    print(f"{domain.name}:", *(f"{stems[i]} {100 * values[i]:.1f}" for i in chosen), f"of {len(stems)} images")
    return [stems[i] for i in chosen]


def predicted(model: UniversalSegmenter, stem: str, domain: Domain) -> Mask:
    return model.predict(domain.image(stem), domain.name)[0]


def drawn(domain: Domain, stem: str, mask: Mask) -> np.ndarray:
    return overlay(domain.image(stem), mask, domain.space, opacity=0.7, zoom=ZOOM)


if __name__ == "__main__":
    main()
