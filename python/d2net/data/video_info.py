"""Timing and duration per video, from JSON or CSV."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

from d2net.data.files import DataError, read_json, reading, shown
from d2net.data.tables import read_table
from d2net.ranges import LONGEST
from d2net.timing import Timing

_TIMING = ("fps", "stride", "snippet_frames", "snippet_seconds", "resized")


class VideoInfo(NamedTuple):
    """Durations in seconds and timings of the videos that state them."""

    durations: dict[str, float]
    timings: dict[str, Timing]


def load_video_info(path: str | os.PathLike) -> VideoInfo:
    """Reads {video: {fps, stride, snippet_frames | snippet_seconds | resized, duration}}, or a CSV that names `video`.

    resized is 1 where it holds.

    Raises:
        DataError: names file, video and field.
    """
    with reading(path, "JSON or CSV of video info"):
        kind = Path(path).suffix.lower()
        rows = _csv_rows(path) if kind in (".csv", ".tsv") else read_json(path)
        if not isinstance(rows, dict):
            raise DataError(f"{path}: expected an object keyed by video")
        durations: dict[str, float] = {}
        timings: dict[str, Timing] = {}
        for name, fields in rows.items():
            if not isinstance(fields, dict) or (unknown := set(fields) - {*_TIMING, "duration"}):
                what = f"unknown field {min(unknown)!r}" if isinstance(fields, dict) else f"got {shown(fields)}"
                raise DataError(f"{path}: video {name!r}: {what}; fields are {', '.join(_TIMING)} and duration")
            try:
                values = {k: _number(k, v) for k, v in fields.items() if v is not None}
                if "duration" in values:
                    durations[name] = values.pop("duration")
                    if not 0 < durations[name] <= LONGEST:
                        raise ValueError(f"duration must be a positive number, got {durations[name]}")
                if values:
                    timings[name] = Timing(**{k: bool(v) if k == "resized" else v for k, v in values.items()})
            except ValueError as error:
                raise DataError(f"{path}: video {name!r}: {error}") from error
        return VideoInfo(durations, timings)


def _number(field: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{field} must be a number, got {shown(value)}") from None


def _csv_rows(path: str | os.PathLike) -> dict[str, dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    for where, cells in read_table(path, "video"):
        name = cells.pop("video", None)
        if name is None:
            raise DataError(f"{where}: the cell of `video` is empty")
        if name in rows:
            raise DataError(f"{where}: video {name!r} is listed twice")
        rows[name] = {k: v.replace(",", ".") if v else v for k, v in cells.items()}
    return rows
