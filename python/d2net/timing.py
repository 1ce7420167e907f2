"""When a snippet is: from snippet indices to seconds."""

from __future__ import annotations

import reprlib
import sys
import warnings
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


class UnknownTiming(ValueError):
    """Seconds were asked for and nothing says when a snippet is."""


class TimingWarning(UserWarning):
    """A video's features and its duration disagree."""


@dataclass(frozen=True)
class Timing:
    """Snippet i covers [i·stride/fps, (i·stride + snippet_frames)/fps) seconds.

    Args:
        fps, stride, snippet_frames: frames per second, frames between snippets, frames in one; all three.
        snippet_seconds: in place of them: back-to-back snippets of this length.
        resized: in place of them: features were resized to a fixed length, so that stride = duration / s.

    Raises:
        ValueError: incomplete, conflicting, or not positive and finite.
    """

    fps: float | None = None
    stride: float | None = None
    snippet_frames: float | None = None
    snippet_seconds: float | None = None
    resized: bool = False

    def __post_init__(self) -> None:
        frames = {"fps": self.fps, "stride": self.stride, "snippet_frames": self.snippet_frames}
        given = {k: v for k, v in {**frames, "snippet_seconds": self.snippet_seconds}.items() if v is not None}
        for name, value in given.items():
            if not isinstance(value, (int, float)) or not 0 < value <= sys.float_info.max:
                raise ValueError(f"timing: {name} must be a positive number, got {reprlib.repr(value)}")
        of_frames = [k for k in frames if k in given]
        kinds = bool(of_frames) + ("snippet_seconds" in given) + bool(self.resized)
        if kinds > 1:
            raise ValueError(
                f"timing: {', '.join(given)}{' and resized' if self.resized else ''} exclude each other; "
                "give fps, stride and snippet_frames, or snippet_seconds, or resized"
            )
        if kinds == 0:
            raise UnknownTiming("timing: give fps, stride and snippet_frames, or snippet_seconds, or resized")
        if of_frames and len(of_frames) < 3:
            missing = [k for k in frames if k not in given]
            raise ValueError(f"timing: {', '.join(of_frames)} given without {' and '.join(missing)}")

    def steps(self, duration: float | None, snippets: int | None) -> tuple[float, float]:
        """(stride, snippet length) in seconds."""
        if self.snippet_seconds is not None:
            return self.snippet_seconds, self.snippet_seconds
        if self.resized:
            if duration is None or not snippets:
                raise UnknownTiming("timing: resized features need the video's duration and its number of snippets")
            return duration / snippets, duration / snippets
        assert self.fps and self.stride and self.snippet_frames
        return self.stride / self.fps, self.snippet_frames / self.fps

    def seconds(
        self, start: np.ndarray, end: np.ndarray, duration: float | None = None, snippets: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Half-open snippet ranges [start, end) in seconds, clipped to the duration where it is known.

        [a, b) becomes [a·stride/fps, ((b − 1)·stride + snippet_frames)/fps). start and end may be fractions of
        snippets (upsampled activations); a range shorter than a snippet keeps its share of the snippet's length.
        Warns (TimingWarning) where the number of snippets and the duration disagree by more than 2 snippets.
        """
        stride, length = self.steps(duration, snippets)
        if duration is not None and snippets is not None and abs(snippets - duration / stride) > 2:
            warnings.warn(
                f"{snippets} snippets, but {duration:g} s make {duration / stride:.1f}; check fps and stride",
                TimingWarning,
                stacklevel=2,
            )
        a, b = np.asarray(start, np.float64), np.asarray(end, np.float64)
        a, b = a * stride, b * stride + (length - stride) * np.minimum(b - a, 1.0)
        if duration is not None:
            a, b = np.clip(a, 0, duration), np.clip(b, 0, duration)
        return a, b

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Timing:
        return cls(**values)
