"""Cars, from their ends and from their sides."""

from __future__ import annotations

import cv2
import numpy as np

from fewmask.data.scenes.canvas import CIRCLE, Canvas, Rgb, Wall
from fewmask.data.scenes.things import any_colour, mix, pick, times

# Outline of a car from the side (metres along, metres up), and its side windows.
OUTLINE = np.array(
    [(0, 0.3), (0.02, 0.85), (0.45, 0.98), (1.05, 1.46), (2.55, 1.46), (3.3, 0.98), (4.15, 0.82), (4.25, 0.35)]
)
GLASS = np.array([(0.75, 1.0), (1.15, 1.36), (2.48, 1.36), (3.0, 1.0)])
TYRE = (0.07, 0.07, 0.08)
HALF, ROOF = 0.86, 0.66  # half the width of the body and of the roof


def draw_car_along(c: Canvas, x: float, z: float, rear: bool) -> None:
    """A car from its end, its rear or its front, with the flank that the camera sees."""
    cam, rng = c.cam, c.rng
    if not c.sees(x - 2, x + 2, z):
        return
    colour, tall = any_colour(rng), rng.uniform(0.95, 1.25)
    glass = _glass(c)

    def along(profile: np.ndarray, way: int) -> np.ndarray:
        half = np.where(profile[:, 1] > 1.2, ROOF, HALF)
        return cam.at(np.column_stack((x + way * half, profile[:, 1] * tall, z + profile[:, 0])))

    c.shadow(cam.level(x - HALF - 0.15, x + HALF + 0.15, 0, z - 0.2, z + 4.4), 0.45)
    for s in (-0.55, 0.55):
        c.fill(cam.facing(x + s - 0.14, x + s + 0.14, 0, 0.4, z), TYRE, "car", z)
    hull = cv2.convexHull(np.concatenate((along(OUTLINE, -1), along(OUTLINE, 1))))[:, 0]
    c.fill(hull, times(colour, 1.1), "car", z)
    way = -1 if x > 0 else 1
    c.fill(along(OUTLINE, way), times(colour, 0.75), "car", z)
    c.details([along(GLASS, way)], glass)
    for hub in (0.85, 3.35):
        wheel = np.column_stack(
            (np.full(16, x + way * HALF), 0.33 + CIRCLE[:, 1] * 0.33, z + hub + CIRCLE[:, 0] * 0.33)
        )
        c.fill(cam.at(wheel), TYRE, "car", z)
    end = Wall(cam, (x, 0, z), (1, 0, 0))
    c.details([end.rect(-HALF, HALF, 0.3 * tall, 0.9 * tall)], colour)
    low, high = 0.95 * tall, 1.36 * tall
    screen = ((x - 0.76, low, z + 0.3), (x + 0.76, low, z + 0.3), (x + 0.58, high, z + 0.9), (x - 0.58, high, z + 0.9))
    c.details([cam.at(screen)], glass)
    lamps = [end.rect(s - 0.15, s + 0.15, 0.6 * tall, 0.78 * tall) for s in (-0.68, 0.68)]
    c.details(lamps, (0.7, 0.1, 0.08) if rear else (0.92, 0.92, 0.85))
    c.details([end.rect(-0.25, 0.25, 0.42 * tall, 0.54 * tall)], (0.85, 0.85, 0.75))
    c.details([end.rect(-HALF, HALF, 0.24 * tall, 0.34 * tall)], (0.13, 0.13, 0.14))
    if c.light.night:
        for lamp in lamps:
            c.shine(lamp, (0.6, 0.05, 0.04) if rear else (0.9, 0.85, 0.65))


def draw_car_across(c: Canvas, x: float, z: float) -> None:
    """A car from its side."""
    cam, rng = c.cam, c.rng
    colour, tall, way = any_colour(rng), rng.uniform(0.95, 1.25), pick(rng, (-1, 1))
    side = Wall(cam, (x - way * 2.1, 0, z), (way, 0, 0))
    stretch = np.array((1, tall))
    c.shadow(cam.level(x - 2.3, x + 2.3, 0, z - 0.2, z + 1.6), 0.45)
    c.fill(side.at(OUTLINE * stretch), colour, "car", z)
    c.details([side.at(GLASS * stretch)], _glass(c))
    c.details([side.rect(1.78, 1.9, 0.5 * tall, 1.4 * tall)], times(colour, 0.7))
    c.details([side.rect(0, 4.25, 0.3 * tall, 0.45 * tall)], times(colour, 0.5))
    for hub in (-1.28, 1.27):
        c.fill(cam.disc(x + hub, 0.34, z, 0.36, 0.34), TYRE, "car", z)
        c.details([cam.disc(x + hub, 0.34, z, 0.18, 0.17)], (0.6, 0.6, 0.62))


def _glass(c: Canvas) -> Rgb:
    return mix((0.12, 0.15, 0.2), c.light.haze, 0.25)
