"""When what happens in made-up videos: drawn from distributions, or from annotations' own videos."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np

from d2net.data.annotations import Annotations, Segment, Video
from d2net.data.files import DataError

Rng = np.random.Generator

SHORTEST = 0.5  # seconds of an instance


class Timeline(NamedTuple):
    """duration in seconds; segments in the order of their starts."""

    duration: float
    segments: tuple[Segment, ...]


class Timelines(Protocol):
    """Where timelines come from; `draw` gives one, from numbers of `rng` alone."""

    @property
    def classes(self) -> tuple[str, ...]: ...

    def draw(self, rng: Rng) -> Timeline: ...


@dataclass(frozen=True)
class Profile:
    """Distributions of a data set; medians with spreads are log-normal: half the values lie within e^(±0.67·spread).

    Args:
        count: of classes.
        duration, duration_spread: seconds of a video, clipped to `shortest` and `longest`.
        instances, instances_spread: of a video of median duration, at least one.
        growth: instances grow as the duration to this power: 0 in trimmed clips, 1 where actions come at a rate.
        coverage, coverage_spread: the share of a video that its instances fill together, at most 0.95.
        second: how likely another class occurs too; half of the time it is the class's own partner.
        third: as `second`, of one more.
    """

    count: int
    duration: float
    duration_spread: float
    shortest: float
    longest: float
    instances: float
    instances_spread: float
    growth: float
    coverage: float
    coverage_spread: float
    second: float
    third: float = 0.0

    def __post_init__(self) -> None:
        for name in ("count", "duration", "shortest", "longest", "instances", "coverage"):
            if not 0 < getattr(self, name) < float("inf"):
                raise DataError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("duration_spread", "instances_spread", "coverage_spread", "growth"):
            if not 0 <= getattr(self, name) <= 5:
                raise DataError(f"{name} must be in [0, 5], got {getattr(self, name)}")
        for name in ("second", "third", "coverage"):
            if not 0 <= getattr(self, name) <= 1:
                raise DataError(f"{name} must be in [0, 1], got {getattr(self, name)}")
        if self.shortest > self.longest:
            raise DataError(f"shortest, {self.shortest:g} s, must not be more than longest, {self.longest:g} s")

    def changed(self, **fields: float) -> Profile:
        """With these fields; the limits of durations make room for their median."""
        new = {**asdict(self), **fields}
        new["shortest"] = min(new["shortest"], new["duration"])
        new["longest"] = max(new["longest"], new["duration"])
        return Profile(**new)

    @cached_property
    def classes(self) -> tuple[str, ...]:
        digits = len(str(self.count - 1))
        return tuple(f"class_{c:0{digits}}" for c in range(self.count))

    def draw(self, rng: Rng) -> Timeline:
        normal = rng.standard_normal(3).tolist()
        duration = float(np.clip(self.duration * np.exp(self.duration_spread * normal[0]), self.shortest, self.longest))
        filled = duration * min(0.95, self.coverage * float(np.exp(self.coverage_spread * normal[1])))
        wanted = self.instances * (duration / self.duration) ** self.growth
        wanted *= float(np.exp(self.instances_spread * normal[2]))
        n = max(1, min(round(wanted), int(filled / SHORTEST)))
        labels = self._labels(rng, n)
        lengths = filled * rng.dirichlet(np.full(n, 4.0))
        starts = _gaps(rng, duration - filled, n) + np.append(0, lengths.cumsum()[:-1])
        return _timeline(duration, labels, starts, starts + lengths)

    def _labels(self, rng: Rng, n: int) -> list[str]:
        names = self.classes
        held = [int(rng.integers(self.count))]
        for chance in (self.second, self.third):
            likely, partner, other = rng.random() < chance, rng.random() < 0.5, int(rng.integers(self.count))
            if likely and len(held) < min(n, self.count):
                held.append((held[0] + 1) % self.count if partner else other)
        held = list(dict.fromkeys(held))
        each = [*held, *rng.choice(held, n - len(held)).tolist()]
        return [names[c] for c in rng.permutation(each).tolist()]


# Durations, instances and classes of the public annotations; the coverage of ActivityNet's counts overlaps once.
PROFILES = {
    "thumos14": Profile(20, 155, 0.88, 9, 1680, 8.5, 0.75, 1.0, 0.25, 0.8, 0.16, 0.01),
    "activitynet12": Profile(100, 110, 0.6, 5, 240, 1.2, 0.45, 0.0, 0.66, 0.6, 0.002),
}


class Donors:
    """Timelines like those of given annotations.

    Each has the duration, labels and instances of one annotated video, all stretched alike by about a tenth; instances
    that overlap stay together, and these blocks come in another order with other pauses between.

    Raises:
        DataError: no video has a segment.
    """

    def __init__(self, annotations: Annotations):
        self.classes = annotations.classes
        self.videos = [v for v in annotations.videos.values() if v.segments]
        if not self.videos:
            raise DataError(f"{annotations.source}: no video has a segment to take lengths from; give others")

    def __repr__(self) -> str:
        return f"Donors({hashlib.sha256(repr(self.videos).encode()).hexdigest()})"

    def draw(self, rng: Rng) -> Timeline:
        video = self.videos[int(rng.integers(len(self.videos)))]
        stretch = float(np.exp(0.1 * np.clip(rng.standard_normal(), -3, 3)))
        blocks = _blocks(video)
        blocks = [blocks[i] for i in rng.permutation(len(blocks)).tolist()]
        filled = sum(block[0] for block in blocks)
        duration = max(video.duration or 0.0, filled, SHORTEST)
        pauses = _gaps(rng, duration - filled, len(blocks))
        labels, starts, ends, at = [], [], [], 0.0
        for (length, segments), pause in zip(blocks, pauses.tolist(), strict=True):
            labels += [s.label for s in segments]
            starts += [at + pause + s.start for s in segments]
            ends += [at + pause + s.end for s in segments]
            at += length
        return _timeline(duration * stretch, labels, stretch * np.array(starts), stretch * np.array(ends))


def _blocks(video: Video) -> list[tuple[float, list[Segment]]]:
    """(length, segments from 0 on) of each group of segments that overlap."""
    groups: list[list[Segment]] = []
    end = -1.0
    for s in sorted(video.segments, key=lambda s: (s.start, s.end)):
        if s.start >= end:
            groups.append([])
        groups[-1].append(s)
        end = max(end, s.end)
    blocks = []
    for group in groups:
        first = group[0].start
        moved = [Segment(s.label, s.start - first, s.end - first) for s in group]
        blocks.append((max(s.end for s in moved), moved))
    return blocks


def _gaps(rng: Rng, free: float, n: int) -> np.ndarray:
    """Where n things begin, their own lengths left out: pauses before, between and after them share the free time."""
    return max(free, 0.0) * rng.dirichlet(np.full(n + 1, 1.5)).cumsum()[:-1]


def _timeline(duration: float, labels: list[str], starts: np.ndarray, ends: np.ndarray) -> Timeline:
    """Rounded to milliseconds, as annotations are."""
    duration = round(duration, 3)
    times = [(round(float(a), 3), min(round(float(b), 3), duration)) for a, b in zip(starts, ends, strict=True)]
    segments = [Segment(c, min(a, b), b) for c, (a, b) in zip(labels, times, strict=True)]
    return Timeline(duration, tuple(sorted(segments, key=lambda s: (s.start, s.end, s.label))))
