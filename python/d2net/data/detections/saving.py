"""Writing detections: ActivityNet's results JSON, tables, label tracks."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from d2net.data.detections.events import from_events
from d2net.data.detections.model import Detections
from d2net.data.detections.results import check_kind, pieces, write_parts
from d2net.data.event_writing import Row, write_events, written_back
from d2net.data.files import DataError


def save_detections_as(path: str | os.PathLike, detections: Detections) -> None:
    """Writes them in one step: .json (ActivityNet's results), .npz and .parquet (columns), .csv, .tsv (DCASE's names),
    else label tracks.

    Raises:
        DataError: what is written would not be read as what was given; names the first video that differs.
    """
    path = Path(path)
    if path.suffix.lower() in (".json", ".npz", ".parquet"):
        check_kind(path)
        write_parts(path, list(dict.fromkeys(detections.videos)), detections.classes, pieces(detections))
        return

    def check(place: Path) -> None:
        got, wanted = (by_video(d) for d in (from_events(place, written_back(place, path.suffix)), detections))
        if odd := [v for v in wanted if got.get(v) != wanted[v]]:
            raise DataError(
                f"{path} cannot hold the detections of video {odd[0]!r} as they are; rename what has tabs, line ends "
                "or spaces around it, or write .json"
            )

    write_events(path, _rows(detections), [], check, scored=True)


def named_classes(detections: Detections, classes: Sequence[str], ids: Sequence[int] = ()) -> Detections:
    """Detections whose labels are numbers, as models' results have them, by these names.

    Args:
        ids: the classes' numbers; from 0 on by default.

    Raises:
        DataError: a label is no number of a class.
    """
    by_number = dict(zip(map(str, ids or range(len(classes))), classes, strict=True))
    if odd := [label for label in detections.classes if label not in by_number]:
        counted = f"which are numbered {min(ids)} to {max(ids)} by label_id" if ids else "counted from 0"
        raise DataError(f"label {odd[0]!r} is not the number of one of the {len(classes)} classes, {counted}")
    names = tuple(by_number[label] for label in detections.classes)
    columns = (detections.video, detections.label, detections.start, detections.end, detections.score)
    return Detections.from_arrays(detections.videos, names, *columns)


def by_video(detections: Detections) -> dict[str, list[tuple]]:
    """(class, start, end, score) of each video's detections, in their order."""
    found: dict[str, list[tuple]] = {v: [] for v in detections.videos}
    columns = (detections.video, detections.label, detections.start, detections.end, detections.score)
    for v, c, *values in zip(*(x.tolist() for x in columns), strict=True):
        found[detections.videos[v]].append((detections.classes[c], *values))
    return found


def _rows(detections: Detections) -> Iterator[Row]:
    """By video, as every format has them; a video without detections has an empty row."""
    order = np.argsort(detections.video, kind="stable")
    counts = np.bincount(detections.video, minlength=len(detections.videos)).tolist()
    ends = np.cumsum(counts).tolist()
    columns = [c[order] for c in (detections.label, detections.start, detections.end, detections.score)]
    for name, count, end in zip(detections.videos, counts, ends, strict=True):
        if not count:
            yield Row(name, None, None, None, None, {})
        for c, a, b, s in zip(*(x[end - count : end].tolist() for x in columns), strict=True):
            yield Row(name, a, b, detections.classes[c], s, {})
