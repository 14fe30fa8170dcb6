"""Three procedural domains, drawn on demand: streets, rooms and countryside. They share some classes and not others.

Shapes: H×W pixels of an image.

A scene is a function of (kind, seed, index, size, light) alone. It is drawn through a pinhole camera at twice the size.
A pixel gets the class that holds at least three of its four subpixels; where none does, as along many borders, it is
void.
Colour alone does not tell a class: hour, weather and season tint everything, and walls, cars, clothes and pictures may
have any colour. Texture, shape and place do tell it. A class that two domains share is built alike in both (a person is
a person) and dressed differently (asphalt or gravel, flats or cottages): aligning the domains has something to win.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from fewmask.class_list import Colour
from fewmask.config import Daylight, ScenesDomain
from fewmask.data.domain import SPLITS, Domain
from fewmask.data.scenes import countryside, rooms, streets
from fewmask.data.scenes.canvas import Canvas
from fewmask.data.scenes.light import develop
from fewmask.labels import LabelSpace, Mask
from fewmask.randomness import generator

CLASSES: dict[str, tuple[str, ...]] = {
    "streets": ("sky", "road", "pavement", "building", "tree", "car", "person", "lamp", "sign"),
    "rooms": ("wall", "floor", "window", "sofa", "table", "picture", "plant", "lamp", "person"),
    "countryside": ("sky", "hill", "field", "water", "road", "tree", "building", "cow", "person"),
}
COLOURS: dict[str, Colour] = {
    "sky": (142, 202, 230),
    "road": (110, 104, 128),
    "pavement": (205, 160, 190),
    "building": (203, 118, 84),
    "tree": (58, 134, 86),
    "car": (52, 88, 190),
    "person": (224, 60, 92),
    "lamp": (255, 200, 56),
    "sign": (250, 130, 30),
    "wall": (224, 208, 178),
    "floor": (150, 104, 70),
    "window": (92, 196, 214),
    "sofa": (140, 86, 176),
    "table": (92, 58, 50),
    "picture": (240, 120, 176),
    "plant": (128, 190, 70),
    "hill": (120, 130, 96),
    "field": (206, 206, 100),
    "water": (30, 110, 160),
    "cow": (70, 50, 70),
}
# The order determines what a seed draws, because a scene's generator depends on the position of its kind.
PAINTERS: dict[str, Callable[[tuple[int, int], tuple[str, ...], np.random.Generator, Daylight], Canvas]] = {
    "streets": streets.draw,
    "rooms": rooms.draw,
    "countryside": countryside.draw,
}


def space(kind: str) -> LabelSpace:
    """The classes of a domain; a class has the same name and colour in every domain that has it."""
    names = _classes(kind)
    return LabelSpace(names, tuple(COLOURS[n] for n in names), {i: i for i in range(len(names))})


def render(kind: str, seed: int, index: int, size: tuple[int, int], light: Daylight = "any") -> tuple[np.ndarray, Mask]:
    """Draw one scene: the image (H,W,3) uint8 RGB and its mask (H,W) uint8 in 0 … C−1 and 255.

    `size` is (H,W); in another size of the same proportions the scene shows the same things. By day and by night it
    may not: what shines is drawn too. Raises ValueError for an unknown kind.
    """
    names = _classes(kind)
    rng = generator(seed, "scene", step=tuple(PAINTERS).index(kind), row=index)
    canvas = PAINTERS[kind](size, names, rng, light)
    return develop(canvas, rng), canvas.vote()


def domain(name: str, settings: ScenesDomain) -> Domain:
    """A procedural domain. Image i of a split does not depend on how many images the splits have."""
    counts = {"train": settings.train, "val": settings.val, "test": settings.test}
    splits = {split: tuple(f"{split}-{i:05d}" for i in range(counts[split])) for split in SPLITS}
    source = ScenesSource(settings.kind, settings.seed, settings.size, settings.light)
    return Domain(name, space(settings.kind), source, splits, splits["train"])


@dataclass(frozen=True)
class ScenesSource:
    """Renders the images and masks of a procedural domain on demand."""

    kind: str
    seed: int
    size: tuple[int, int]
    light: Daylight

    def image(self, stem: str) -> np.ndarray:
        return _recent(self.kind, self.seed, scene_index(stem), self.size, self.light)[0].copy()

    def mask(self, stem: str) -> Mask:
        return _recent(self.kind, self.seed, scene_index(stem), self.size, self.light)[1].copy()

    def has_mask(self, stem: str) -> bool:
        return True

    def where(self, stem: str) -> str:
        return f"{self.kind} scene {stem} of seed {self.seed}"


def scene_index(stem: str) -> int:
    """The scene of a stem: the splits take turns, so that they are disjoint however many images they have."""
    split, _, number = stem.partition("-")
    return int(number) * len(SPLITS) + SPLITS.index(split)


# An image and its mask are requested one after the other, and small splits again and again.
@lru_cache(maxsize=1024)
def _recent(kind: str, seed: int, index: int, size: tuple[int, int], light: Daylight) -> tuple[np.ndarray, Mask]:
    return render(kind, seed, index, size, light)


def _classes(kind: str) -> tuple[str, ...]:
    if kind not in CLASSES:
        raise ValueError(f"no scenes of kind {kind!r}; there are {', '.join(CLASSES)}")
    return CLASSES[kind]
