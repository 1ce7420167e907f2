"""Timing and duration per video, from JSON or CSV."""

from __future__ import annotations

import os
import warnings
from typing import Any, NamedTuple

from d2net.data.files import DataError, read_json, reading, shown, some
from d2net.data.tables import is_table, read_table
from d2net.ranges import LONGEST, decimal
from d2net.timing import Timing, TimingWarning

_TIMING = ("fps", "stride", "snippet_frames", "snippet_seconds", "resized")
_NUMBERS = ("stride", "snippet_frames", "snippet_seconds", "duration")


class VideoInfo(NamedTuple):
    """Durations in seconds and timings of the videos that state them."""

    durations: dict[str, float]
    timings: dict[str, Timing]


def load_video_info(path: str | os.PathLike) -> VideoInfo:
    """Reads {video: {fps, stride, snippet_frames | snippet_seconds | resized, duration}}, or a CSV that names `video`.

    resized is true or 1 where it holds. An fps without stride and snippet_frames is the video's rate, which says
    nothing of snippets: beside a duration, or another timing, it is not used.

    Raises:
        DataError: names file, video and field; also where no video has a duration or a timing.
    """
    with reading(path, "JSON or CSV of video info"):
        rows = _csv_rows(path) if is_table(path, "video") else read_json(path)
        if not isinstance(rows, dict):
            raise DataError(f"{path}: expected an object keyed by video")
        durations: dict[str, float] = {}
        timings: dict[str, Timing] = {}
        rates: list[str] = []
        for name, fields in rows.items():
            if not isinstance(fields, dict) or (unknown := set(fields) - {*_TIMING, "duration"}):
                what = f"unknown field {min(unknown)!r}" if isinstance(fields, dict) else f"got {shown(fields)}"
                raise DataError(f"{path}: video {name!r}: {what}; fields are {', '.join(_TIMING)} and duration")
            try:
                given = {k: v for k, v in fields.items() if v is not None}
                if "resized" in given and not _flag(given["resized"]):
                    del given["resized"]
                if "fps" in given and not given.keys() & {"stride", "snippet_frames"} and len(given) > 1:
                    rates += [name] * (set(given) == {"fps", "duration"})
                    del given["fps"]
                values = {k: v if k == "resized" else _number(k, v) for k, v in given.items()}
                if "duration" in values:
                    durations[name] = values.pop("duration")
                    if not 0 < durations[name] <= LONGEST:
                        raise ValueError(f"duration must be a positive number, got {durations[name]}")
                if values:
                    timings[name] = Timing(**{k: bool(v) if k == "resized" else v for k, v in values.items()})
            except ValueError as error:
                raise DataError(f"{path}: video {name!r}: {error}") from error
        if not durations and not timings:
            fields = ", ".join(_TIMING)
            raise DataError(f"{path}: no video in it has a duration or a timing; fields are {fields} and duration")
        if rates:
            why = f"is not used, for want of stride and snippet_frames: {some(rates)}"
            warnings.warn(f"{path}: fps of {len(rates)} videos {why}", TimingWarning, stacklevel=2)
        return VideoInfo(durations, timings)


def _number(field: str, value: Any) -> float:
    try:
        if isinstance(value, bool):
            raise TypeError
        return decimal(value) if isinstance(value, str) else float(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{field} must be a number, got {shown(value)}") from None


def _flag(value: Any) -> bool:
    text = value.lower() if isinstance(value, str) else value
    if text not in (0, 1, "0", "1", "false", "true"):
        raise ValueError(f"resized must be true, false, 1 or 0, got {shown(value)}")
    return text in (1, "1", "true")


def _csv_rows(path: str | os.PathLike) -> dict[str, dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    for row in read_table(path, "video"):
        name = row.cells.pop("video", None)
        if name is None:
            raise DataError(f"{row.where}: the cell of `video` is empty")
        if name in rows:
            raise DataError(f"{row.where}: video {name!r} is listed twice")
        rows[name] = {k: v if k not in _NUMBERS else row.number(k) for k, v in row.cells.items()}
    return rows
