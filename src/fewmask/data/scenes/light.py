"""The hour and the weather, the sky that belongs to them, and the conversion to a photograph.

Shapes: H×W pixels of the picture · h×w = 2H×2W pixels of the canvas.
"""

from __future__ import annotations

import cv2
import numpy as np

from fewmask.config import Daylight
from fewmask.data.scenes.canvas import CIRCLE, Canvas, Light
from fewmask.data.scenes.things import mix

HOURS: dict[Daylight, dict[str, float]] = {
    "any": {"clear": 0.38, "overcast": 0.2, "dusk": 0.18, "fog": 0.1, "night": 0.14},
    "day": {"clear": 0.65, "overcast": 0.35},
    "night": {"night": 1.0},
}
"""The probability of each hour and of each weather."""


def outdoors(rng: np.random.Generator, saturation: float, daylight: Daylight) -> Light:
    """Draw an hour and a weather."""
    hour = str(rng.choice(list(HOURS[daylight]), p=list(HOURS[daylight].values())))
    ambient, haze, zenith, density, clouds, noise = {
        "clear": ((1.05, 1.0, 0.93), (0.8, 0.86, 0.92), (0.33, 0.55, 0.84), 0.004, (-0.7, 0.5), 0.01),
        "overcast": ((0.78, 0.8, 0.84), (0.76, 0.77, 0.79), (0.6, 0.63, 0.68), 0.008, (0.4, 0.8), 0.014),
        "dusk": ((0.92, 0.7, 0.58), (0.96, 0.66, 0.46), (0.4, 0.4, 0.62), 0.008, (-0.4, 0.4), 0.015),
        "fog": ((0.84, 0.84, 0.84), (0.8, 0.8, 0.78), (0.76, 0.77, 0.77), 0.04, (-1.0, -0.9), 0.012),
        "night": ((0.4, 0.45, 0.6), (0.2, 0.23, 0.36), (0.05, 0.07, 0.17), 0.007, (-0.8, 0.3), 0.018),
    }[hour]
    r, g, b, s, t, u = (float(v) for v in rng.uniform(-0.06, 0.06, 6))
    return Light(
        ambient=(ambient[0] + r, ambient[1] + g * 0.5, ambient[2] + b),
        haze=(haze[0] + s, haze[1] + t * 0.4, haze[2] + u),
        density=density * rng.uniform(0.6, 1.4),
        zenith=(max(zenith[0] + u, 0), max(zenith[1] + r, 0), zenith[2] + t),
        clouds=rng.uniform(*clouds),
        night=hour == "night",
        saturation=saturation,
        noise=noise,
        sun=rng.uniform(-1, 1),
    )


def draw_sky(c: Canvas) -> None:
    """Sky, clouds and what shines in them, over the whole canvas."""
    rng, light, horizon = c.rng, c.light, max(c.cam.y, 0.05)
    coarse = (slice(None, None, 2), slice(None, None, 2))  # clouds are soft: half the resolution will do
    blot = c.blot[coarse]
    fall = np.minimum(c.ys[::2] / np.float32(horizon), 1)[..., None]
    zenith, haze = np.array(light.zenith, np.float32), np.array(light.haze, np.float32)
    thick = c.broad[coarse] * 0.6 + blot * 0.35 + c.leaf[coarse] * 0.1 + light.clouds
    cover = np.clip(thick * 1.6, 0, 1)[..., None] * np.float32(0.25 if light.night else 0.85)
    cloud = np.array(mix(light.haze, (1.0, 1.0, 1.0), 0.1 if light.night else 0.5), np.float32)
    image = (zenith * (1 - fall) + haze * fall) * (1 - cover) + cloud * (0.9 + 0.12 * blot[..., None]) * cover
    # The sky is the source of light, so the ambient tint of everything else must not count twice.
    image /= np.array(light.ambient, np.float32)
    c.image[:] = cv2.resize(image, (c.w, c.h), interpolation=cv2.INTER_LINEAR)
    c.mask[:] = c.names["sky"]
    x, y = rng.uniform(0.1, 0.9) * c.wide, rng.uniform(0.04, 0.3)
    if light.night:
        for px, py in rng.random((24, 2)):
            c.shine(CIRCLE[::4] * 0.003 + (px * c.wide, py * horizon), (0.5, 0.5, 0.45))
        c.shine(CIRCLE * 0.035 + (x, y), (0.75, 0.75, 0.65))
    elif light.clouds < 0.2 and light.density < 0.02:
        c.shine(CIRCLE * 0.04 + (x, y), (0.5, 0.45, 0.3))


def develop(c: Canvas, rng: np.random.Generator) -> np.ndarray:
    """Canvas to photograph (H,W,3) uint8: ambient light, haze, glow, lens and sensor."""
    light, (height, width) = c.light, c.size
    image = cv2.resize(c.image, (width, height), interpolation=cv2.INTER_AREA) * np.array(light.ambient, np.float32)
    depth = cv2.resize(c.depth, (width, height), interpolation=cv2.INTER_AREA)
    visibility = np.exp(depth * np.float32(-light.density))[..., None]
    haze = np.array(light.haze, np.float32)
    image = haze + (image - haze) * visibility
    if c.glows:
        lit = cv2.resize(c.glow, (width, height), interpolation=cv2.INTER_AREA)
        image += lit + np.float32(0.9) * cv2.GaussianBlur(lit, (0, 0), 0.06 * height)
    grey = image @ np.array([[0.3], [0.59], [0.11]], np.float32)
    image = grey + (image - grey) * np.float32(light.saturation * rng.uniform(0.75, 1.15))
    vignette, exposure, softness = rng.uniform(0, 0.3), rng.uniform(0.88, 1.14), rng.random()
    dy, dx = np.linspace(-1, 1, height, dtype=np.float32)[:, None], np.linspace(-1, 1, width, dtype=np.float32)[None]
    image *= (np.float32(exposure) * (1 - np.float32(vignette / 2) * (dx * dx + dy * dy)))[..., None]
    if softness > 0.6:
        image = cv2.GaussianBlur(image, (0, 0), 0.006 * height * (softness - 0.3))
    # A soft shoulder instead of hard clipping keeps the colour of bright areas.
    bright = np.minimum(np.float32(0.8) - image, 0)
    image = np.where(bright < 0, 1 - np.float32(0.2) * np.exp(bright * 5), image)
    strength = np.float32(light.noise * rng.uniform(0.6, 1.5))
    image += rng.standard_normal(image.shape, dtype=np.float32) * strength
    return np.clip(image * 255 + 0.5, 0, 255).astype(np.uint8)
