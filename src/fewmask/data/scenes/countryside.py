"""The countryside in four seasons: hills, fields, water, ways, trees, farms, cows.

Shapes: h×w pixels of the canvas.
"""

from __future__ import annotations

from functools import partial
from math import cos, pi, sin

import numpy as np

from fewmask.config import Daylight
from fewmask.data.scenes.canvas import CIRCLE, Camera, Canvas, Points, Rgb
from fewmask.data.scenes.houses import draw_cottage
from fewmask.data.scenes.light import draw_sky, outdoors
from fewmask.data.scenes.things import (
    Things,
    any_colour,
    draw_person,
    draw_tree,
    hsv,
    leaf_colour,
    mix,
    paint,
    pick,
    times,
)

# Outline of a cow's body from the side (metres along, metres up); it looks to the right.
BODY = (
    (-1.05, 0.75),
    (-1.1, 1.25),
    (-0.9, 1.42),
    (0.3, 1.4),
    (0.75, 1.5),
    (1.0, 1.2),
    (0.85, 0.85),
    (0.3, 0.66),
    (-0.6, 0.62),
)
MUD = hsv(0.1, 0.35, 0.42)


def draw(size: tuple[int, int], names: tuple[str, ...], rng: np.random.Generator, daylight: Daylight) -> Canvas:
    light, wide = outdoors(rng, 1.12, daylight), size[1] / size[0]
    season = str(rng.choice(("spring", "summer", "autumn", "winter"), p=(0.3, 0.3, 0.24, 0.16)))
    eye = (rng.uniform(0.3, 0.7) * wide, rng.uniform(0.36, 0.56), rng.uniform(0.8, 1.1), rng.uniform(2.0, 4.5))
    c = Canvas(size, names, rng, Camera(*eye), light)
    draw_sky(c)
    grass = {
        "spring": hsv(rng.uniform(0.22, 0.32), rng.uniform(0.35, 0.65), rng.uniform(0.42, 0.65)),
        "summer": hsv(rng.uniform(0.12, 0.2), rng.uniform(0.35, 0.6), rng.uniform(0.55, 0.78)),
        "autumn": hsv(rng.uniform(0.07, 0.16), rng.uniform(0.3, 0.55), rng.uniform(0.4, 0.6)),
        "winter": hsv(0.6, rng.uniform(0.0, 0.08), rng.uniform(0.8, 0.95)),
    }[season]
    for i in range(rng.integers(1, 4)):
        _hills(c, grass, season, 260.0 - 70 * i, rng.uniform(0.06, 0.24) / (1 + i))
    _fields(c, grass, season)
    if rng.random() < 0.5:
        _lake(c)
    elif rng.random() < 0.45:
        _winding(c, "water")
    if rng.random() < 0.62:
        _winding(c, "road")
    paint(_things(c, season))
    return c


def _things(c: Canvas, season: str) -> Things:
    rng, things = c.rng, Things()
    leaves, needles = leaf_colour(rng, 0.75 if season == "autumn" else 0.04), rng.random() < 0.4

    def tree(x: float, z: float) -> None:
        tall = rng.uniform(4, 8)
        if needles and rng.random() < 0.8:
            dark = hsv(rng.uniform(0.32, 0.45), 0.45, rng.uniform(0.2, 0.4))
            things.append((z, partial(draw_tree, c, x, z, tall, dark, "conifer")))
        else:
            shape = "bare" if season == "winter" else "broad"
            things.append((z, partial(draw_tree, c, x, z, tall, leaves, shape)))

    for _ in range(rng.integers(0, 10)):  # a wood's edge in the distance
        z = rng.uniform(45, 90)
        tree(rng.uniform(-0.75, 0.75) * c.wide * z, z)
    for _ in range(rng.integers(1, 5)):
        z = rng.uniform(10, 30)
        tree(rng.uniform(-0.7, 0.7) * c.wide * z, z)
    for _ in range(pick(rng, (0, 1, 1, 2, 3))):
        z = rng.uniform(16, 40)
        things.append((z, partial(draw_cottage, c, rng.uniform(-0.55, 0.55) * c.wide * z, z)))
    if rng.random() < 0.7:  # a herd is of one breed
        coat = hsv(rng.uniform(0.03, 0.1), rng.uniform(0.1, 0.6), pick(rng, (0.12, 0.35, 0.6)))
        middle, far, spotted = rng.uniform(-0.4, 0.4), rng.uniform(7, 16), rng.random() < 0.6
        for _ in range(rng.integers(1, 6)):
            z = far + rng.uniform(-2, 7)
            x = (middle + rng.uniform(-0.3, 0.3)) * c.wide * z
            things.append((z, partial(_cow, c, x, z, coat, spotted)))
    for _ in range(pick(rng, (0, 0, 1, 1, 2, 3))):
        z = rng.uniform(4.5, 10)
        x, trousers = rng.uniform(-0.42, 0.42) * c.wide * z, hsv(pick(rng, (0.6, 0.08)), 0.5, 0.35)
        things.append((z, partial(draw_person, c, x, z, any_colour(rng), trousers, hat=rng.random() < 0.5)))
    return things


def _hills(c: Canvas, grass: Rgb, season: str, z: float, tall: float) -> None:
    rng, horizon = c.rng, c.cam.y
    xs = np.linspace(-0.1, c.wide + 0.1, 40)
    ridge = np.full(40, 0.62)
    for strength, frequency in ((0.5, 2.4), (0.3, 5.1), (0.12, 11.0), (0.05, 27.0)):
        ridge += strength * np.sin(xs * frequency + rng.uniform(0, 6))
    skyline = np.column_stack((xs, horizon + 0.01 - tall * np.clip(ridge, 0.03, 2)))
    rocky, snow = rng.random() < 0.3, rng.random() < 0.5
    rock = hsv(rng.uniform(0.05, 0.65), 0.12, rng.uniform(0.35, 0.6))
    colour = rock if rocky else times(grass, rng.uniform(0.6, 0.85))
    texture = 1 + 0.16 * c.blot + (0.18 if rocky else 0.11) * c.leaf + 0.05 * c.grain
    depth = min(z, 0.6 / c.light.density)  # fog must leave something of them
    c.fill([*skyline, (c.wide + 0.1, horizon + 0.02), (-0.1, horizon + 0.02)], colour, "hill", depth, texture)
    if snow and (tall > 0.18 or season == "winter"):
        line = np.minimum(skyline[:, 1] + 0.03 * (1 + 0.6 * np.sin(xs * 60)), horizon - tall * 0.7)
        crest = np.concatenate((skyline, np.column_stack((xs, np.maximum(line, skyline[:, 1])))[::-1]))
        c.fill(crest, (0.9, 0.92, 0.96), "hill", depth, 1 + np.float32(0.05) * c.leaf)


def _fields(c: Canvas, grass: Rgb, season: str) -> None:
    """Meadows, crops and ploughed land in rows, and flowers in spring."""
    cam, rng, (x, z) = c.cam, c.rng, c.ground
    turf = 1 + 0.1 * c.leaf + 0.13 * c.grain + 0.08 * c.blot
    c.fill(((-1, cam.y), (9, cam.y), (9, 2), (-1, 2)), grass, "field", z, turf)
    for _ in range(rng.integers(1, 5)):
        z0 = rng.uniform(2, 40)
        z1, x0, skew = z0 * rng.uniform(1.4, 2.6), rng.uniform(-1, 0.6) * z0, rng.uniform(-0.3, 0.3) * z0
        x1 = x0 + rng.uniform(0.6, 1.6) * z0
        earth = hsv(rng.uniform(0.05, 0.3), rng.uniform(0.2, 0.6), rng.uniform(0.35, 0.75))
        colour = mix(earth, grass, 0.8 if season == "winter" else rng.uniform(0, 0.6))
        turn, pitch = rng.uniform(0, pi), rng.uniform(0.5, 1.1)
        rows = np.sin((x * cos(turn) + z * sin(turn)) * (2 * pi / pitch)) * np.minimum(16 / z, 1)
        patch = cam.at(((x0, 0, z0), (x1, 0, z0), (x1 + skew, 0, z1), (x0 + skew, 0, z1)))
        c.fill(patch, colour, "field", z, turf + 0.14 * rows)
    if season == "spring" and rng.random() < 0.5:
        petals = hsv(pick(rng, (0.0, 0.14, 0.8, 0.55)), rng.uniform(0.1, 0.8), 0.9)
        far = rng.uniform(3, 16, 70)
        spots = cam.at(np.column_stack((rng.uniform(-0.7, 0.7, 70) * c.wide * far, np.zeros(70), far)))
        c.details(CIRCLE[::4] * (0.03 / far + 0.002)[:, None, None] + spots[:, None], petals)


def _water(c: Canvas, shore: Points) -> None:
    """Water inside of a shore: it mirrors the sky, more or less."""
    rng, light, (x, z) = c.rng, c.light, c.ground
    mirrored = mix(light.zenith, light.haze, rng.uniform(0.2, 0.7))
    r, g, b = (m / a for m, a in zip(mirrored, light.ambient, strict=True))
    colour = mix((r, g, b), hsv(rng.uniform(0.45, 0.62), 0.4, 0.45), rng.uniform(0.1, 0.5))
    waves = np.sin(z * 3.1 + c.blot * 2.5 + 0.6 * np.sin(x * 0.9)) * np.clip(10 / z, 0.15, 1)
    c.fill(shore, colour, "water", z, 1 + 0.13 * waves + 0.06 * c.grain)


def _lake(c: Canvas) -> None:
    cam, rng = c.cam, c.rng
    z = rng.uniform(9, 32)
    x, rx, rz = rng.uniform(-0.5, 0.5) * z, rng.uniform(0.45, 1.4) * z, rng.uniform(0.2, 0.45) * z
    turns = np.linspace(0, 2 * pi, 32, endpoint=False)
    edge = 1 + 0.12 * np.sin(turns * 3 + rng.uniform(0, 6)) + 0.06 * np.sin(turns * 7 + rng.uniform(0, 6))
    shore = np.column_stack((x + np.cos(turns) * edge * rx, np.zeros(32), z + np.sin(turns) * edge * rz))
    c.details([cam.at(shore - (0, 0, 0.25))], MUD)
    _water(c, cam.at(shore))


def _winding(c: Canvas, name: str) -> None:
    """A way or a brook that winds from the camera into the distance."""
    rng = c.rng
    z = np.geomspace(1.5, rng.uniform(50, 120), 40)
    half = rng.uniform(1.0, 1.9) if name == "road" else rng.uniform(1.6, 3.2)
    bend = rng.uniform(2, 7) * np.sin(z / rng.uniform(9, 22) + rng.uniform(0, 6))
    middle = rng.uniform(-2.5, 2.5) + bend * np.clip(z / 15, 0.2, 4) + rng.uniform(-0.2, 0.2) * z

    def band(width: float, offset: float = 0.0) -> np.ndarray:
        left, right = (np.column_stack((middle + offset + s * width, np.zeros(40), z)) for s in (-1, 1))
        return c.cam.at(np.concatenate((left, right[::-1])))

    if name == "water":
        c.details([band(half + 0.3)], MUD)
        _water(c, band(half))
        return
    paved = rng.random() < 0.3
    gravel = hsv(rng.uniform(0.06, 0.12), 0.05 if paved else rng.uniform(0.15, 0.4), rng.uniform(0.35, 0.7))
    c.fill(band(half), gravel, "road", c.ground[1], 1 + 0.16 * c.grain + 0.09 * c.leaf)
    for offset in (-0.5 * half, 0.5 * half):
        c.details([band(0.14 * half, offset)], times(gravel, 0.82))
    if not paved:
        c.details([band(0.1 * half)], mix(gravel, hsv(0.25, 0.5, 0.45), 0.6))


def _cow(c: Canvas, x: float, z: float, coat: Rgb, spotted: bool) -> None:
    rng, way, k = c.rng, pick(c.rng, (-1, 1)), c.rng.uniform(0.85, 1.1)
    if not c.sees(x - 1.6, x + 1.6, z):
        return
    base = (0.9, 0.88, 0.84) if spotted else coat

    def part(colour: Rgb, points: Points, name: str | None = "cow") -> None:
        c.fill(c.cam.at([(x + way * k * a, k * b, z) for a, b in points]), colour, name, z)

    c.shadow(c.cam.spot(x, z, 1.2, 0.5), 0.3)
    for a, shade in ((-0.75, 0.64), (0.6, 0.64), (-0.95, 0.92), (0.75, 0.92)):
        part(times(base, shade), ((a - 0.09, 0.9), (a + 0.09, 0.9), (a + 0.07, 0), (a - 0.07, 0)))
    part(base, BODY)
    part(times(base, 0.8), ((-1.1, 1.3), (-1.02, 1.3), (-1.14, 0.6), (-1.2, 0.6)))
    if spotted:
        for a, b in ((-0.6, 1.15), (0.05, 1.05), (0.55, 1.2)):
            size, shift = rng.uniform(0.14, 0.24), rng.uniform(-0.1, 0.1)
            part(coat, CIRCLE[:: rng.integers(1, 3)] * (size * 1.3, size) + (a + shift, b), None)
    hx, hy = (1.35, 0.55) if rng.random() < 0.45 else (1.38, 1.5)  # grazing or looking
    part(base, ((0.8, 1.48), (0.75, 1.0), (hx - 0.12, hy - 0.12), (hx, hy + 0.14)))
    head = ((-0.18, 0.18), (0.1, 0.16), (0.36, -0.12), (0.24, -0.24), (-0.1, -0.16))
    part(coat, [(hx + a, hy + b) for a, b in head])
    part((0.85, 0.62, 0.58), CIRCLE[::2] * 0.1 + (hx + 0.3, hy - 0.18))
    part((0.85, 0.82, 0.7), ((hx - 0.16, hy + 0.14), (hx - 0.05, hy + 0.16), (hx - 0.12, hy + 0.36)))
