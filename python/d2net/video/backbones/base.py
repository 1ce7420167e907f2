"""What extraction asks of a backbone."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from d2net.video.decode import Size
from d2net.video.decoders import DECODERS


@dataclass(frozen=True)
class Spec:
    """What a backbone reads and gives.

    Args:
        fps, stride, snippet_frames: frames per second, frames from one snippet to the next, frames in one.
        size: what frames are scaled and cut to.
        flow: the method of optical flow that it reads, or None.
        mean, std: normalisation per channel of RGB in [0, 1].
        decoder: av (PyAV), torchcodec, or torchcodec-cuda; pictures that they shrink differ, most in fine colours.
    """

    fps: float = 25.0
    stride: int = 16
    snippet_frames: int = 16
    size: Size = field(default_factory=lambda: Size(256, 224))
    flow: str | None = None
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    decoder: str = "av"

    def __post_init__(self) -> None:
        for name in ("stride", "snippet_frames"):
            if not isinstance(getattr(self, name), int) or not 1 <= getattr(self, name) <= 4096:
                raise ValueError(f"{name} must be an integer from 1 to 4096, got {getattr(self, name)!r}")
        if not 0.01 <= self.fps <= 1000:
            raise ValueError(f"fps must be 0.01 to 1000, got {self.fps}")
        if self.decoder not in DECODERS:
            raise ValueError(f"decoder must be one of {', '.join(DECODERS)}, got {self.decoder!r}")


def changed(spec: Spec, changes: Mapping[str, Any]) -> Spec:
    """The spec with other fields; `short` and `crop` are its size's, and a crop of 0 is none."""
    fields = dict(changes)
    short, crop = fields.pop("short", None), fields.pop("crop", None)
    if short is not None or crop is not None:
        new = short if short is not None else spec.size.short
        old = spec.size.crop if spec.size.crop is None or spec.size.crop <= new else new
        fields["size"] = Size(new, old if crop is None else crop or None)
    return replace(spec, **fields)


class Backbone(ABC):
    """Snippets to feature vectors.

    name: with weights, what identifies it. streams: (name, width) along the features. per_snippet: results depend on
    one snippet alone, computed where it is decoded; others get batches of one shape.
    """

    name: str
    spec: Spec
    streams: tuple[tuple[str, int], ...]
    per_snippet = False
    batch = 8

    @property
    def width(self) -> int:
        return sum(width for _, width in self.streams)

    @abstractmethod
    def __call__(self, frames: np.ndarray, flow: np.ndarray | None) -> np.ndarray:
        """frames (n, 3, T, h, w) uint8, flow (n, 2, T, h, w) float32 where the spec asks for it -> (n, d) float32."""

    def identity(self) -> dict[str, Any]:
        """What two extractions must share for their features to be of one kind."""
        fields = {"backbone": self.name, **asdict(self.spec), "streams": self.streams}
        if self.spec.decoder == "av":  # as before there were others
            del fields["decoder"]
        return json.loads(json.dumps(fields))  # as a log gives it back
