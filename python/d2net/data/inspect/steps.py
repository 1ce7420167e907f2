"""Seconds from one snippet to the next, fitted to durations, and the fps and stride that would make them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from d2net.data.stated import fits

_RATES = (25.0, 30.0, 29.97, 24.0, 23.976, 15.0, 10.0, 50.0, 60.0)
_STRIDES = (16, 8, 4, 32, 1, 2, 5, 6, 10, 12, 15, 20, 24, 25, 30, 48, 64)
_CLOSE = 0.01


class Fit(NamedTuple):
    """step: s between snippets, None where frames are: frames between snippets of videos of their own fps.

    agree: the share of videos whose number of snippets follows. readings: (fps, stride) that make this step.
    resized: all videos are as long though their durations differ.
    """

    step: float | None
    frames: float | None
    agree: float
    readings: tuple[tuple[float, int], ...]
    resized: bool = False

    def flags(self) -> str:
        """The options that state it; empty where none does."""
        if self.resized:
            return "--resized"
        if self.frames is not None:
            n = round(self.frames)
            return f"stride and snippet_frames {n} beside the videos' own fps, by --video-info or in the annotations"
        if self.readings:
            fps, stride = self.readings[0]
            return f"--fps {fps:g} --stride {stride} --snippet-frames {stride}"
        return f"--snippet-seconds {self.step:.4g}" if self.step else ""

    def tree(self) -> dict[str, Any]:
        return {**self._asdict(), "readings": [list(r) for r in self.readings], "flags": self.flags()}


def fit_steps(lengths: Mapping[str, int], durations: Mapping[str, float], rates: Mapping[str, float]) -> Fit | None:
    """The step that most videos agree with, None where fewer than 3 videos or less than half of them do.

    Args:
        lengths: snippets; durations: seconds; rates: fps; each by video.
    """
    names = [v for v in lengths if v in durations]
    if len(names) < 3:
        return None
    s, seconds = np.array([lengths[v] for v in names], float), np.array([durations[v] for v in names])
    if s.min() == s.max() and seconds.max() > 1.1 * seconds.min():
        return Fit(None, None, 1.0, (), resized=True)
    step = _slope(s, seconds)
    agree = _agreement(s, seconds / step)
    with_rates = [v for v in names if v in rates]
    own = {rates[v] for v in with_rates}
    if len(own) > 1 and len(with_rates) == len(names):
        frames = seconds * np.array([rates[v] for v in names])
        stride = _slope(s, frames)
        shared = _agreement(s, frames / stride)
        if shared > agree and shared >= 0.5:
            near = round(stride)
            exact = near if near and abs(stride - near) <= _CLOSE * stride else stride
            return Fit(None, float(exact), shared, ())
    if agree < 0.5:
        return None
    candidates = tuple(own) if len(own) == 1 else _RATES
    readings = [
        (fps, stride, abs(step * fps / stride - 1))
        for fps in candidates
        for stride in _STRIDES
        if abs(step * fps / stride - 1) <= _CLOSE
    ]
    # The customary strides first, then the closest.
    readings.sort(key=lambda r: (_STRIDES.index(r[1]) > 3, round(r[2], 3), _STRIDES.index(r[1])))
    return Fit(float(step), None, agree, tuple((fps, stride) for fps, stride, _ in readings[:3]))


def _slope(s: np.ndarray, total: np.ndarray) -> float:
    """total / s of most videos, then the line through those near it: what is cut off the end does not bend it."""
    first = float(np.median(total / s))
    near = np.abs(s - total / first) <= np.maximum(2.0, 0.02 * total / first)
    a, b = s[near], total[near]
    if len(a) < 8 or a.max() < 1.5 * a.min():
        return first
    return float(np.polyfit(a, b, 1)[0])


def _agreement(s: np.ndarray, expected: np.ndarray) -> float:
    return float(np.mean([fits(a, b) for a, b in zip(s.tolist(), expected.tolist(), strict=True)]))
