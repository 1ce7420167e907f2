"""Annotations of videos: labels, segments, subsets and durations."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from d2net.data.annotations.activitynet import from_tree
from d2net.data.annotations.events import events_tree
from d2net.data.annotations.model import ROUNDING as ROUNDING
from d2net.data.annotations.model import Annotations as Annotations
from d2net.data.annotations.model import AnnotationWarning as AnnotationWarning
from d2net.data.annotations.model import Segment as Segment
from d2net.data.annotations.model import Video as Video
from d2net.data.annotations.splits import is_split_folder, split_tree
from d2net.data.annotations.wtalc import is_wtalc, wtalc_tree
from d2net.data.events import is_events, read_events, read_tracks, track_files
from d2net.data.files import DataError, check_regular, read_json, reading, uncollected
from d2net.data.layouts import named_reader


class Dialect(NamedTuple):
    """tree: what reads it as ActivityNet's tree; words: what it is."""

    tree: Callable[[Path], Any]
    words: str


def _activitynet(path: Path) -> Any:
    check_regular(path)
    return read_json(path)


def _events(path: Path) -> Any:
    check_regular(path)
    return events_tree(path, read_events(path))


def _tracks(path: Path) -> Any:
    return events_tree(path, read_tracks(path))


# By name, to read what the content does not tell as the user says: the tree of each, and what it is in words.
LAYOUTS: dict[str, Dialect] = {
    "activitynet": Dialect(_activitynet, "ActivityNet's JSON"),
    "wtalc": Dialect(wtalc_tree, "W-TALC's arrays"),
    "splits": Dialect(split_tree, "gt.json with split files"),
    "events": Dialect(_events, "a list of events"),
    "tracks": Dialect(_tracks, "label tracks"),
}


def load_annotations(
    path: str | os.PathLike, *, classes: Sequence[str] | None = None, layout: str | None = None
) -> Annotations:
    """Reads annotations in one of these dialects, told apart by content.

    - ActivityNet's JSON (`database` → subset, duration_second, annotations); also BaS-Net's, and ActionFormer's and
      OpenTAD's, whose `label_id` decides the order of the classes
    - W-TALC's folder of arrays in the order of its videoname.npy
    - BaS-Net's, CoLA's and ASM-Loc's folder of gt.json and split_<subset>.txt
    - a table as DCASE and sed_eval have it (filename, onset, offset, event_label; or video, start, end, label), with
      a header or without
    - a folder of Audacity's label tracks, <video>.txt

    Video-level labels are those given for whole videos and the labels of the segments, so weak-only files work.

    Args:
        path: the file or folder.
        classes: the class list; the file's `classes`, else the labels found, by label_id or sorted, by default.
        layout: one of LAYOUTS, in place of what the content tells.

    Returns:
        classes; videos by name, in file order, with labels, segments, duration (seconds) and subset; what the file
        says of streams and timing.

    Raises:
        DataError: none of these, a label outside the class list, a segment that is not two finite numbers or ends
            before it starts; names file, video and value.
    """
    with reading(path, "annotations"), uncollected():
        place = Path(path)
        name = layout if layout is not None else _of_folder(place) if place.is_dir() else _of_file(place)
        dialect = named_reader("annotations", path, name, LAYOUTS)
        return replace(from_tree(path, dialect.tree(place), classes), layout=dialect.words)


def _of_folder(folder: Path) -> str:
    if is_wtalc(folder):
        return "wtalc"
    if is_split_folder(folder):
        return "splits"
    if track_files(folder):
        return "tracks"
    raise DataError(
        f"{folder} is a folder without videoname.npy, gt.json or label tracks; give a JSON or a table, W-TALC's or "
        "BaS-Net's annotation folder, or a folder of <video>.txt"
    )


def _of_file(path: Path) -> str:
    check_regular(path)
    return "events" if is_events(path) else "activitynet"
