"""Detections: scored segments in seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from d2net.data.detections.share import Part, Share
from d2net.data.files import DataError
from d2net.ranges import LONGEST


@dataclass(frozen=True)
class Detections:
    """Columns of m detections.

    video, label: (m,) int64 indices into videos and classes; start, end: (m,) float64 seconds; score: (m,) float64.
    layout: in words. share: which of a file's these are, None where they are all.
    """

    videos: list[str]
    classes: tuple[str, ...]
    video: np.ndarray
    label: np.ndarray
    start: np.ndarray
    end: np.ndarray
    score: np.ndarray
    layout: str = field(default="detections", compare=False)
    share: Share | None = field(default=None, compare=False)

    @classmethod
    def from_arrays(
        cls,
        videos: Sequence[str],
        classes: Sequence[str],
        video: np.ndarray,
        label: np.ndarray,
        start: np.ndarray,
        end: np.ndarray,
        score: np.ndarray,
    ) -> Detections:
        """Converts the columns' dtypes.

        Raises:
            DataError: columns of different lengths, an index out of range, values that are not finite, end < start.
        """
        ints = [np.asarray(x).astype(np.int64) for x in (video, label)]
        floats = [np.asarray(x, np.float64) for x in (start, end, score)]
        sizes = {x.shape for x in (*ints, *floats)}
        if len(sizes) != 1 or len(next(iter(sizes))) != 1:
            raise DataError(f"detections: columns must be of one length, got shapes {sorted(sizes)}")
        for name, index, count in (("video", ints[0], len(videos)), ("label", ints[1], len(classes))):
            if len(index) and not 0 <= index.min() <= index.max() < count:
                raise DataError(f"detections: {name} must be in [0, {count}), got {index.min()}..{index.max()}")
        times = (np.abs(floats[0]) <= LONGEST) & (np.abs(floats[1]) <= LONGEST)  # False for NaN
        bad = ~times | ~np.isfinite(floats[2]) | (floats[1] < floats[0])
        if bad.any():
            i = int(np.flatnonzero(bad)[0])
            values = [float(x[i]) for x in floats]
            row = int((ints[0][:i] == ints[0][i]).sum())
            raise DataError(
                f"detections: row {row} of video {videos[ints[0][i]]!r}: segment [{values[0]}, {values[1]}], score "
                f"{values[2]}; all must be finite, times of at most {LONGEST:g} s, and the end not before the start"
            )
        return cls(list(videos), tuple(classes), ints[0], ints[1], floats[0], floats[1], floats[2])

    def summary(self) -> str:
        """What was understood, in one line."""
        count = len(self) if self.share is None else self.share.total
        return f"{self.layout}: {count} detections in {len(self.videos)} videos, {len(self.classes)} classes"

    def __len__(self) -> int:
        return len(self.score)

    def __getitem__(self, rows: np.ndarray | slice) -> Detections:
        """These rows; videos and classes stay."""
        columns = {c: getattr(self, c)[rows] for c in ("video", "label", "start", "end", "score")}
        share = self.share and self.share._replace(rows=self.share.rows[rows])
        return replace(self, **columns, share=share)

    def part(self, part: Part) -> Detections:
        """Those of a process's videos."""
        rows = np.flatnonzero(part.of(self.video))
        return replace(self[rows], share=Share(rows, len(self), part))

    def for_video(self, name: str) -> Detections:
        """The rows of one video."""
        if name not in self.videos:
            raise DataError(f"detections: no video {name!r}")
        return self[self.video == self.videos.index(name)]

    def best(self, most: int) -> Detections:
        """Of each video and class the `most` of the highest scores, in their order; of equal ones the first."""
        order = np.lexsort((-self.score, self.label, self.video))
        begins = np.flatnonzero(
            np.append(True, (np.diff(self.video[order]) != 0) | (np.diff(self.label[order]) != 0))[: len(order)]
        )
        group = np.repeat(begins, np.diff(np.append(begins, len(order))))
        return self[np.sort(order[np.arange(len(order)) - group < most])]

    def sorted_by_score(self) -> Detections:
        """By falling score; ties keep their order."""
        return self[np.argsort(-self.score, kind="stable")]


def joined(videos: Sequence[str], classes: Sequence[str], parts: Sequence[Detections]) -> Detections:
    """Detections of parts that have the videos one after the other."""
    if not parts:
        return Detections.from_arrays(videos, classes, *[np.zeros(0)] * 5)
    firsts = np.cumsum([0, *(len(part.videos) for part in parts)])
    video = np.concatenate([part.video + first for part, first in zip(parts, firsts, strict=False)])
    columns = [np.concatenate([getattr(part, c) for part in parts]) for c in ("label", "start", "end", "score")]
    return Detections.from_arrays(videos, classes, video, *columns)
