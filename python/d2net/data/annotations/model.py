"""Annotations: which classes a video holds, and where."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from d2net.data.files import DataError

ROUNDING = 1e-3  # seconds; durations are written with three digits or fewer


class AnnotationWarning(UserWarning):
    """Ground truth that is used although something about it is odd."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One instance of a class, [start, end) seconds."""

    label: str
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Video:
    """labels: the video-level classes. info: the entry's other plain fields, such as a subject, and `counts`, how often
    each of some labels occurs."""

    name: str
    subset: str | None
    duration: float | None
    fps: float | None
    labels: tuple[str, ...]
    segments: tuple[Segment, ...]
    info: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Annotations:
    """Videos by name, in file order. report counts degenerate (end = start) and overrunning segments.

    streams: rows of [first, end, name] as the file has them; who uses them checks them (`check_streams`).
    layout: in words. ids: the classes' numbers where the file's label_id states them, else they are their places.
    """

    classes: tuple[str, ...]
    videos: dict[str, Video]
    streams: Any = None
    snippet_seconds: float | None = None
    source: str = "annotations"
    report: dict[str, int] = field(default_factory=dict)
    frames: dict[str, float] = field(default_factory=dict)
    layout: str = field(default="annotations", compare=False)
    ids: tuple[int, ...] = field(default=(), compare=False)

    def summary(self) -> str:
        """What was understood, in one line."""
        subsets = Counter(v.subset or "none" for v in self.videos.values())
        segments = sum(len(v.segments) for v in self.videos.values())
        by_subset = ", ".join(f"{count} {name}" for name, count in subsets.most_common(6))
        return (
            f"{self.layout}: {len(self.videos)} videos ({by_subset}), {len(self.classes)} classes, {segments} segments"
        )

    def subset(self, names: str | Sequence[str]) -> Annotations:
        """The videos of these subsets, names compared without case.

        Raises:
            DataError: no video is in any of them; lists the subsets there are.
        """
        wanted = {n.lower() for n in ([names] if isinstance(names, str) else names)}
        videos = {k: v for k, v in self.videos.items() if v.subset is not None and v.subset.lower() in wanted}
        if not videos:
            there = sorted({v.subset for v in self.videos.values() if v.subset is not None})
            has = f"its subsets are {', '.join(there)}" if there else "its videos name no subset; add `subset` to each"
            raise DataError(f"{self.source}: no video of subset {', '.join(sorted(wanted)) or '(none named)'}; {has}")
        return replace(self, videos=videos)

    def only(self, names: Iterable[str]) -> Annotations:
        """These videos, in this order."""
        names = list(names)
        missing = [n for n in names if n not in self.videos]
        if missing:
            raise DataError(f"{self.source}: no video {missing[0]!r}")
        return replace(self, videos={n: self.videos[n] for n in names})

    def count_matrix(self, names: Sequence[str], source: str) -> np.ndarray:
        """(n, C) float32 of how often each class occurs, NaN where that is not known; 0 of classes without the label.

        Args:
            source: "field", the entries' `counts`, or "segments", which are counted.
        """
        index = {c: i for i, c in enumerate(self.classes)}
        matrix = np.zeros((len(names), len(self.classes)), np.float32)
        for row, name in enumerate(names):
            video = self.videos[name]
            given = video.info.get("counts", {}) if source == "field" else Counter(s.label for s in video.segments)
            for label in video.labels:
                matrix[row, index[label]] = given.get(label) or np.nan
        return matrix

    def label_matrix(self, names: Sequence[str]) -> np.ndarray:
        """(n, C) uint8, 1 where the video holds the class."""
        index = {c: i for i, c in enumerate(self.classes)}
        matrix = np.zeros((len(names), len(self.classes)), np.uint8)
        for row, name in enumerate(names):
            matrix[row, [index[c] for c in self.videos[name].labels]] = 1
        return matrix
