"""The tools that draw scenes: a canvas of twice the picture's size, a camera, and the light of the hour.

Shapes: H×W pixels of the picture · h×w = 2H×2W pixels of the canvas · N corners of a polygon.

Lengths in the picture are in picture heights (x to the right, y down). Lengths in the world are in metres (x to the
right, up, and z away from the camera).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import cos, pi, sin

import cv2
import numpy as np

from fewmask.labels import VOID, Mask

Rgb = tuple[float, float, float]
Points = np.ndarray | Sequence[Sequence[float]]
Box = tuple[slice, slice]

SHIFT = 4  # fractional bits of the coordinates that OpenCV draws with
CIRCLE = np.array([(cos(2 * pi * i / 16), sin(2 * pi * i / 16)) for i in range(16)], dtype=np.float32)
UNITS = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)], dtype=np.float32)


@dataclass(frozen=True)
class Light:
    """Hour and weather of a scene: the factors of its colours, and the haze that hides distant things."""

    ambient: Rgb
    haze: Rgb
    density: float
    """Part of the light that the haze swallows, per metre."""
    zenith: Rgb
    clouds: float
    """−1 for none to 1 for a covered sky."""
    night: bool
    saturation: float
    noise: float
    sun: float
    """−1 from the left to 1 from the right."""


@dataclass(frozen=True)
class Camera:
    """A pinhole camera along z: its vanishing point (x, y), its focal length, and its height over the ground."""

    x: float
    y: float
    focal: float
    height: float

    def at(self, points: Points) -> np.ndarray:
        """World points (…,3) to picture points (…,2)."""
        p = np.asarray(points, dtype=np.float32)
        scale = self.focal / np.maximum(p[..., 2:], 0.2)
        flat = p[..., :2] - np.array((0, self.height), np.float32)
        flat *= scale * np.array((1, -1), np.float32)
        flat += np.array((self.x, self.y), np.float32)
        return flat

    def facing(self, x0: float, x1: float, u0: float, u1: float, z: float) -> np.ndarray:
        """A rectangle that faces the camera."""
        return self.at(((x0, u0, z), (x1, u0, z), (x1, u1, z), (x0, u1, z)))

    def side(self, x: float, u0: float, u1: float, z0: float, z1: float) -> np.ndarray:
        """An upright rectangle along the view."""
        return self.at(((x, u0, z0), (x, u0, z1), (x, u1, z1), (x, u1, z0)))

    def level(self, x0: float, x1: float, u: float, z0: float, z1: float) -> np.ndarray:
        """A rectangle that lies at height u."""
        return self.at(((x0, u, z0), (x1, u, z0), (x1, u, z1), (x0, u, z1)))

    def disc(self, x: float, u: float, z: float, rx: float, ru: float) -> np.ndarray:
        """An ellipse that faces the camera."""
        k = self.focal / z
        centre = np.array((self.x + x * k, self.y + (self.height - u) * k), np.float32)
        return CIRCLE * np.array((rx * k, -ru * k), np.float32) + centre

    def spot(self, x: float, z: float, rx: float, rz: float) -> np.ndarray:
        """An ellipse on the ground."""
        points = np.zeros((16, 3), np.float32)
        points[:, 0], points[:, 2] = x + CIRCLE[:, 0] * rx, z + CIRCLE[:, 1] * rz
        return self.at(points)


@dataclass(frozen=True)
class Wall:
    """A plane that stands upright in the world: points on it are (metres along it, metres up)."""

    cam: Camera
    origin: tuple[float, float, float]
    along: tuple[float, float, float]

    def at(self, flat: Points) -> np.ndarray:
        """Points on the wall (…,2) to picture points (…,2)."""
        p = np.asarray(flat, np.float32)
        up = np.array((0, 1, 0), np.float32)
        return self.cam.at(
            np.array(self.origin, np.float32) + p[..., :1] * np.array(self.along, np.float32) + p[..., 1:] * up
        )

    def rect(self, a0: float, a1: float, u0: float, u1: float) -> np.ndarray:
        return self.at(((a0, u0), (a1, u0), (a1, u1), (a0, u1)))


class Canvas:
    """Colour (h,w,3), class (h,w), depth in metres (h,w) and emitted light (h,w,3) of a scene that is being drawn."""

    def __init__(
        self, size: tuple[int, int], names: tuple[str, ...], rng: np.random.Generator, cam: Camera, light: Light
    ) -> None:
        self.size, self.rng, self.cam, self.light = size, rng, cam, light
        self.h, self.w = 2 * size[0], 2 * size[1]
        self.wide = self.w / self.h
        self.names = {n: i for i, n in enumerate(names)}
        self.image = np.zeros((self.h, self.w, 3), dtype=np.float32)
        self.mask = np.full((self.h, self.w), VOID, dtype=np.uint8)
        self.depth = np.zeros((self.h, self.w), dtype=np.float32)
        self.glow = np.zeros((self.h, self.w, 3), dtype=np.float32)
        self.glows = False
        # Noise from lattices whose size follows the picture's shape, not its pixels: a scene looks alike at any size.
        self.broad, self.blot, self.leaf, self.grain = (self._noise(cells) for cells in (3, 10, 34, 110))
        self.xs = ((np.arange(self.w, dtype=np.float32) + 0.5) / self.h)[None, :]
        self.ys = ((np.arange(self.h, dtype=np.float32) + 0.5) / self.h)[:, None]

    def _noise(self, cells: int) -> np.ndarray:
        lattice = self.rng.random((cells + 2, round(cells * self.wide) + 2), dtype=np.float32) * 2 - 1
        return cv2.resize(lattice, (self.w, self.h), interpolation=cv2.INTER_CUBIC)

    @cached_property
    def plaster(self) -> np.ndarray:
        """A texture (h,w) for walls."""
        return 1 + np.float32(0.07) * self.blot + np.float32(0.06) * self.leaf + np.float32(0.04) * self.grain

    @cached_property
    def foliage(self) -> np.ndarray:
        """A texture (h,w) for leaves."""
        return 1 + np.float32(0.28) * self.leaf + np.float32(0.22) * self.grain + np.float32(0.12) * self.blot

    @cached_property
    def ground(self) -> tuple[np.ndarray, np.ndarray]:
        """The world's x (h,w) and z (h,w) of the ground under every subpixel; beyond the horizon z is 300 m."""
        cam = self.cam
        z = np.minimum(cam.focal * cam.height / np.maximum(self.ys - cam.y, 1e-3), 300).astype(np.float32)
        return (self.xs - cam.x) * (z / cam.focal), np.broadcast_to(z, (self.h, self.w))

    def sees(self, x0: float, x1: float, z: float) -> bool:
        """Whether anything between x0 and x1 at depth z can be in the picture."""
        k = self.cam.focal / z
        return self.cam.x + x1 * k > 0 and self.cam.x + x0 * k < self.wide

    def fill(
        self,
        points: Points,
        colour: Rgb,
        name: str | None = None,
        depth: float | np.ndarray | None = None,
        texture: np.ndarray | None = None,
    ) -> None:
        """Fill a polygon (N,2); `name` is its class ("void" for none of them), without it the class below stays.

        `texture` (h,w) multiplies the colour; `depth` may be an array (h,w).
        """
        corners = self._pixels(points)
        label = None if name is None else self.names.get(name, VOID)
        if name is not None and self.glows:
            cv2.fillPoly(self.glow, [corners], (0, 0, 0), shift=SHIFT)
        if texture is None and not isinstance(depth, np.ndarray):
            cv2.fillPoly(self.image, [corners], colour, shift=SHIFT)
            if label is not None:
                cv2.fillPoly(self.mask, [corners], label, shift=SHIFT)
            if depth is not None:
                cv2.fillPoly(self.depth, [corners], float(depth), shift=SHIFT)
            return
        box_and_stencil = self._stencil(corners)
        if box_and_stencil is None:
            return
        box, stencil = box_and_stencil
        flat = np.array(colour, dtype=np.float32)
        shade = flat if texture is None else texture[box][..., None] * flat
        np.copyto(self.image[box], shade, where=stencil[..., None])
        if label is not None:
            np.copyto(self.mask[box], np.uint8(label), where=stencil)
        if depth is not None:
            there = depth[box] if isinstance(depth, np.ndarray) else np.float32(depth)
            np.copyto(self.depth[box], there, where=stencil)

    def details(self, polygons: np.ndarray | Sequence[Points], colour: Rgb) -> None:
        """Fill disjoint polygons that keep the class below them, such as windows of a house or markings of a road."""
        if len(polygons):
            many = isinstance(polygons, np.ndarray)
            corners = list(self._pixels(polygons)) if many else [self._pixels(p) for p in polygons]
            cv2.fillPoly(self.image, corners, colour, shift=SHIFT)

    def rod(self, points: Points, width: float, colour: Rgb, name: str, depth: float) -> None:
        """A line of `width` that is never thinner than a pixel of the picture, so that its class is seen."""
        corners, thick = [self._pixels(points)], max(3, round(width * self.h))
        cv2.polylines(self.image, corners, False, colour, thick, shift=SHIFT)
        cv2.polylines(self.mask, corners, False, self.names[name], thick, shift=SHIFT)
        cv2.polylines(self.depth, corners, False, float(depth), thick, shift=SHIFT)

    def shadow(self, points: Points, strength: float) -> None:
        """Darken a polygon."""
        box_and_stencil = self._stencil(self._pixels(points))
        if box_and_stencil is not None:
            box, stencil = box_and_stencil
            self.image[box] *= np.where(stencil, np.float32(1 - strength), np.float32(1))[..., None]

    def shine(self, points: Points, colour: Rgb) -> None:
        """Let a polygon emit light. Things of a class that are drawn over it later hide it."""
        self.glows = True
        cv2.fillPoly(self.glow, [self._pixels(points)], colour, shift=SHIFT)

    def vote(self) -> Mask:
        """The mask (H,W): the class of three of a pixel's four subpixels, or else void."""
        m = self.mask
        a, b, c, d = m[::2, ::2], m[::2, 1::2], m[1::2, ::2], m[1::2, 1::2]
        first = (a == b) & ((a == c) | (a == d))
        second = (c == d) & ((c == a) | (c == b))
        return np.where(first, a, np.where(second, c, np.uint8(VOID)))

    def _pixels(self, points: Points | Sequence[Points]) -> np.ndarray:
        places = np.asarray(points, dtype=np.float32) * np.float32(self.h << SHIFT) - np.float32(1 << (SHIFT - 1))
        bound = np.float32((20 * self.h) << SHIFT)  # OpenCV's fixed-point numbers must not overflow
        return np.minimum(np.maximum(places, -bound), bound).astype(np.int32)

    def _stencil(self, corners: np.ndarray) -> tuple[Box, np.ndarray] | None:
        """The box around a polygon and its inside (bool); None if it is outside of the picture."""
        x0, y0 = (max((int(v) >> SHIFT) - 1, 0) for v in corners.min(0))
        x1, y1 = (min((int(v) >> SHIFT) + 3, edge) for v, edge in zip(corners.max(0), (self.w, self.h), strict=True))
        if x1 <= x0 or y1 <= y0:
            return None
        stencil = np.zeros((y1 - y0, x1 - x0), dtype=np.uint8)
        inside = corners - np.array((x0 << SHIFT, y0 << SHIFT), np.int32)
        cv2.fillPoly(stencil, [inside], 1, shift=SHIFT)
        return (slice(y0, y1), slice(x0, x1)), stencil.view(bool)
