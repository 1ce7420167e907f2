"""Lists of events as text: tables with a header, sed_eval's lists without one, Audacity's label tracks."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from d2net.data.files import DataError, read_text, reading, shown, some
from d2net.data.tables import read_table
from d2net.ranges import decimal

# What columns are called: by us first, then by DCASE and others.
COLUMNS = {
    "video": ("video", "filename", "file", "video-id", "video_id"),
    "start": ("start", "onset", "t-start"),
    "end": ("end", "offset", "t-end"),
    "label": ("label", "event_label"),
    "labels": ("event_labels",),
    "score": ("score", "confidence"),
}
NUMBERS = ("duration", "fps")  # of a video, among the other columns
VIDEOS = "videos.csv"  # beside label tracks: what is said of whole videos
_SCORED = re.compile(r"(.*) \[([-+.0-9eE]+)\]")


class Event(NamedTuple):
    """where: "FILE, line N". A video without times has that label, without a label nothing.

    start, end: seconds. others: the row's other cells.
    """

    where: str
    video: str
    start: float | None
    end: float | None
    label: str | None
    score: float | None
    others: dict[str, str]


def is_events(path: str | os.PathLike) -> bool:
    """Whether a file is a list of events and not JSON: by its suffix, or by its first line."""
    if os.fspath(path).lower().endswith((".csv", ".tsv")):
        return True
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        first = _first_line(file.read(10_000))
    return first.lstrip()[:1] not in ("{", "[") and (_named(first) or _times_at(first.split("\t")) is not None)


def read_events(path: str | os.PathLike) -> Iterator[Event]:
    """The rows of a file; what it is shows in its first line.

    A header has a column for the video and one for the label(s), by the names in COLUMNS. Without one, but with tabs
    between the cells and decimal points: start, end and label, as label tracks have them (the video is the file's
    name), after a file's name, or a file's name and a scene, as sed_eval has them. A number after the label is a score.

    Raises:
        DataError: neither of them, or a row that does not hold them; names file and line.
    """
    first = _first_line(read_text(path, "a list of events"))
    if _named(first):
        yield from _table(path, first)
    elif _times_at(first.split("\t")) is not None:
        yield from _list(path)
    else:
        raise DataError(
            f"{path}: its first line is {shown(first[:80])}; a list of events begins with names of columns (such as "
            "video, start, end, label), or has start, end and label, with tabs, in every line"
        )


def track_files(folder: Path) -> list[Path]:
    """The label tracks of a folder: its .txt files, if the first that is not empty holds a track."""
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() == ".txt" and not p.name.startswith("."))
    for path in files:
        if not path.is_file():
            continue
        with open(path, encoding="utf-8-sig", errors="replace") as file:
            first = file.readline(10_000)
        if first.strip():
            return files if _times_at(first.rstrip("\n").split("\t")) == 0 else []
    return files


def read_tracks(folder: str | os.PathLike) -> Iterator[Event]:
    """The events of a folder of label tracks, `<video>.txt`; of each video at least one row.

    What is said of whole videos may stand in a table videos.csv beside them.
    """
    with reading(folder, "a folder of label tracks"):
        files = track_files(Path(folder))
        if not files:
            raise DataError(f"{folder}: no label tracks (<video>.txt: start, end and label, with tabs) in it")
        videos = Path(folder) / VIDEOS
        if os.path.lexists(videos):
            yield from read_events(videos)
        for path in files:
            events = list(_list(path))
            yield from events or [Event(str(path), path.stem, None, None, None, None, {})]


def _first_line(text: str) -> str:
    """That says something: Excel's `sep=;` does not."""
    return next((s for line in text.split("\n") if (s := line.strip(" ")) and not s.startswith("sep=")), "")


def _cells(line: str) -> list[str]:
    return [cell.strip().lower() for cell in next((line.split(s) for s in (";", "\t") if s in line), line.split(","))]


def _named(first: str) -> bool:
    cells = _cells(first)
    return any(n in cells for n in COLUMNS["video"]) and any(
        n in cells for kind in ("label", "labels", "start", "score") for n in COLUMNS[kind]
    )


def _table(path: str | os.PathLike, first: str) -> Iterator[Event]:
    cells = _cells(first)
    places: dict[str, str] = {}
    for kind, names in COLUMNS.items():
        there = [n for n in names if n in cells]
        if len(there) > 1:
            raise DataError(f"{path}: columns {some(there)} mean the same; keep one")
        if there:
            places[kind] = there[0]
    if "label" not in places and "labels" not in places:
        raise DataError(f"{path}: no column `label`; a list of events has video, start, end and label (and score)")
    known = set(places.values())
    for row in read_table(path, places["video"]):
        if (video := row.cells.get(places["video"])) is None:
            raise DataError(f"{row.where}: the cell of `{places['video']}` is empty")
        start, end, score = (row.number(places.get(kind, "")) for kind in ("start", "end", "score"))
        others = {k: v for k, v in row.cells.items() if k not in known and v is not None}
        others |= {k: repr(row.number(k)) for k in NUMBERS if k in others}
        many = row.cells.get(places.get("labels", ""))
        labels = [c.strip() for c in many.split(",") if c.strip()] if many else [row.cells.get(places.get("label", ""))]
        for label in labels:
            yield _event(row.where, video, start, end, label, score, others)


def _event(
    where: str,
    video: str,
    start: float | None,
    end: float | None,
    label: str | None,
    score: float | None,
    others: dict[str, str],
) -> Event:
    if (start is None) != (end is None):
        raise DataError(f"{where}: it has {'an end and no start' if start is None else 'a start and no end'}")
    if start is not None and label is None:
        raise DataError(f"{where}: no label for {start:g} to {end:g}")
    return Event(where, video, start, end, label, score, others)


def _times_at(cells: list[str]) -> int | None:
    """Where start and end stand in a list without header: first, or after a file's name, or that and a scene."""
    for at in range(min(3, len(cells) - 1)):
        try:
            decimal(cells[at]), decimal(cells[at + 1])
        except ValueError:
            continue
        return at
    return None


def _list(path: str | os.PathLike) -> Iterator[Event]:
    own = Path(path).stem
    for at, line in enumerate(read_text(path, "a list of events").split("\n"), 1):
        if not line.strip() or line.startswith("\\"):  # Audacity's line of frequencies
            continue
        cells, where = [c.strip() for c in line.split("\t")], f"{path}, line {at}"
        first = _times_at(cells)
        if first is None:
            raise DataError(f"{where}: start and end must be numbers, with tabs between the cells: {shown(line[:80])}")
        video = own if first == 0 else cells[0]
        label, *more = [*cells[first + 2 :], ""]
        score = next((c for c in more if c), None)
        if scored := _SCORED.fullmatch(label):
            label, score = scored[1], scored[2]
        try:
            value = None if score is None else decimal(score)
        except ValueError as error:
            raise DataError(f"{where}: a number is expected after the label, as its score: {error}") from error
        yield _event(where, video, decimal(cells[first]), decimal(cells[first + 1]), label or None, value, {})
