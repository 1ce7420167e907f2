"""Histograms of colour, gradients, flow and motion boundaries: features that need no weights."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from d2net.video.backbones.base import Backbone, Spec, changed
from d2net.video.decode import Size

GRID, HALVES, TONES, DIRECTIONS = 2, 2, 16, 8
CELLS = GRID * GRID
SPEEDS = (0.5, 1.5, 4.0)  # pixels a frame
FASTEST, SHARPEST = 10.0, 2.0  # where magnitudes of flow and of its derivatives are clipped
STILL = 0.05  # magnitude of a derivative of flow below which nothing changes


class Motion(Backbone):
    """512 numbers a snippet: 256 of appearance and 256 of motion, each a square root of a share in [0, 1].

    The picture is 2 x 2 cells. Of each: histograms of Y, Cb, Cr in 16 bins; and of each half of the snippet's frames, 8
    directions of gradient, 8 of flow with 4 of its speed, and 8 of each component's derivatives (motion boundaries,
    which a moving camera leaves alone) with the shares of pixels where they are still and not. Directions are weighted
    by magnitude, and what does not move gives nothing. Meant for demos, fixed cameras and sports clips: it knows no
    objects, and no benchmark is won with it.
    """

    per_snippet = True
    batch = 1

    def __init__(self, **changes: Any):
        self.name = "motion"
        self.spec = changed(Spec(size=Size(112), flow="dis"), changes)
        self.streams = (("appearance", 256), ("motion", 256))

    def __call__(self, frames: np.ndarray, flow: np.ndarray | None) -> np.ndarray:
        if flow is None:
            raise ValueError("motion: it reads flow, and got none")
        return np.stack([describe(f, m) for f, m in zip(frames, flow, strict=True)])


def describe(frames: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """frames (3, T, h, w) uint8, flow (2, T, h, w) -> (512,) float32, of every second pixel of every second row."""
    length = frames.shape[1]
    red, green, blue = (c.astype(np.float32) for c in frames)
    grey = 0.299 * red + 0.587 * green + 0.114 * blue
    dx, dy = _derivatives(grey)
    place = _cells(*dx.shape[1:])
    halves = np.arange(length) * HALVES // length
    whole = _Parts(place[None].repeat(len(range(0, length, 4)), 0), CELLS)
    parts = _Parts(place[None] + CELLS * halves[:, None, None], CELLS * HALVES)
    shares = [whole.shares(tones, TONES) for tones in _tones(frames[:, ::4, 1:-1:2, 1:-1:2])]
    shares.append(parts.directions(dx, dy, 128.0))
    u, v = (_inner(component) for component in flow)
    shares += [parts.directions(u, v, FASTEST), parts.shares(np.digitize(np.hypot(u, v), SPEEDS), len(SPEEDS) + 1)]
    for component in flow:
        dx, dy = _derivatives(component)
        still = np.hypot(dx, dy) < STILL
        shares += [parts.directions(dx, dy, SHARPEST), parts.shares(still.view(np.uint8), 2)]
    return np.sqrt(np.concatenate([s.ravel() for s in shares])).astype(np.float32)


class _Parts:
    """Pixels by the part of the snippet that they are in: (T, h, w) indices below `count`."""

    def __init__(self, index: np.ndarray, count: int):
        self.index, self.count = index.astype(np.int32).ravel(), count
        self.pixels = np.maximum(np.bincount(self.index, minlength=count), 1)[:, None]

    def shares(self, bins: np.ndarray, number: int, weights: np.ndarray | None = None) -> np.ndarray:
        """(count, number): of each part, the mean weight by bin; 1 without weights."""
        index = self.index * number + bins.ravel()
        sums = np.bincount(index, None if weights is None else weights.ravel(), self.count * number)
        return sums.reshape(self.count, number) / self.pixels

    def directions(self, dx: np.ndarray, dy: np.ndarray, largest: float) -> np.ndarray:
        """(count, 8): mean magnitudes by direction, the first along x, in parts of `largest`."""
        # Turned by half a bin, the bin is three signs: no arc tangent is needed.
        x, y = _COS * dx - _SIN * dy, _SIN * dx + _COS * dy
        low, left, steep = (b.view(np.uint8) for b in (y < 0, x < 0, np.abs(y) > np.abs(x)))
        octant = low * 4 + (left ^ low) * 2 + (steep ^ left ^ low)
        return self.shares(octant, DIRECTIONS, np.minimum(np.hypot(dx, dy) / np.float32(largest), 1))


_COS, _SIN = np.float32(math.cos(math.pi / DIRECTIONS)), np.float32(math.sin(math.pi / DIRECTIONS))


def _cells(height: int, width: int) -> np.ndarray:
    """(h, w) index of the cell that a pixel is in."""
    row, column = (np.arange(n) * GRID // max(n, 1) for n in (height, width))
    return row[:, None] * GRID + column


def _tones(frames: np.ndarray) -> list[np.ndarray]:
    """Bins of Y, Cb and Cr (T, h, w)."""
    red, green, blue = (c.astype(np.int32) for c in frames)
    y = 77 * red + 150 * green + 29 * blue
    cb = -43 * red - 85 * green + 128 * blue + 32768
    cr = 128 * red - 107 * green - 21 * blue + 32768
    return [np.clip(c >> 12, 0, TONES - 1) for c in (y, cb, cr)]


def _inner(planes: np.ndarray) -> np.ndarray:
    """Every second pixel of every second row, borders left out."""
    return planes[..., 1:-1:2, 1:-1:2]


def _derivatives(planes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Central differences along x and y at the pixels of `_inner`."""
    dx = (planes[..., 1:-1:2, 2::2] - planes[..., 1:-1:2, :-2:2]) / 2
    dy = (planes[..., 2::2, 1:-1:2] - planes[..., :-2:2, 1:-1:2]) / 2
    return dx, dy
