"""ActivityNet's results JSON written, and read, some videos at a time."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import IO

import numpy as np

from d2net.data.detections.model import Detections
from d2net.data.files import write_atomically

_VIDEOS = 1000  # of a piece


def write_results(path: str | os.PathLike, parts: Iterable[Detections]) -> int:
    """Writes the parts' videos one after the other, with or without detections, and returns how many rows.

    Args:
        parts: of different videos; one is in memory at a time.
    """
    rows = 0

    def write(file: IO[bytes]) -> None:
        nonlocal rows
        file.write(b'{"version": "1.3", "results": {')
        between = b""
        for part in parts:
            rows += len(part)
            # As json.dumps of all of them writes it.
            if text := json.dumps(_results(part), allow_nan=False)[1:-1].encode():
                file.write(between + text)
                between = b", "
        file.write(b'}, "external_data": {}}')

    write_atomically(path, write)
    return rows


def _results(part: Detections) -> dict[str, list[dict]]:
    results: dict[str, list[dict]] = {v: [] for v in part.videos}
    columns = (part.video, part.label, part.start, part.end, part.score)
    for v, c, a, b, s in zip(*(x.tolist() for x in columns), strict=True):
        results[part.videos[v]].append({"label": part.classes[c], "score": s, "segment": [a, b]})
    return results


def pieces(detections: Detections, videos: int = _VIDEOS) -> Iterator[Detections]:
    """The detections of some videos at a time, in the videos' order; a video that is listed twice counts as one."""
    first: dict[str, int] = {}
    place = np.array([first.setdefault(name, len(first)) for name in detections.videos], np.int64)
    names = list(first)
    of_video = place[detections.video] if len(detections) else detections.video
    order = np.argsort(of_video, kind="stable")
    bounds = np.searchsorted(of_video, np.arange(0, len(names) + videos, videos), sorter=order)
    for i, begin in enumerate(range(0, len(names), videos)):
        rows = order[bounds[i] : bounds[i + 1]]
        columns = [getattr(detections, c)[rows] for c in ("label", "start", "end", "score")]
        yield Detections(names[begin : begin + videos], detections.classes, of_video[rows] - begin, *columns)


def save_detections(path: str | os.PathLike, detections: Detections) -> None:
    """Writes ActivityNet results JSON in one step; every video appears, with or without detections.

    Args:
        path: the file to write; an interrupted save leaves an earlier one whole.
        detections: m of them, times in seconds.

    Raises:
        OSError: nothing can be written there.
        ValueError: a time or score that is not finite.
    """
    write_results(path, pieces(detections))


def check_kind(path: str | os.PathLike) -> None:
    """Raises DataError where `write_parts` lacks a package to write such a file."""
    if os.path.splitext(path)[1].lower() == ".parquet":
        from d2net.data.detections.parquet import check_parquet

        check_parquet(path)


def write_parts(
    path: str | os.PathLike, videos: Sequence[str], classes: Sequence[str], parts: Iterable[Detections]
) -> int:
    """Writes parts of consecutive videos, .npz and .parquet as columns and anything else as JSON; how many rows."""
    kind = os.path.splitext(path)[1].lower()
    if kind == ".npz":
        from d2net.data.detections.binary import write_npz

        return write_npz(path, videos, classes, parts)
    if kind == ".parquet":
        from d2net.data.detections.parquet import write_parquet

        return write_parquet(path, videos, classes, parts)
    return write_results(path, parts)
