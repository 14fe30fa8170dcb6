"""Rooms: four walls in one-point perspective, with their furniture.

Shapes: h×w pixels of the canvas.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from fewmask.config import Daylight
from fewmask.data.scenes.canvas import CIRCLE, UNITS, Camera, Canvas, Light, Rgb, Wall
from fewmask.data.scenes.furniture import (
    draw_floor_lamp,
    draw_pendant,
    draw_picture,
    draw_plant,
    draw_sofa,
    draw_table,
    draw_window,
)
from fewmask.data.scenes.things import Things, any_colour, draw_person, hsv, mix, paint, pick, times

EVENINGS: dict[Daylight, float] = {"any": 0.35, "day": 0.0, "night": 1.0}
"""The probability of an evening scene."""


def draw(size: tuple[int, int], names: tuple[str, ...], rng: np.random.Generator, daylight: Daylight) -> Canvas:
    light, wide = _indoors(rng, daylight), size[1] / size[0]
    eye = (rng.uniform(0.32, 0.68) * wide, rng.uniform(0.36, 0.5), rng.uniform(0.8, 1.15), rng.uniform(1.3, 1.75))
    c = Canvas(size, names, rng, Camera(*eye), light)
    back, tall = rng.uniform(3.6, 5.4), rng.uniform(2.3, 2.9)
    left, right = -rng.uniform(1.7, 3.0), rng.uniform(1.7, 3.0)
    _shell(c, left, right, tall, back)
    _hang(c, left, right, tall, back)

    lit = light.night or rng.random() < 0.25
    things: Things = []
    if rng.random() < 0.85:
        width, z = rng.uniform(1.5, 2.3), back - rng.uniform(0.95, 1.3)
        x = rng.uniform(left + 0.4, max(right - 0.4 - width, left + 0.5))
        things.append((z, partial(draw_sofa, c, x, width, z)))
    for x, z in (
        (left + 0.35, back - 0.4),
        (right - 0.35, back - 0.4),
        (right - 0.3, back - 1.8),
        (left + 0.3, back - 1.8),
    ):
        x, z, chance = x + rng.uniform(-0.1, 0.1), z + rng.uniform(-0.2, 0.2), rng.random()
        if chance < 0.33:
            things.append((z, partial(draw_plant, c, x, z)))
        elif chance < 0.62:
            things.append((z, partial(draw_floor_lamp, c, x, z, lit)))
    if rng.random() < 0.85:
        x, z = rng.uniform(left + 0.8, right - 0.8), rng.uniform(2.1, back - 1.5)
        things.append((z, partial(draw_table, c, x, z)))
    if rng.random() < 0.45:
        x, z = rng.uniform(left + 0.4, right - 0.4), rng.uniform(2.4, back - 0.7)
        things.append((z, partial(draw_person, c, x, z, any_colour(rng), any_colour(rng))))
    if rng.random() < 0.35:
        x, z = rng.uniform(left + 0.8, right - 0.8), rng.uniform(2.4, back - 0.5)
        things.append((z, partial(draw_pendant, c, x, z, tall, lit)))
    paint(things)
    return c


def _indoors(rng: np.random.Generator, daylight: Daylight) -> Light:
    evening, warm = rng.random() < EVENINGS[daylight], rng.uniform(-0.08, 0.1) + 0.03
    level = rng.uniform(0.52, 0.7) if evening else rng.uniform(0.78, 1.05)
    return Light(
        ambient=(level * (1 + warm), level, level * (1 - warm)),
        haze=(0.5, 0.45, 0.4),
        density=0.01,
        zenith=(0, 0, 0),
        clouds=0,
        night=evening,
        saturation=1.0,
        noise=0.017 if evening else 0.011,
        sun=rng.uniform(-1, 1),
    )


def _hang(c: Canvas, left: float, right: float, tall: float, back: float) -> None:
    """Windows and pictures on the walls; on the back wall each has its own stretch."""
    rng, wall = c.rng, Wall(c.cam, (0, 0, back), (1, 0, 0))
    third = (right - left) / 3
    kinds = rng.permutation(["window", "picture", "picture" if rng.random() < 0.6 else "nothing"])
    for i, kind in enumerate(kinds):
        a, b = left + third * i + rng.uniform(0.12, 0.3), left + third * (i + 1) - rng.uniform(0.12, 0.3)
        if kind == "window":
            draw_window(c, wall, a, b, rng.uniform(0.8, 1.1), tall - 0.3)
        elif kind == "picture":
            up = rng.uniform(1.3, 1.5)
            draw_picture(c, wall, a, a + rng.uniform(0.6, 1.0) * (b - a), up, up + rng.uniform(0.45, 0.85))
    for x in (left, right):
        wall, chance, near = Wall(c.cam, (x, 0, 0), (0, 0, 1)), rng.random(), rng.uniform(2.2, back - 1.4)
        far = near + rng.uniform(0.7, 1.3)
        if chance < 0.3:
            draw_window(c, wall, near, far, 0.9, 2.1)
        elif chance < 0.6:
            draw_picture(c, wall, near, far, 1.3, 2.0)


def _shell(c: Canvas, left: float, right: float, tall: float, back: float) -> None:
    """Walls, ceiling (of the class wall) and floor."""
    cam, rng, sun = c.cam, c.rng, c.light.sun
    paper = hsv(pick(rng, (0.08, 0.12, 0.3, 0.56, 0.6, 0.95)), rng.uniform(0.03, 0.4), rng.uniform(0.5, 0.95))
    pattern = _wallpaper(c)
    c.fill(((-1, -1), (9, -1), (9, 2), (-1, 2)), times(paper, 0.96), "wall", back, pattern)
    c.fill(cam.side(left, 0, tall, 0.3, back), times(paper, 0.84 - 0.14 * sun), "wall", back, pattern)
    c.fill(cam.side(right, 0, tall, 0.3, back), times(paper, 0.84 + 0.14 * sun), "wall", back, pattern)
    ceiling = times(mix(paper, (1, 1, 1), 0.6), 0.95)
    c.fill(cam.level(left, right, tall, 0.3, back), ceiling, "wall", back, 1 + np.float32(0.02) * c.leaf)
    ground, surface = _flooring(c)
    c.fill(cam.level(left, right, 0, 0.3, back), ground, "floor", c.ground[1], surface)
    skirting = mix(paper, (1, 1, 1), 0.5)
    c.fill(cam.facing(left, right, 0, 0.09, back), skirting, "wall", back)
    for x in (left, right):
        c.fill(cam.side(x, 0, 0.09, 0.3, back), skirting, "wall", back)
    if rng.random() < 0.5:
        _rug(c, rng.uniform(left + 0.9, right - 0.9), rng.uniform(2.2, back - 0.9))


def _wallpaper(c: Canvas) -> np.ndarray:
    """A texture (h,w): plain, stripes, dots or bricks."""
    rng = c.rng
    plain = 1 + np.float32(0.04) * c.leaf + np.float32(0.03) * c.grain + np.float32(0.05) * c.broad
    style, pitch = rng.integers(4), rng.uniform(0.04, 0.09)
    x, y = c.xs / pitch, c.ys / pitch
    if style == 1:
        return plain * np.where(x % 1 < 0.5, np.float32(1), np.float32(0.86))
    if style == 2:
        dots = (x % 1 - 0.5) ** 2 + (y % 1 - 0.5) ** 2 < 0.06
        return plain * np.where(dots, np.float32(0.78), np.float32(1))
    if style == 3:
        joints = (2 * y % 1 < 0.16) | ((x + np.floor(2 * y) * 0.5) % 1 < 0.08)
        return plain * np.where(joints, np.float32(0.82), np.float32(1))
    return plain


def _flooring(c: Canvas) -> tuple[Rgb, np.ndarray]:
    """Colour and texture (h,w) of boards, tiles or a carpet."""
    rng, (x, z), style = c.rng, c.ground, c.rng.integers(3)
    if style == 0:
        board = np.floor(x / 0.16)
        tint = np.sin(board * 91.7 + np.floor(z / 0.9 + board * 0.37) * 47.3)
        wood = hsv(rng.uniform(0.04, 0.12), rng.uniform(0.1, 0.6), rng.uniform(0.3, 0.75))
        return wood, 1 + 0.12 * tint - 0.25 * (x / 0.16 - board < 0.1) + 0.05 * c.leaf
    if style == 1:
        checks = (np.floor(x / 0.4) + np.floor(z / 0.4)) % 2
        return hsv(rng.random(), rng.uniform(0.0, 0.2), rng.uniform(0.45, 0.9)), 1 - 0.16 * checks + 0.03 * c.leaf
    return hsv(rng.random(), rng.uniform(0.1, 0.4), rng.uniform(0.3, 0.8)), 1 + 0.12 * c.grain + 0.05 * c.blot


def _rug(c: Canvas, x: float, z: float) -> None:
    rng = c.rng
    shape = CIRCLE if rng.random() < 0.5 else UNITS
    colour, weave, w, d = any_colour(rng), 1 + np.float32(0.1) * c.grain, rng.uniform(0.7, 1.3), rng.uniform(0.4, 0.7)
    for k, shade in ((1.0, 1.0), (0.83, 1.35), (0.6, 0.9)):
        ring = np.column_stack((x + shape[:, 0] * w * k, np.zeros(len(shape)), z + shape[:, 1] * d * k))
        c.fill(c.cam.at(ring), times(colour, shade), "floor", texture=weave)
