"""Timing and duration per video, from JSON or CSV."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any, NamedTuple

from d2net.data.files import DataError, read_json
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
    rows = _csv_rows(path) if Path(path).suffix == ".csv" else read_json(path)
    if not isinstance(rows, dict):
        raise DataError(f"{path}: expected an object keyed by video")
    durations, timings = {}, {}
    for name, fields in rows.items():
        if not isinstance(fields, dict) or (unknown := set(fields) - {*_TIMING, "duration"}):
            what = f"unknown field {sorted(unknown)[0]!r}" if isinstance(fields, dict) else f"got {fields!r}"
            raise DataError(f"{path}: video {name!r}: {what}; fields are {', '.join(_TIMING)} and duration")
        try:
            values = {k: float(v) for k, v in fields.items() if v is not None}
            if "duration" in values:
                durations[name] = values.pop("duration")
                if not 0 < durations[name] < float("inf"):
                    raise ValueError(f"duration must be a positive number, got {durations[name]}")
            if values:
                timings[name] = Timing(**{k: bool(v) if k == "resized" else v for k, v in values.items()})
        except (TypeError, ValueError) as error:
            raise DataError(f"{path}: video {name!r}: {error}") from error
    return VideoInfo(durations, timings)


def _csv_rows(path: str | os.PathLike) -> dict[str, dict[str, Any]]:
    try:
        with open(path, newline="", encoding="utf-8") as file:
            table = list(csv.DictReader(file))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    if table and "video" not in table[0]:
        raise DataError(f"{path}: a CSV of video info needs a column `video`, got {', '.join(table[0])}")
    return {row["video"]: {k: v or None for k, v in row.items() if k != "video"} for row in table}
