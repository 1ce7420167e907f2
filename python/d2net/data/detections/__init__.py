"""Detections, and the files that hold them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from d2net.data.detections.activitynet import read_results
from d2net.data.detections.binary import read_npz
from d2net.data.detections.columns import from_pickle
from d2net.data.detections.events import DetectionWarning as DetectionWarning
from d2net.data.detections.events import from_events
from d2net.data.detections.model import Detections as Detections
from d2net.data.detections.parquet import read_parquet
from d2net.data.detections.results import save_detections as save_detections
from d2net.data.detections.share import Part
from d2net.data.events import is_events, read_events, read_tracks
from d2net.data.files import check_regular, reading
from d2net.data.layouts import named_reader


def _activitynet(path: Path, part: Part | None) -> Detections:
    check_regular(path)
    return read_results(path, part)


def _columns(path: Path, part: Part | None) -> Detections:
    check_regular(path)
    with open(path, "rb") as file:
        return _of(from_pickle(path, file), part)


def _events(path: Path, part: Part | None) -> Detections:
    check_regular(path)
    return _of(from_events(path, read_events(path)), part)


def _npz(path: Path, part: Part | None) -> Detections:
    check_regular(path)
    return read_npz(path, part)


def _parquet(path: Path, part: Part | None) -> Detections:
    check_regular(path)
    return _of(read_parquet(path), part)


def _tracks(path: Path, part: Part | None) -> Detections:
    return _of(from_events(path, read_tracks(path)), part)


def _of(whole: Detections, part: Part | None) -> Detections:
    return whole if part is None else whole.part(part)


# By name, to read what the content does not tell as the user says.
LAYOUTS: dict[str, Callable[[Path, Part | None], Detections]] = {
    "activitynet": _activitynet,
    "columns": _columns,
    "events": _events,
    "tracks": _tracks,
    "npz_columns": _npz,
    "parquet": _parquet,
}
_WORDS = {
    "activitynet": "ActivityNet's results",
    "columns": "a pickle of columns",
    "events": "a table",
    "tracks": "label tracks",
    "npz_columns": "an .npz of columns",
    "parquet": "Parquet",
}


def load_detections(
    path: str | os.PathLike, *, layout: str | None = None, part: Part | None = None
) -> Detections:
    """Reads detections in file order; none is valid. By its first bytes, the file is one of

    ActivityNet's results JSON (`results` → video → label, score, segment), a pickle of columns as ActionFormer and
    OpenTAD write (video-id, t-start, t-end, label, score), an .npz or Parquet of columns as `localize` writes, or a
    table (video, start, end, label, score, or DCASE's names, or none). A folder holds label tracks, <video>.txt, whose
    labels end in their score, as `run [0.5]`.

    Args:
        path: the file or folder.
        layout: one of LAYOUTS, in place of what the content tells.
        part: which process of several this is; then it has the detections of its share of the videos.

    Returns:
        names of videos and classes, and m detections as arrays (m,): video and label as indices of these, start and end
        in seconds, score.

    Raises:
        DataError: names file, video and row.
    """
    with reading(path, "detections"):
        name = layout if layout is not None else _kind(Path(path))
        found = named_reader("detections", path, name, LAYOUTS)(Path(path), part)
        return replace(found, layout=_WORDS[name])


def _kind(path: Path) -> str:
    if path.is_dir():
        return "tracks"
    check_regular(path)
    with open(path, "rb") as file:
        head = file.read(4)
    if head[:1] == b"\x80":
        return "columns"
    if head == b"PAR1":
        return "parquet"
    if head[:2] == b"PK":
        return "npz_columns"
    return "events" if is_events(path) else "activitynet"
