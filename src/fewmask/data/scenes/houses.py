"""Houses: along a street, across it, and in the country.

Shapes: N windows of a façade.
"""

from __future__ import annotations

import numpy as np

from fewmask.data.scenes.canvas import UNITS, Canvas, Rgb, Wall
from fewmask.data.scenes.things import any_colour, hsv, pick, times


def facade_colour(rng: np.random.Generator) -> Rgb:
    hue = pick(rng, (0.03, 0.07, 0.1, 0.13, 0.58, 0.35, 0.95)) + rng.uniform(-0.02, 0.02)
    return hsv(hue, rng.uniform(0.04, 0.55), rng.uniform(0.4, 0.92))


def windows(a0: float, a1: float, u0: float, u1: float, step: float, floor: float) -> np.ndarray:
    """A grid of window rectangles (N,4,2) in a façade's own metres."""
    across, up = max(1, round((a1 - a0) / step)), max(1, int((u1 - u0) / floor))
    bay = (a1 - a0) / across
    middle, low = np.meshgrid(a0 + (np.arange(across) + 0.5) * bay, u0 + (np.arange(up) + 0.28) * floor)
    centre = np.stack((middle.ravel(), low.ravel()), -1).astype(np.float32)
    return centre[:, None] + UNITS * np.array((0.23 * bay, 0.28 * floor), np.float32)


def draw_windows(c: Canvas, wall: Wall, panes: np.ndarray) -> None:
    """Glass and frames of a façade's windows (N,4,2), some of them lit, most when it is dark."""
    rng = c.rng
    quads = wall.at(panes)
    lit = rng.random(len(quads)) < (0.45 if c.light.night else 0.04)
    glass = hsv(rng.uniform(0.5, 0.68), rng.uniform(0.1, 0.4), rng.uniform(0.15, 0.55))
    c.details(wall.at(panes + UNITS * np.float32(0.12)), times((1.0, 0.97, 0.92), pick(rng, (0.9, 0.3))))
    c.details(quads, glass)
    c.details(quads[lit], (1.0, 0.85, 0.55))
    if c.light.night:
        for quad in quads[lit]:
            c.shine(quad, (0.62, 0.45, 0.2))


def draw_row_house(c: Canvas, x: float, way: int, z0: float, z1: float) -> None:
    """A house beside the street, left (way −1) or right (1): its front along the street and its visible end."""
    cam, rng = c.cam, c.rng
    tall, colour = rng.uniform(5.5, 15), facade_colour(rng)
    front = Wall(cam, (x, 0, 0), (0, 0, 1))
    base = times(colour, 1.02 if way * c.light.sun < 0 else 0.82)
    aside = np.where(np.abs(c.xs - cam.x) < 1e-3, np.float32(1e-3), c.xs - cam.x)
    depth = np.broadcast_to(np.clip(np.abs(np.float32(cam.focal * x) / aside), z0, z1), c.mask.shape)
    c.fill(cam.facing(x, x + way * 30, 0, tall, z0), times(colour, 0.9), "building", z0, c.plaster)
    c.fill(front.rect(z0, z1, 0, tall), base, "building", depth, c.plaster)
    c.details([front.rect(z0, z1, tall - 0.35, tall), front.rect(z0, z1, 0, 0.5)], times(base, 0.7))
    if rng.random() < 0.5:  # a shop with its awning
        c.details([front.rect(z0 + 0.6, z1 - 0.6, 0.4, 2.7)], times(any_colour(rng), 0.7))
        c.details([front.rect(z0 + 0.3, z1 - 0.3, 2.6, 3.1)], any_colour(rng))
    step, floor = rng.uniform(1.8, 3), rng.uniform(2.7, 3.4)
    if z0 < 40:
        draw_windows(c, front, windows(z0, z1, 3.5, max(tall - 0.6, 6.3), step, floor))


def draw_block(c: Canvas, x0: float, x1: float, tall: float, z: float) -> None:
    """A house seen from the front, with a roof, and a door or a shop."""
    cam, rng = c.cam, c.rng
    if not c.sees(x0, x1, z):
        return
    colour = facade_colour(rng)
    roof = hsv(rng.uniform(0, 0.08), rng.uniform(0.1, 0.5), rng.uniform(0.25, 0.5))
    front, style, rise = Wall(cam, (0, 0, z), (1, 0, 0)), rng.random(), rng.uniform(1.2, 2.4)
    top: list[tuple[float, float]] = []
    if style < 0.35:
        top = [(x0 - 0.2, tall), (x1 + 0.2, tall), ((x0 + x1) / 2, tall + rise)]
    elif style < 0.65:
        top = [(x0, tall), (x1, tall), (x1 - 0.8, tall + rise), (x0 + 0.8, tall + rise)]
    if top:
        c.fill(front.at(top), roof, "building", z, c.plaster)
    c.fill(front.rect(x0, x1, 0, tall), colour, "building", z, c.plaster)
    c.details([front.rect(x0, x1, 0, 0.4), front.rect(x0, x1, tall - 0.25, tall)], times(colour, 0.72))
    if z > 40:  # too far to see a door
        draw_windows(c, front, windows(x0, x1, 1, tall - 0.4, 2.4, 3.2))
        return
    if rng.random() < 0.4 and tall > 5:
        c.details([front.rect(x0 + 0.5, x1 - 0.5, 0.5, 2.4)], hsv(0.55, 0.2, rng.uniform(0.15, 0.4)))
        if c.light.night:
            c.shine(front.rect(x0 + 0.6, x1 - 0.6, 0.6, 2.3), (0.5, 0.42, 0.25))
        c.details([front.rect(x0 + 0.3, x1 - 0.3, 2.3, 3.0)], (0.9, 0.88, 0.82))
        edges = np.linspace(x0 + 0.3, x1 - 0.3, 9)
        stripes = [front.rect(a, b, 2.3, 3.0) for a, b in zip(edges[::2], edges[1::2], strict=False)]
        c.details(stripes, any_colour(rng))
    else:
        draw_windows(c, front, windows(x0, x1, 0.9, 2.6, rng.uniform(1.8, 2.6), 2.2))
        door = x0 + rng.uniform(0.15, 0.7) * (x1 - x0)
        c.details([front.rect(door, door + 1.0, 0, 2.2)], times(any_colour(rng), 0.8))
    if tall > 6:
        draw_windows(c, front, windows(x0, x1, 3.4, tall - 0.4, rng.uniform(1.6, 2.6), rng.uniform(2.6, 3.1)))


def draw_cottage(c: Canvas, x: float, z: float) -> None:
    """A gabled house or a barn, seen at a corner."""
    cam, rng = c.cam, c.rng
    barn, way = rng.random() < 0.35, pick(rng, (-1, 1))
    wood = hsv(pick(rng, (0.0, 0.08, 0.1)), rng.uniform(0.45, 0.7), rng.uniform(0.3, 0.55))
    colour = wood if barn else facade_colour(rng)
    roof = hsv(pick(rng, (0.02, 0.06, 0.6)), rng.uniform(0.1, 0.6), rng.uniform(0.22, 0.5))
    w, d, tall, rise = rng.uniform(2.4, 4), rng.uniform(5, 9), rng.uniform(2.6, 4.2), rng.uniform(1.6, 3)
    texture = c.plaster + np.float32(0.06) * np.sin(c.xs * 300) if barn else c.plaster
    # The long side runs across the picture and away a little, so that the gable and a flank are both seen.
    flank = Wall(cam, (x, 0, z), (way, 0, 2 / d))
    gable = Wall(cam, (x, 0, z), (-way, 0, 0.8 / w))
    ridge = tall + rise
    near, far = (x - way * w / 2, ridge, z + w / 4), (x + way * (d + 0.3), ridge, z + 1 + w / 2)
    slope = cam.at([(x, tall, z - 0.2), (x + way * (d + 0.3), tall, z + 1.8), far, near])
    low, high = sorted((x - way * w, x + way * d))
    c.shadow(cam.level(low - 0.5, high + 0.5, 0, z - 1, z + 1), 0.3)
    if rng.random() < 0.6:
        chimney = x + way * d * 0.5
        stack = cam.facing(chimney - 0.35, chimney + 0.35, ridge - 1, ridge + 0.7, z + 2)
        c.fill(stack, times(colour, 0.7), "building", z)
    c.fill(flank.rect(0, d, 0, tall), colour, "building", z, texture)
    c.fill(slope, roof, "building", z, c.plaster)
    outline = gable.at([(0, 0), (w, 0), (w, tall), (w / 2, ridge), (0, tall)])
    c.fill(outline, times(colour, 0.8), "building", z, texture)
    if not barn:
        draw_windows(c, flank, windows(0.5, d - 0.5, 0.8, 2.8, 2.2, 2.2))
    door = 0.42 * d
    c.details([flank.rect(door, door + (2.0 if barn else 1.0), 0, 2.2)], times(any_colour(rng), 0.7))
