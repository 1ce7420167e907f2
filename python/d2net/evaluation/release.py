"""The protocol of the authors' released code: whole snippets.

Times are rounded to whole snippets (half to even). Detections of a class, by falling score, each take the
first free ground truth of their video in file order (not the best) with IoU >= t. A ground truth that is
empty after rounding counts as a positive that nothing matches. AP sums the interpolated precision over the
recall steps. On THUMOS'14 every detection overlapping an Ambiguous segment is dropped beforehand
(`drop_ambiguous`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from d2net.data.annotations import Annotations, Segment, Video
from d2net.data.files import DataError, read_json, reading, shown
from d2net.evaluation.matching import Protocol, Spans

RELEASE = Protocol("release", strict=False, chooser="detection", prefer="first", interpolate=True)


class Rate(NamedTuple):
    """Snippets per second, as fps / stride."""

    fps: float
    stride: float


RELEASE_RATE = Rate(25.0, 16.0)


def to_snippets(seconds: np.ndarray, rate: Rate = RELEASE_RATE) -> np.ndarray:
    """round(seconds · fps / stride), half to even; float64 of whole numbers, of the shape given."""
    return np.rint(np.asarray(seconds, np.float64) * rate.fps / rate.stride)


def snippet_spans(spans: Spans, rate: Rate = RELEASE_RATE) -> Spans:
    """The spans of seconds as whole snippets."""
    return replace(spans, start=to_snippets(spans.start, rate), end=to_snippets(spans.end, rate))


def load_fractions(path: str | Path, durations: Mapping[str, float] | Annotations) -> Annotations:
    """A ground truth whose times are fractions of the duration, in seconds.

    Args:
        path: JSON with `rows`: [video, label, start / duration, end / duration], in evaluation order.
        durations: seconds of each video; published durations rounded to 3 digits can move a segment by a
            snippet.

    Raises:
        DataError: not such a file, or a video without a duration.
    """
    with reading(path, "JSON with rows of [video, label, start / duration, end / duration]"):
        tree = read_json(path)
        if not isinstance(tree, dict) or not isinstance(tree.get("rows"), list):
            raise DataError(f"{path}: expected JSON with rows of [video, label, start / duration, end / duration]")
        rows = [_row(path, i, row) for i, row in enumerate(tree["rows"])]
    return from_fractions(rows, durations, source=str(path))


def _row(path: str | Path, i: int, row: Any) -> tuple[str, str, float, float]:
    try:
        video, label, start, end = row
        start, end = float(start), float(end)
        if isinstance(video, str) and isinstance(label, (str, int)) and math.isfinite(start) and math.isfinite(end):
            return video, str(label), start, end
    except (TypeError, ValueError, OverflowError):
        pass
    raise DataError(f"{path}: row {i}: expected [video, label, start / duration, end / duration], got {shown(row)}")


def from_fractions(
    rows: Sequence[tuple[str, str, float, float]],
    durations: Mapping[str, float] | Annotations,
    *,
    source: str = "rows of fractions",
    subset: str | None = "test",
) -> Annotations:
    """As `load_fractions`, from rows (video, label, start / duration, end / duration)."""
    if isinstance(durations, Annotations):
        durations = {name: v.duration for name, v in durations.videos.items() if v.duration is not None}
    segments: dict[str, list[Segment]] = {}
    for name, label, a, b in rows:
        if name not in durations:
            raise DataError(f"{source}: video {name!r} has no duration, which its fractions need")
        seconds = float(durations[name])
        segments.setdefault(name, []).append(Segment(label, a * seconds, b * seconds))
    return Annotations(
        classes=tuple(sorted({label for _, label, _, _ in rows})),
        videos={
            name: Video(
                name=name,
                subset=subset,
                duration=float(durations[name]),
                fps=None,
                labels=tuple(sorted({s.label for s in own})),
                segments=tuple(own),
            )
            for name, own in segments.items()
        },
        source=source,
    )
