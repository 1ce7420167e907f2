"""Features of made-up videos, each made when it is read: any number of them in bounded memory."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from d2net.data.features.store import FeatureStore
from d2net.data.files import DataError
from d2net.data.synth.demo import FPS, STRIDE, smooth
from d2net.data.synth.timelines import Timeline, Timelines

SCENES, SCENE_SNIPPETS = 4, 10


@dataclass(frozen=True)
class Look:
    """What features look like.

    Args:
        width: of all streams together; streams: their names; stream_signal: how strong actions are in each.
        signal: how far an action's features lie from the background's; at 1, as far as in the demo, at any width.
        noise: how strong the noise is, which is smooth over three snippets; 0.9 in the demo.
        background: how strong the scenes are that change every ten snippets, of four; 0.7 in the demo.
        fps, stride, snippet_frames: when a snippet is.
    """

    width: int = 64
    streams: tuple[str, ...] = ("rgb", "flow")
    stream_signal: tuple[float, ...] = ()
    signal: float = 1.0
    noise: float = 0.9
    background: float = 0.7
    fps: float = FPS
    stride: float = STRIDE
    snippet_frames: float = STRIDE

    def __post_init__(self) -> None:
        count = len(self.streams)
        if not count or len(set(self.streams)) < count:
            raise DataError(f"streams must be different names, got {', '.join(self.streams) or 'none'}")
        if self.width < count or self.width % count:
            raise DataError(f"width must be a multiple of the {count} streams, got {self.width}")
        if self.stream_signal and len(self.stream_signal) != count:
            raise DataError(f"stream_signal must be {count} numbers, a stream each, got {len(self.stream_signal)}")
        strengths = [(name, getattr(self, name)) for name in ("signal", "noise", "background")]
        for name, value in [*strengths, *(("stream_signal", x) for x in self.stream_signal)]:
            if not 0 <= value <= 100:
                raise DataError(f"{name} must be in [0, 100], got {value}")
        for name in ("fps", "stride", "snippet_frames"):
            if not 1e-6 <= getattr(self, name) <= 1e6:
                raise DataError(f"{name} must be in [1e-6, 1e6], got {getattr(self, name)}")

    def snippets(self, duration: float) -> int:
        """How many fit into so many seconds; at least one."""
        return max(1, int((duration * self.fps - self.snippet_frames) // self.stride) + 1)

    def stream_rows(self) -> list[list]:
        """[first, end, name] of each stream, as annotations have them."""
        own = self.width // len(self.streams)
        return [[i * own, (i + 1) * own, name] for i, name in enumerate(self.streams)]


class SyntheticFeatures(FeatureStore):
    """Video i has its own numbers, from (seed, i) alone: the first of many are the same as those of few.

    Args:
        timelines: what happens; look: how it looks; videos: how many; test_share: of them in the subset test, by lot.
    """

    layout = "made up"

    def __init__(self, timelines: Timelines, look: Look, videos: int, *, test_share: float = 1 / 3, seed: int = 0):
        if not 1 <= videos <= 10**7:
            raise DataError(f"videos must be 1 to 10000000, got {videos}")
        if not 0 <= test_share <= 1:
            raise DataError(f"test_share must be in [0, 1], got {test_share}")
        if seed < 0:
            raise DataError(f"seed must not be negative, got {seed}")
        self.timelines, self.look, self.test_share, self.seed = timelines, look, test_share, seed
        self.index = {c: k for k, c in enumerate(timelines.classes)}
        rng = np.random.default_rng([seed, 0])
        self.patterns = _scaled(rng, len(timelines.classes), look.width) * look.signal
        self.patterns *= np.repeat(look.stream_signal or (1.0,) * len(look.streams), look.width // len(look.streams))
        self.scenes = _scaled(rng, SCENES, look.width) * look.background
        half = np.dtype(np.float16)
        lengths = {self.name(i): look.snippets(self.timeline(i)[1].duration) for i in range(videos)}
        said = {"look": asdict(look), "test_share": test_share, "seed": seed, "of": repr(timelines)}
        super().__init__(f"synthetic {json.dumps(said)}", {n: ((s, look.width), half) for n, s in lengths.items()})
        self.stated = {name: float(getattr(look, name)) for name in ("fps", "stride", "snippet_frames")}
        self.streams = look.stream_rows()

    @staticmethod
    def name(i: int) -> str:
        return f"video_{i:07}"

    def timeline(self, i: int) -> tuple[str, Timeline]:
        """(subset, timeline) of video i."""
        rng = np.random.default_rng([self.seed, 1, i])
        subset = "test" if rng.random() < self.test_share else "train"
        return subset, self.timelines.draw(rng)

    def sources(self) -> list[Path]:
        return []

    def _read(self, name: str) -> np.ndarray:
        i = int(name.removeprefix("video_"))
        timeline, s, look = self.timeline(i)[1], self.lengths[name], self.look
        rng = np.random.default_rng([self.seed, 2, i])
        x = self.scenes[np.repeat(rng.integers(SCENES, size=-(-s // SCENE_SNIPPETS)), SCENE_SNIPPETS)[:s]]
        x = x + look.noise * smooth(rng.standard_normal((s, look.width)), 3)
        for segment in timeline.segments:
            first, share = self._share(segment.start, segment.end, s)
            x[first : first + len(share)] += share[:, None] * self.patterns[self.index[segment.label]]
        return np.clip(x, -60000, 60000).astype(np.float16)

    def _share(self, start: float, end: float, s: int) -> tuple[int, np.ndarray]:
        """The first snippet that [start, end) seconds touch, and how much of it and the following ones they cover."""
        stride, length = self.look.stride / self.look.fps, self.look.snippet_frames / self.look.fps
        first = min(max(0, math.ceil((start - length) / stride)), s)
        last = min(max(first, math.ceil(end / stride)), s)
        begin = np.arange(first, last) * stride
        return first, np.clip(np.minimum(begin + length, end) - np.maximum(begin, start), 0, None) / length


def _scaled(rng: np.random.Generator, count: int, width: int) -> np.ndarray:
    """Patterns as long as the demo's of 64 numbers."""
    return rng.standard_normal((count, width)) * math.sqrt(64 / width)
