"""Draw the picture of the landing page: photographs, their masks, and the predictions of two runs for each data set.

    python experiments/few_masks_picture.py docs/pictures/few-masks.jpg RUN OTHER [RUN OTHER …]

Each pair of runs gives a row with one image of validation: the one whose gain from RUN to OTHER is the median of all,
so that the picture shows what is usual. The gain is that of the mIoU over the classes in the image's mask.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

import fewmask
from fewmask.engine.metrics import confusion, scores
from fewmask.labels import VOID

TITLES = ("photograph", "its mask", "30 masks", "30 masks, classes weighted")
SIDE, HEAD, GAP = 320, 26, 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("runs", type=Path, nargs="+")
    arguments = parser.parse_args()
    pairs = list(zip(arguments.runs[::2], arguments.runs[1::2], strict=True))
    rows = [row(*pair) for pair in pairs]
    height = HEAD + sum(row[0].shape[0] + GAP for row in rows)
    picture = Image.new("RGB", (len(TITLES) * (SIDE + GAP) - GAP, height), "white")
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(16)
    top = HEAD
    for column, title in enumerate(TITLES):
        pen.text((column * (SIDE + GAP) + 2, 3), title, fill=(30, 30, 30), font=font)
    for cells in rows:
        for column, cell in enumerate(cells):
            picture.paste(Image.fromarray(cell), (column * (SIDE + GAP), top))
        top += cells[0].shape[0] + GAP
    picture.save(arguments.out, quality=85)


def row(run: Path, other: Path) -> list[np.ndarray]:
    """The photograph, its mask and the two predictions of one row, (H,SIDE,3) uint8 each."""
    ((name, settings),) = fewmask.load_config(run).domains.items()
    domain = fewmask.load_domain(name, settings.model_copy(update={"size": None}))
    networks = [fewmask.load_model(path) for path in (run, other)]
    stems, gains, predictions = domain.splits["val"], [], []
    for stem in stems:
        image, label = domain.image(stem), domain.mask(stem)
        predicted = [network.predict(image)[0] for network in networks]
        one, two = (miou(mask, label, domain.space.names) for mask in predicted)
        gains.append(two - one)
        predictions.append(predicted)
    chosen = int(np.argsort(gains)[len(gains) // 2])
    print(f"{name}: {stems[chosen]}, {100 * gains[chosen]:+.1f} points, the median of {len(stems)}")
    image, label, palette = domain.image(stems[chosen]), domain.mask(stems[chosen]), domain.space.palette()
    masks = [label, *(np.where(label == VOID, VOID, mask) for mask in predictions[chosen])]
    return [
        fitted(image, Image.Resampling.LANCZOS),
        *(fitted(palette[mask], Image.Resampling.NEAREST) for mask in masks),
    ]


def miou(prediction: np.ndarray, label: np.ndarray, names: tuple[str, ...]) -> float:
    return scores(confusion(torch.tensor(prediction), torch.tensor(label), len(names)), names)["miou"]


def fitted(pixels: np.ndarray, method: Image.Resampling) -> np.ndarray:
    height = round(SIDE * pixels.shape[0] / pixels.shape[1])
    return np.asarray(Image.fromarray(pixels).resize((SIDE, height), method))


if __name__ == "__main__":
    main()
