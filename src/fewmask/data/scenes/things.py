"""Colours, and the things that several domains share: people, trees, boxes."""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Sequence
from math import cos, pi, sin
from typing import TypeVar

import numpy as np

from fewmask.data.scenes.canvas import Canvas, Rgb

T = TypeVar("T")
Things = list[tuple[float, Callable[[], None]]]
"""The things that remain to be drawn: the distance of each, and the function that draws it."""


def hsv(hue: float, saturation: float, value: float) -> Rgb:
    return colorsys.hsv_to_rgb(hue % 1.0, saturation, value)


def times(colour: Rgb, factor: float) -> Rgb:
    return (colour[0] * factor, colour[1] * factor, colour[2] * factor)


def mix(a: Rgb, b: Rgb, t: float) -> Rgb:
    return (a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t, a[2] + (b[2] - a[2]) * t)


def pick(rng: np.random.Generator, options: Sequence[T]) -> T:
    return options[int(rng.integers(len(options)))]


def any_colour(rng: np.random.Generator) -> Rgb:
    """Paint or cloth: mostly muted, sometimes bright, sometimes nearly black or white."""
    if rng.random() < 0.3:
        return hsv(rng.random(), rng.uniform(0, 0.12), pick(rng, (0.16, 0.45, 0.8, 0.92)))
    return hsv(rng.random(), rng.uniform(0.2, 0.8), rng.uniform(0.3, 0.9))


def leaf_colour(rng: np.random.Generator, autumn: float) -> Rgb:
    """`autumn` is the chance of yellow, orange and red."""
    if rng.random() < autumn:
        return hsv(rng.uniform(0.03, 0.14), rng.uniform(0.5, 0.8), rng.uniform(0.45, 0.75))
    return hsv(rng.uniform(0.2, 0.38), rng.uniform(0.3, 0.65), rng.uniform(0.25, 0.55))


def paint(things: Things) -> None:
    """Draw from far to near."""
    for _, draw in sorted(things, key=lambda thing: -thing[0]):
        draw()


def draw_box(
    c: Canvas,
    x: tuple[float, float],
    u: tuple[float, float],
    z: tuple[float, float],
    colour: Rgb,
    name: str,
    texture: np.ndarray,
) -> None:
    """The sides of an upright box that the camera sees."""
    if u[1] < c.cam.height:
        c.fill(c.cam.level(*x, u[1], *z), times(colour, 1.12), name, z[0], texture)
    if x[0] > 0:
        c.fill(c.cam.side(x[0], *u, *z), times(colour, 0.72), name, z[0], texture)
    elif x[1] < 0:
        c.fill(c.cam.side(x[1], *u, *z), times(colour, 0.8), name, z[0], texture)
    c.fill(c.cam.facing(*x, *u, z[0]), colour, name, z[0], texture)


def draw_person(
    c: Canvas, x: float, z: float, top: Rgb, legs: Rgb, seated: bool = False, hat: bool = False, floor: float = 0.0
) -> None:
    cam, rng = c.cam, c.rng
    k = rng.uniform(0.88, 1.06)
    skin = hsv(0.06, rng.uniform(0.3, 0.55), rng.uniform(0.4, 0.95))
    hair = hsv(0.08, 0.5, rng.uniform(0.1, 0.6))
    stride, lean, wave = rng.uniform(0.02, 0.2), rng.uniform(-0.06, 0.06), rng.uniform(0.0, 0.2)
    hip = 0.5 if seated else 0.86 * k
    shoulder, coat = hip + 0.58 * k, rng.random() < 0.3 and not seated

    def part(colour: Rgb, *points: tuple[float, float]) -> None:
        c.fill(cam.at([(x + dx * k, floor + up, z) for dx, up in points]), colour, "person", z)

    def ball(colour: Rgb, dx: float, up: float, rx: float, ru: float) -> None:
        c.fill(cam.disc(x + dx, floor + up, z, rx, ru), colour, "person", z)

    if not seated:
        c.shadow(cam.spot(x, z, 0.38, 0.28), 0.33)
    for s, shade in ((-1, 0.8), (1, 1.0)):
        foot = s * stride
        part(times(legs, shade), (s * 0.17, hip), (0, hip), (foot - 0.07, 0.06), (foot + 0.08, 0.06))
        part((0.12, 0.1, 0.1), (foot - 0.08, 0.07), (foot + 0.13, 0.07), (foot + 0.13, 0), (foot - 0.08, 0))
    if coat:
        part(top, (-0.17, hip + 0.1), (0.17, hip + 0.1), (0.26, hip - 0.38), (-0.26, hip - 0.38))
    for s in (-1, 1):
        hx, hy = s * (0.28 + wave), hip + 0.02 + wave
        arm = ((s * 0.2 + lean, shoulder), (s * 0.29 + lean, shoulder - 0.1), (hx + 0.05, hy), (hx - 0.05, hy))
        part(times(top, 0.82), *arm)
        ball(skin, hx * k, hy, 0.055, 0.055)
    chest = ((0.24 + lean, shoulder), (0.1 + lean, shoulder + 0.08), (-0.1 + lean, shoulder + 0.08))
    part(top, (-0.18, hip - 0.04), (0.18, hip - 0.04), *chest, (-0.24 + lean, shoulder))
    head = shoulder + 0.22 * k
    ball(hair, lean, head + 0.03, 0.135, 0.16)
    ball(skin, lean, head - 0.01, 0.105, 0.125)
    if hat:
        ball((0.8, 0.68, 0.4), lean, head + 0.1, 0.27, 0.05)
        ball((0.74, 0.6, 0.34), lean, head + 0.16, 0.14, 0.1)


def draw_tree(c: Canvas, x: float, z: float, tall: float, leaves: Rgb, shape: str = "broad") -> None:
    """A tree of one of the shapes broad, conifer and bare."""
    cam, rng = c.cam, c.rng
    if not c.sees(x - tall / 2, x + tall / 2, z):
        return
    bark = hsv(rng.uniform(0.05, 0.1), 0.35, rng.uniform(0.2, 0.42))
    c.shadow(cam.spot(x - c.light.sun * 0.5, z, tall * 0.28, tall * 0.12), 0.3)
    foot, fork = 0.035 * tall, 0.02 * tall
    trunk = ((x - foot, 0, z), (x + foot, 0, z), (x + fork, tall * 0.6, z), (x - fork, tall * 0.6, z))
    c.fill(cam.at(trunk), bark, "tree", z)
    small = tall * cam.focal / z < 0.12
    if shape == "bare" and not small:
        _branches(c, x, z, tall, bark)
    elif shape == "conifer":
        for i in range(4):
            low, high, half = 0.12 + 0.2 * i, 0.5 + 0.17 * i, 0.24 - 0.045 * i
            hem = [(x + half * tall * (j / 3 - 1), tall * (low - 0.03 * (j % 2)), z) for j in range(7)]
            c.fill(cam.at([*hem, (x, tall * high, z)]), times(leaves, 0.7 + 0.1 * i), "tree", z, c.foliage)
    else:
        _crown(c, x, z, tall, mix(bark, leaves, 0.2) if shape == "bare" else leaves, 0 if small else 6)


def _branches(c: Canvas, x: float, z: float, tall: float, bark: Rgb) -> None:
    rng, k = c.rng, c.cam.focal / z
    for i in range(7):
        turn, low = (i - 3) * 0.33 + rng.uniform(-0.15, 0.15), rng.uniform(0.35, 0.6) * tall
        reach = rng.uniform(0.26, 0.44) * tall
        tip = (x + sin(turn) * reach, low + cos(turn) * reach, z)
        c.rod(c.cam.at([(x, low, z), tip]), 0.014 * tall * k, bark, "tree", z)
        for side in (-0.6, 0.5):
            bend, half = turn + side, reach * rng.uniform(0.3, 0.5)
            middle = (x + sin(turn) * reach * 0.6, low + cos(turn) * reach * 0.6, z)
            twig = (middle[0] + sin(bend) * half, middle[1] + cos(bend) * half, z)
            c.rod(c.cam.at([middle, twig]), 0.008 * tall * k, times(bark, 1.15), "tree", z)


def _crown(c: Canvas, x: float, z: float, tall: float, leaves: Rgb, clumps: int) -> None:
    rng, sun = c.rng, c.light.sun
    squeeze, middle, size = rng.uniform(0.7, 1.15), 0.66 * tall, 0.33 * tall
    turns = np.linspace(0, 2 * pi, 24, endpoint=False)
    radius = size * (1 + 0.14 * np.sin(turns * pick(rng, (4, 5, 7)) + rng.uniform(0, 6)) + rng.uniform(-0.08, 0.08, 24))
    edge = (x + np.cos(turns) * radius * squeeze, middle + np.sin(turns) * radius, np.full(24, z))
    c.fill(c.cam.at(np.column_stack(edge)), leaves, "tree", z, c.foliage)
    for _ in range(clumps):  # lit from the sun's side and dark below
        turn, far = rng.uniform(0, 2 * pi), rng.uniform(0.2, 0.62)
        dx, dy = cos(turn) * far, sin(turn) * far
        wide = rng.uniform(0.08, 0.13) * tall
        clump = c.cam.disc(x + dx * size * squeeze, middle + dy * size, z, wide, wide * 0.8)
        c.fill(clump, times(leaves, 1 + 0.3 * dy + 0.25 * dx * sun), texture=c.foliage)
