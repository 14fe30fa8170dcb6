"""The furniture of rooms, and the things on their walls."""

from __future__ import annotations

from math import cos, sin

import numpy as np

from fewmask.data.scenes.canvas import CIRCLE, Canvas, Rgb, Wall
from fewmask.data.scenes.things import any_colour, draw_box, draw_person, hsv, mix, pick, times


def draw_window(c: Canvas, wall: Wall, a0: float, a1: float, u0: float, u1: float) -> None:
    """A window between a0 and a1 along the wall: frame, view, bars, and curtains now and then."""
    rng, dark = c.rng, c.light.night
    frame = times((0.95, 0.94, 0.9), rng.uniform(0.45, 1.0))
    day = hsv(pick(rng, (0.57, 0.1)), rng.uniform(0.02, 0.3), 0.97)
    sky = hsv(rng.uniform(0.52, 0.66), 0.5, 0.16) if dark else day
    land = hsv(rng.uniform(0.2, 0.4), 0.3, 0.08 if dark else rng.uniform(0.4, 0.7))
    c.fill(wall.rect(a0, a1, u0, u1), frame, "window", 4.0)
    a, b, low, high = a0 + 0.07, a1 - 0.07, u0 + 0.07, u1 - 0.07
    c.details([wall.rect(a, b, low, high)], sky)
    horizon = low + (high - low) * rng.uniform(0.15, 0.5)
    skyline = [(a + (b - a) * t, horizon + rng.uniform(-0.1, 0.12)) for t in (1, 0.8, 0.6, 0.4, 0.2, 0)]
    c.details([wall.at([(a, low), (b, low), *skyline])], land)
    if not dark:
        c.shine(wall.rect(a, b, horizon + 0.1, high), (0.16, 0.15, 0.12))
    middle, bar = (a + b) / 2, u0 + (u1 - u0) * rng.uniform(0.45, 0.7)
    c.details([wall.rect(middle - 0.025, middle + 0.025, low, high)], frame)
    c.details([wall.rect(a, b, bar - 0.025, bar + 0.025)], frame)
    if rng.random() < 0.55:
        cloth, fold = any_colour(rng), (a1 - a0) * rng.uniform(0.05, 0.09)
        for way, edge in ((1, a0 - 0.08), (-1, a1 + 0.08)):
            for i, shade in enumerate((1.0, 0.8, 0.92)):
                near = edge + way * fold * i
                c.fill(wall.rect(near, near + way * fold, u0 - 0.15, u1 + 0.1), times(cloth, shade), "window", 4.0)


def draw_picture(c: Canvas, wall: Wall, a0: float, a1: float, u0: float, u1: float) -> None:
    """A framed picture: a landscape, stripes, a portrait or shapes."""
    rng, style = c.rng, c.rng.integers(4)
    wood = hsv(rng.uniform(0.05, 0.14), rng.uniform(0, 0.7), pick(rng, (0.12, 0.5, 0.92)))
    c.shadow(wall.rect(a0 + 0.04, a1 + 0.05, u0 - 0.06, u1 - 0.02), 0.25)
    c.fill(wall.rect(a0, a1, u0, u1), wood, "picture", 4.0)
    a, low, w, h = a0 + 0.06, u0 + 0.06, a1 - a0 - 0.12, u1 - u0 - 0.12
    c.details([wall.rect(a, a + w, low, low + h)], any_colour(rng))

    def blob(x: float, y: float, rx: float, ry: float, colour: Rgb, corners: int = 1) -> None:
        c.details([wall.at(CIRCLE[::corners] * (rx, ry) + (a + w * x, low + h * y))], colour)

    if style == 0:
        ridge = [(a + w * t, low + h * rng.uniform(0.25, 0.55)) for t in (1, 0.75, 0.5, 0.25, 0)]
        c.details([wall.at([(a, low), (a + w, low), *ridge])], any_colour(rng))
        blob(rng.uniform(0.2, 0.8), 0.8, 0.1 * h, 0.1 * h, (0.95, 0.85, 0.5))
    elif style == 1:
        for i in (1, 3):
            c.details([wall.rect(a + w * i / 5, a + w * (i + 1) / 5, low, low + h)], any_colour(rng))
    elif style == 2:
        blob(0.5, 0.2, 0.3 * w, 0.2 * h, any_colour(rng))
        blob(0.5, 0.57, 0.13 * w, 0.2 * h, hsv(0.06, 0.4, 0.8))
    else:
        for _ in range(3):
            r = min(w, h) * rng.uniform(0.12, 0.22)
            blob(rng.uniform(0.25, 0.75), rng.uniform(0.25, 0.75), r, r, any_colour(rng), int(rng.integers(1, 6)))


def draw_sofa(c: Canvas, x: float, width: float, z: float) -> None:
    """A sofa whose left end is at x; sometimes somebody sits on it."""
    cam, rng, cloth = c.cam, c.rng, any_colour(c.rng)
    texture = 1 + np.float32(0.06) * c.leaf + np.float32(0.07) * c.grain
    if rng.random() < 0.25:
        texture = texture * np.where((c.xs * 26) % 1 < 0.5, np.float32(1), np.float32(0.84))
    deep, arm, seat, high = 0.85, rng.uniform(0.14, 0.24), rng.uniform(0.38, 0.46), rng.uniform(0.75, 0.98)
    seats = int(rng.integers(2, 4))
    room = (width - 2 * arm) / seats

    def box(a: float, b: float, low: float, top: float, near: float, far: float, shade: float) -> None:
        draw_box(c, (x + a, x + b), (low, top), (z + near, z + far), times(cloth, shade), "sofa", texture)

    c.shadow(cam.level(x - 0.1, x + width + 0.15, 0, z - 0.12, z + deep), 0.4)
    box(0.05, width - 0.05, 0.08, high, deep - 0.25, deep, 0.94)
    lefts = [arm + i * room for i in range(seats)]
    for left in lefts:
        box(left + 0.02, left + room - 0.02, seat, high - 0.08, deep - 0.38, deep - 0.25, 1.0)
    box(arm, width - arm, 0.1, seat - 0.15, 0.02, 0.5, 0.8)
    for left in lefts:
        box(left + 0.015, left + room - 0.015, seat - 0.14, seat, 0, 0.5, 1.05)
    if rng.random() < 0.3:
        draw_person(c, x + width * rng.uniform(0.3, 0.7), z - 0.05, any_colour(rng), any_colour(rng), seated=True)
    else:
        for _ in range(rng.integers(0, 3)):
            px = x + width * rng.uniform(0.25, 0.75)
            corners = ((-0.2, 0), (0.2, 0.02), (0.18, 0.34), (-0.19, 0.32))
            c.fill(cam.at([(px + a, seat + b, z + 0.35) for a, b in corners]), any_colour(rng), "sofa", z)
    for left in (0, width - arm):
        box(left, left + arm, 0.08, seat + 0.2, -0.03, deep, 0.97)
    for px in (x + 0.06, x + width - 0.1):
        c.fill(cam.facing(px, px + 0.05, 0, 0.09, z), (0.2, 0.13, 0.09), "sofa", z)


def draw_table(c: Canvas, x: float, z: float) -> None:
    """A table, low or high, round or straight; what lies on it belongs to no class."""
    cam, rng = c.cam, c.rng
    wood = hsv(rng.uniform(0.04, 0.11), rng.uniform(0.05, 0.65), pick(rng, (0.22, 0.45, 0.65, 0.9)))
    texture = 1 + np.float32(0.06) * np.sin(c.ys * 260 + c.leaf * 3) + np.float32(0.04) * c.grain
    high, w, d = pick(rng, (0.42, 0.74)), rng.uniform(0.45, 0.85), rng.uniform(0.45, 0.8)
    c.shadow(cam.level(x - w, x + w, 0, z + 0.05, z + d), 0.32)
    for dz, shade in ((d - 0.06, 0.65), (0, 0.85)):
        for px in (x - w + 0.07, x + w - 0.07):
            leg = cam.at([(px, 0, z + dz), (px, high, z + dz)])
            c.rod(leg, 0.06 * cam.focal / z, times(wood, shade), "table", z)
    if rng.random() < 0.5:
        top = np.column_stack((x + CIRCLE[:, 0] * w * 1.1, np.full(16, high), z + d / 2 + CIRCLE[:, 1] * d / 2))
        c.fill(cam.at(top - (0, 0.05, 0)), times(wood, 0.7), "table", z)
        c.fill(cam.at(top), times(wood, 1.1), "table", z, texture)
    else:
        draw_box(c, (x - w, x + w), (high - 0.05, high), (z, z + d), wood, "table", texture)
    if rng.random() < 0.5:
        px, pz = x + rng.uniform(-0.5, 0.5) * w, z + d * rng.uniform(0.3, 0.6)
        vase = ((-0.05, 0), (0.05, 0), (0.09, 0.12), (0.04, 0.24), (-0.04, 0.24), (-0.09, 0.12))
        c.fill(cam.at([(px + a, high + b, pz) for a, b in vase]), any_colour(rng), "void", z)
    if rng.random() < 0.5:
        px, pz = x + rng.uniform(-0.6, 0.2) * w, z + d * rng.uniform(0.2, 0.5)
        c.fill(cam.level(px, px + 0.26, high + 0.03, pz, pz + 0.18), any_colour(rng), "void", z)
        c.fill(cam.facing(px, px + 0.26, high, high + 0.03, pz), (0.9, 0.88, 0.8), "void", z)


def draw_plant(c: Canvas, x: float, z: float) -> None:
    cam, rng, clay = c.cam, c.rng, any_colour(c.rng)
    green = hsv(rng.uniform(0.22, 0.42), rng.uniform(0.35, 0.75), rng.uniform(0.25, 0.6))
    high, size, broad = rng.uniform(0.28, 0.42), rng.uniform(0.45, 0.85), rng.uniform(0.08, 0.2)
    c.shadow(cam.spot(x, z, 0.24, 0.18), 0.35)
    for _ in range(15):
        turn, long = rng.uniform(-1.25, 1.25), size * rng.uniform(0.6, 1.15)
        dx, dy = sin(turn) * long, cos(turn) * long
        mx, my = x + dx * 0.6, high + dy * 0.6 + 0.06
        blade = (
            (x, high, z),
            (mx - dy * broad, my + dx * broad, z),
            (x + dx, high + dy, z),
            (mx + dy * broad, my - dx * broad, z),
        )
        c.fill(cam.at(blade), times(green, rng.uniform(0.65, 1.3)), "plant", z)
    c.fill(cam.at(((x - 0.13, 0, z), (x + 0.13, 0, z), (x + 0.19, high, z), (x - 0.19, high, z))), clay, "plant", z)
    c.details([cam.facing(x - 0.2, x + 0.2, high - 0.07, high, z)], times(clay, 1.15))


def draw_floor_lamp(c: Canvas, x: float, z: float, lit: bool) -> None:
    cam, rng = c.cam, c.rng
    tall, metal = rng.uniform(1.2, 1.7), hsv(0.1, rng.uniform(0, 0.5), rng.uniform(0.1, 0.6))
    cloth = hsv(rng.random(), rng.uniform(0.05, 0.5), rng.uniform(0.6, 0.95))
    c.rod(cam.at([(x, 0, z), (x, tall, z)]), 0.035 * cam.focal / z, metal, "lamp", z)
    c.fill(cam.spot(x, z, 0.15, 0.12), metal, "lamp", z)
    _shade(c, x, tall - 0.05, z, rng.uniform(0.17, 0.26), rng.uniform(0.22, 0.34), rng.uniform(0.5, 0.85), cloth, lit)


def draw_pendant(c: Canvas, x: float, z: float, ceiling: float, lit: bool) -> None:
    rng, cloth = c.rng, any_colour(c.rng)
    low = ceiling - rng.uniform(0.6, 0.95)
    c.rod(c.cam.at([(x, ceiling, z), (x, low + 0.2, z)]), 0.015 * c.cam.focal / z, (0.12, 0.12, 0.12), "lamp", z)
    _shade(c, x, low, z, rng.uniform(0.2, 0.34), 0.22, rng.uniform(0.25, 0.5), cloth, lit)


def _shade(
    c: Canvas, x: float, u: float, z: float, half: float, tall: float, taper: float, cloth: Rgb, lit: bool
) -> None:
    top = half * taper
    outline = c.cam.at(((x - half, u, z), (x + half, u, z), (x + top, u + tall, z), (x - top, u + tall, z)))
    c.fill(outline, mix(cloth, (1, 0.9, 0.65), 0.7) if lit else cloth, "lamp", z)
    if lit:
        c.shine(outline, (0.55, 0.4, 0.18))
