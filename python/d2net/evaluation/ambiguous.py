"""Ambiguous segments: stretches of video in which a detection is neither right nor wrong (THUMOS'14)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from d2net.data.detections import Detections
from d2net.data.files import DataError, read_text, reading
from d2net.evaluation.matching import Spans, overlaps
from d2net.evaluation.release import Rate, snippet_spans
from d2net.ranges import are_times

Ambiguous = Mapping[str, Sequence[tuple[float, float]]]


def load_ambiguous(path: str | Path) -> dict[str, list[tuple[float, float]]]:
    """Lines of `video start end`, in seconds (THUMOS'14's Ambiguous_test.txt), as {video: [(start, end), ...]}.

    Raises:
        DataError: a line of another form; names the file and the line.
    """
    found: dict[str, list[tuple[float, float]]] = {}
    with reading(path, "lines of ambiguous segments"):
        for number, line in enumerate(read_text(path).split("\n"), 1):
            words = line.split()
            if not words:
                continue
            try:
                name, start, end = words[0], float(words[1]), float(words[2])
                if len(words) != 3 or not are_times(start, end) or end < start:
                    raise ValueError
            except (IndexError, ValueError):
                raise DataError(
                    f"{path}, line {number}: expected 'video start end' in seconds, got {line[:80]!r}"
                ) from None
            found.setdefault(name, []).append((start, end))
    return found


def ambiguous_spans(ambiguous: Ambiguous, videos: Mapping[str, int]) -> Spans:
    """The segments of the videos that have an index, all with label 0."""
    rows = [(videos[v], a, b) for v, own in ambiguous.items() if v in videos for a, b in own]
    table = np.array(rows, np.float64).reshape(-1, 3)
    return Spans(np.zeros(len(table)), table[:, 0], table[:, 1], table[:, 2])


def touches(detections: Spans, ambiguous: Spans) -> np.ndarray:
    """(n,) bool: the detection intersects a segment of its video, whatever its class."""
    hit = np.zeros(len(detections), bool)
    if len(ambiguous):
        hit[overlaps(detections.without_labels(), ambiguous.without_labels()).i] = True
    return hit


def drop_ambiguous(detections: Detections, ambiguous: Ambiguous, *, rate: Rate | None = None) -> Detections:
    """The detections that intersect no ambiguous segment of their video.

    rate: compare whole snippets (the released code's rule), not seconds.
    """
    spans = Spans(detections.label, detections.video, detections.start, detections.end)
    ranges = ambiguous_spans(ambiguous, {name: i for i, name in enumerate(detections.videos)})
    if rate is not None:
        spans, ranges = snippet_spans(spans, rate), snippet_spans(ranges, rate)
    return detections[~touches(spans, ranges)]
