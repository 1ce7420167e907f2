"""Detections: scored segments in seconds, and ActivityNet's results JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from d2net.data.files import DataError, read_json, write_atomically


@dataclass(frozen=True)
class Detections:
    """Columns of m detections.

    video, label: (m,) int64 indices into videos and classes; start, end: (m,) float64 seconds; score: (m,) float64.
    """

    videos: list[str]
    classes: tuple[str, ...]
    video: np.ndarray
    label: np.ndarray
    start: np.ndarray
    end: np.ndarray
    score: np.ndarray

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
        bad = ~np.isfinite(np.stack(floats)).all(0) | (floats[1] < floats[0])
        if bad.any():
            i = int(np.flatnonzero(bad)[0])
            values = [float(x[i]) for x in floats]
            raise DataError(
                f"detections: row {i} of video {videos[ints[0][i]]!r}: segment [{values[0]}, {values[1]}], score "
                f"{values[2]}; all must be finite and the end not before the start"
            )
        return cls(list(videos), tuple(classes), *ints, *floats)

    def __len__(self) -> int:
        return len(self.score)

    def __getitem__(self, rows: np.ndarray | slice) -> Detections:
        """These rows; videos and classes stay."""
        columns = (c[rows] for c in (self.video, self.label, self.start, self.end, self.score))
        return Detections(self.videos, self.classes, *columns)

    def for_video(self, name: str) -> Detections:
        """The rows of one video."""
        if name not in self.videos:
            raise DataError(f"detections: no video {name!r}")
        return self[self.video == self.videos.index(name)]

    def sorted_by_score(self) -> Detections:
        """By falling score; ties keep their order."""
        return self[np.argsort(-self.score, kind="stable")]


def load_detections(path: str | os.PathLike) -> Detections:
    """Reads ActivityNet results JSON (`results` → video → label, score, segment), in file order; none is valid.

    Raises:
        DataError: names file, video and row.
    """
    tree = read_json(path)
    results = tree.get("results") if isinstance(tree, dict) else None
    if not isinstance(results, dict):
        raise DataError(f"{path}: expected an object with `results`, as ActivityNet's result files have")
    videos = list(results)
    index: dict[str, int] = {}
    rows: list[tuple[int, int, float, float, float]] = []
    for v, name in enumerate(videos):
        if not isinstance(results[name] or [], list):
            raise DataError(f"{path}: video {name!r}: expected a list of detections, got {results[name]!r}")
        for i, entry in enumerate(results[name] or []):
            try:
                start, end = entry["segment"]
                label = index.setdefault(str(entry["label"]), len(index))
                rows.append((v, label, float(start), float(end), float(entry["score"])))
            except (KeyError, TypeError, ValueError) as error:
                raise DataError(
                    f"{path}: video {name!r}, row {i}: expected label, score and segment [start, end], got {entry!r}"
                ) from error
    columns = np.array(rows, np.float64).reshape(-1, 5).T
    try:
        return Detections.from_arrays(videos, tuple(index), *columns)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def save_detections(path: str | os.PathLike, detections: Detections) -> None:
    """Writes ActivityNet results JSON in one step; every video appears, with or without detections."""
    results: dict[str, list[dict]] = {v: [] for v in detections.videos}
    columns = (detections.video, detections.label, detections.start, detections.end, detections.score)
    for v, c, a, b, s in zip(*(x.tolist() for x in columns), strict=True):
        results[detections.videos[v]].append({"label": detections.classes[c], "score": s, "segment": [a, b]})
    tree = {"version": "1.3", "results": results, "external_data": {}}
    write_atomically(path, lambda file: file.write(json.dumps(tree, allow_nan=False).encode()))
