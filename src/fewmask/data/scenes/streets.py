"""Streets, seen along, or across towards the houses on the other side.

Shapes: h×w pixels of the canvas.
"""

from __future__ import annotations

from functools import partial
from math import pi

import numpy as np

from fewmask.config import Daylight
from fewmask.data.scenes.canvas import Camera, Canvas, Rgb
from fewmask.data.scenes.cars import draw_car_across, draw_car_along
from fewmask.data.scenes.houses import draw_block, draw_row_house
from fewmask.data.scenes.light import draw_sky, outdoors
from fewmask.data.scenes.things import (
    Things,
    any_colour,
    draw_person,
    draw_tree,
    hsv,
    leaf_colour,
    paint,
    pick,
    times,
)

KERB_LIGHT = 1.15


def draw(size: tuple[int, int], names: tuple[str, ...], rng: np.random.Generator, daylight: Daylight) -> Canvas:
    light, wide = outdoors(rng, 0.85, daylight), size[1] / size[0]
    if rng.random() < 0.62:
        eye = (rng.uniform(0.3, 0.7) * wide, rng.uniform(0.36, 0.54), rng.uniform(0.75, 1.0), rng.uniform(1.6, 3.4))
        canvas = Canvas(size, names, rng, Camera(*eye), light)
        _along(canvas)
    else:
        eye = (wide / 2, rng.uniform(0.42, 0.6), rng.uniform(0.75, 1.05), rng.uniform(1.5, 2.6))
        canvas = Canvas(size, names, rng, Camera(*eye), light)
        _across(canvas)
    return canvas


def _along(c: Canvas) -> None:
    cam, rng = c.cam, c.rng
    draw_sky(c)
    gx, gz = c.ground
    half, kerb = rng.uniform(2.8, 4.6), rng.uniform(1.6, 3.4)
    centre = rng.uniform(-0.6, 0.6) * half
    edges = (centre - half, centre + half)
    road, stone = _paving(rng)
    c.fill(cam.level(-90, 90, 0, 0.5, 120), stone, "pavement", gz, _slabs(c, pick(rng, (0.6, 1.0, 1.5))))
    tracks = np.exp(-(((np.abs(gx - centre) - half * 0.5) / 0.4) ** 2))
    c.fill(cam.level(*edges, 0, 0.5, 120), road, "road", gz, 1 + 0.1 * c.grain + 0.06 * c.blot - 0.06 * tracks)
    c.details([cam.level(edge - 0.1, edge + 0.1, 0, 0.5, 60) for edge in edges], times(stone, KERB_LIGHT))
    white = (0.85, 0.85, 0.8) if rng.random() < 0.8 else (0.8, 0.65, 0.2)
    marks = np.arange(rng.uniform(0.5, 3), 50, 6)
    c.details([cam.level(centre - 0.07, centre + 0.07, 0, z, z + 2.8) for z in marks], white)
    if rng.random() < 0.3:  # a crossing
        z = rng.uniform(5, 12)
        bars = np.arange(edges[0] + 0.3, edges[1] - 0.5, 1.0)
        c.details([cam.level(x, x + 0.5, 0, z, z + 2.5) for x in bars], (0.82, 0.82, 0.8))

    behind: Things = []  # what stands on the far side of the pavements
    before: Things = []
    if rng.random() < 0.75:  # the street ends somewhere
        behind += [(99, partial(draw_block, c, x, x + 12, rng.uniform(5, 20), 72.0)) for x in range(-60, 60, 12)]
    for way in (-1, 1):
        wall = centre + way * (half + kerb)
        z, gaps = rng.uniform(0.6, 3), 0.46 if rng.random() < 0.2 else 0.16
        while z < 62:
            long = rng.uniform(6, 14) * (1 + z / 60)
            if rng.random() < gaps:
                green = leaf_colour(rng, autumn=0.1)
                for _ in range(2):
                    behind.append(_tree(c, wall + way * rng.uniform(0.5, 5), z + rng.uniform(1, long), green, 1.0))
            else:
                behind.append((z, partial(draw_row_house, c, wall, way, z, z + long)))
            z += long
        green = leaf_colour(rng, autumn=0.2)
        for z in np.arange(rng.uniform(5, 14), 42, rng.uniform(9, 22)):
            if rng.random() < 0.6:
                before.append(_tree(c, centre + way * (half + 0.9), z, green, 0.75))
        for z in np.arange(rng.uniform(6, 14), 34, rng.uniform(11, 18)):
            before.append((z, partial(_lamp, c, centre + way * (half + 0.35), z, -way)))
        for z in rng.uniform(5, 18, rng.integers(0, 3)):
            before.append((z, partial(_sign, c, centre + way * (half + 0.5), z)))
        for z in np.arange(rng.uniform(4, 16), 36, 6.2):
            if rng.random() < 0.5:
                before.append((z, partial(draw_car_along, c, centre + way * (half - 1.05), z, way > 0)))
        for _ in range(rng.integers(0, 4)):
            before.append(_walker(c, centre + way * (half + rng.uniform(0.4, kerb - 0.3)), rng.uniform(3.6, 12)))
    if rng.random() < 0.5:
        x, z = centre + half * 0.45 * pick(rng, (-1, 1)), rng.uniform(8, 28)
        before.append((z, partial(draw_car_along, c, x, z, x > centre)))
    if rng.random() < 0.3:
        before.append(_walker(c, centre + rng.uniform(-0.8, 0.8) * half, rng.uniform(5, 10)))
    paint(behind)
    paint(before)


def _across(c: Canvas) -> None:
    cam, rng = c.cam, c.rng
    draw_sky(c)
    gz = c.ground[1]
    back = rng.uniform(10, 15)
    kerb = back - rng.uniform(1.6, 3.2)
    near = kerb - rng.uniform(4, 6.5)
    road, stone = _paving(rng)
    c.fill(cam.level(-90, 90, 0, 0.5, 120), stone, "pavement", gz, _slabs(c, pick(rng, (0.6, 1.0, 1.5))))
    c.fill(cam.level(-90, 90, 0, near, kerb), road, "road", gz, 1 + 0.1 * c.grain + 0.06 * c.blot)
    rims = [cam.level(-90, 90, 0, kerb, kerb + 0.2), cam.level(-90, 90, 0, near - 0.15, near)]
    c.details(rims, times(stone, KERB_LIGHT))
    middle = (near + kerb) / 2
    marks = np.arange(-24 + rng.uniform(0, 4), 24, 4.5)
    c.details([cam.level(x, x + 2.2, 0, middle - 0.08, middle + 0.08) for x in marks], (0.85, 0.85, 0.8))

    things: Things = []
    x = rng.uniform(-16, -12)
    while x < 13:
        long = rng.uniform(4, 9)
        if rng.random() < 0.14:
            things.append(_tree(c, x + long / 2, back + 3, leaf_colour(rng, autumn=0.1), 1.0))
        else:
            things.append((back, partial(draw_block, c, x, x + long, rng.uniform(3.4, 9.5), back)))
        x += long
    green = leaf_colour(rng, autumn=0.2)
    for x in np.arange(rng.uniform(-9, -5), 9, rng.uniform(4, 9)):
        if rng.random() < 0.55:
            things.append(_tree(c, x, kerb + 0.6, green, 0.7))
    for x in np.arange(rng.uniform(-9, -3), 9, rng.uniform(6, 10)):
        things.append((kerb + 0.4, partial(_lamp, c, x, kerb + 0.4, 0)))
    for x in rng.uniform(-7, 7, rng.integers(0, 3)):
        things.append((kerb + 0.5, partial(_sign, c, x, kerb + 0.5)))
    for x in np.arange(rng.uniform(-12, -6), 9, 5.4):
        if rng.random() < 0.55:
            things.append((kerb - 1.1, partial(draw_car_across, c, x, kerb - 1.1)))
    if rng.random() < 0.4:
        things.append((near + 1.1, partial(draw_car_across, c, rng.uniform(-6, 3), near + 1.1)))
    for _ in range(rng.integers(0, 4)):
        things.append(_walker(c, rng.uniform(-7, 7), rng.uniform(kerb + 0.7, back - 0.3)))
    if rng.random() < 0.45:
        things.append(_walker(c, rng.uniform(-3, 3), rng.uniform(max(near - 2, 3.2), kerb - 0.5)))
    paint(things)


def _paving(rng: np.random.Generator) -> tuple[Rgb, Rgb]:
    """The colours of road and pavement."""
    road = hsv(pick(rng, (0.08, 0.62)), rng.uniform(0, 0.1), rng.uniform(0.28, 0.5))
    return road, hsv(rng.uniform(0.04, 0.14), rng.uniform(0.02, 0.22), rng.uniform(0.42, 0.7))


def _slabs(c: Canvas, size: float) -> np.ndarray:
    """A texture (h,w): joints between paving slabs, fading where they would be finer than a pixel."""
    x, z = c.ground[0] / size, c.ground[1] / size
    joint = (x - np.floor(x) < 0.1) | (z - np.floor(z) < 0.1)
    return 1 - 0.22 * joint * np.minimum(14 / c.ground[1], 1) + 0.06 * c.leaf + 0.04 * c.grain


def _tree(c: Canvas, x: float, z: float, green: Rgb, scale: float) -> tuple[float, partial[None]]:
    return z, partial(draw_tree, c, x, z, c.rng.uniform(4.5, 8.5) * scale, green)


def _walker(c: Canvas, x: float, z: float) -> tuple[float, partial[None]]:
    """Town clothes: dark trousers, any coat."""
    trousers = hsv(pick(c.rng, (0.6, 0.08)), 0.35, c.rng.uniform(0.1, 0.5))
    return z, partial(draw_person, c, x, z, times(any_colour(c.rng), 0.85), trousers)


def _lamp(c: Canvas, x: float, z: float, arm: int) -> None:
    cam, rng = c.cam, c.rng
    tall, metal = rng.uniform(3.6, 5.6), hsv(rng.uniform(0.3, 0.65), 0.2, rng.uniform(0.15, 0.45))
    tip = x + arm * 1.1
    c.rod(cam.at([(x, 0, z), (x, tall, z), (tip, tall + 0.15, z)]), 0.11 * cam.focal / z, metal, "lamp", z)
    c.fill(cam.facing(x - 0.13, x + 0.13, 0, 0.6, z), metal, "lamp", z)
    glass = cam.disc(tip, tall + 0.05, z, 0.32, 0.24)
    c.fill(glass, (1.0, 0.9, 0.6) if c.light.night else (0.82, 0.82, 0.76), "lamp", z)
    if c.light.night:
        c.shine(glass, (0.8, 0.62, 0.32))


def _sign(c: Canvas, x: float, z: float) -> None:
    cam, rng = c.cam, c.rng
    up, corners = rng.uniform(2.0, 2.8), pick(rng, (16, 3, 4, 8))
    c.rod(cam.at([(x, 0, z), (x, up, z)]), 0.07 * cam.focal / z, (0.55, 0.56, 0.58), "sign", z)
    bold = hsv(pick(rng, (0.0, 0.6, 0.13, 0.38)), 0.8, 0.75)
    turns = np.arange(corners) * 2 * pi / corners + (pi / 2 if corners == 3 else pi / corners)
    outline = np.column_stack((np.cos(turns), np.sin(turns), np.zeros(corners))) * 0.45
    middle, pale = (x, up, z), corners in (3, 16)
    c.fill(cam.at(outline + middle), bold, "sign", z)
    c.details([cam.at(outline * 0.68 + middle)], (0.92, 0.92, 0.9) if pale else bold)
    bar = cam.facing(x - 0.22, x + 0.22, up - 0.07, up + 0.07, z)
    c.details([bar], (0.15, 0.15, 0.2) if pale else (0.95, 0.95, 0.92))
