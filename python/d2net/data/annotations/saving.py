"""Writing annotations: JSON holds all of them, tables and label tracks what they have columns for."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from d2net.data.annotations.activitynet import from_tree
from d2net.data.annotations.events import events_tree
from d2net.data.annotations.model import Annotations, AnnotationWarning, Video
from d2net.data.event_writing import Row, write_events, written_back
from d2net.data.files import DataError, read_json, replacing, some

_OTHERS = ("subset", "duration", "fps")


def save_annotations(path: str | os.PathLike, annotations: Annotations) -> list[str]:
    """Writes them in one step.

    .json is ActivityNet's, .csv a table of video, start, end and label, .tsv one with DCASE's names; no extension means
    a folder of label tracks.

    Returns:
        What the format cannot hold, in words; a JSON holds everything.

    Raises:
        DataError: what is written would not be read as what was given; names the first video that differs.
    """
    path = Path(path)
    whole = path.suffix.lower() == ".json"
    kept, lost = (annotations, []) if whole else _without_what_tables_lack(annotations)

    def check(place: Path) -> None:
        tree = read_json(place) if whole else events_tree(place, written_back(place, path.suffix))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AnnotationWarning)
            compare(path, from_tree(place, tree), kept)

    if whole:
        try:
            text = json.dumps(to_tree(annotations), allow_nan=False)
        except ValueError as error:
            what = "a field that is NaN or infinite, which JSON has not; correct or remove it"
            raise DataError(f"{path} cannot hold {annotations.source}: it has {what}") from error
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
            check(temporary)
    else:
        extra = list(dict.fromkeys(k for v in kept.videos.values() for k in _others(v)))
        write_events(path, _rows(kept), extra, check)
    return lost


def to_tree(annotations: Annotations) -> dict[str, Any]:
    """ActivityNet's tree, from which they are read as they are."""
    tree: dict[str, Any] = {"version": "d2net", "classes": list(annotations.classes)}
    if annotations.streams is not None:
        tree["streams"] = annotations.streams
    if annotations.snippet_seconds is not None:
        tree["snippet_seconds"] = annotations.snippet_seconds
    return {**tree, **annotations.frames, "database": {v.name: _entry(v) for v in annotations.videos.values()}}


def _entry(video: Video) -> dict[str, Any]:
    known = {"subset": video.subset, "duration_second": video.duration, "fps": video.fps}
    return {
        **{k: v for k, v in known.items() if v is not None},
        **video.info,
        "video_labels": list(video.labels),
        "annotations": [{"label": s.label, "segment": [s.start, s.end]} for s in video.segments],
    }


def compare(path: Path, got: Annotations, wanted: Annotations) -> None:
    """Raises DataError where they differ in anything but their source."""
    for name, video in wanted.videos.items():
        if got.videos.get(name) != video:
            raise DataError(
                f"{path} cannot hold video {name!r} as it is; rename what has tabs, line ends or spaces around it, or "
                "write .json"
            )
    if got.classes != wanted.classes or list(got.videos) != list(wanted.videos):
        raise DataError(f"{path} cannot hold these names of videos or classes in their order; write .json")
    for field in ("streams", "snippet_seconds", "frames"):
        if getattr(got, field) != getattr(wanted, field):
            raise DataError(f"{path} cannot hold the {field} {getattr(wanted, field)!r:.80}; correct them")


def _without_what_tables_lack(annotations: Annotations) -> tuple[Annotations, list[str]]:
    lost = []
    found = tuple(sorted({c for v in annotations.videos.values() for c in v.labels}))
    if annotations.classes != found:
        unused = [c for c in annotations.classes if c not in set(found)]
        lost.append(f"{len(unused)} classes without a video: {some(unused)}" if unused else "the order of the classes")
    for name in ("streams", "snippet_seconds", "frames"):
        if getattr(annotations, name):
            lost.append(f"{name} ({getattr(annotations, name)!r:.80})")
    if any("counts" in v.info for v in annotations.videos.values()):
        lost.append("how often labels occur (counts)")
    plain = [(k, x) for v in annotations.videos.values() for k, x in v.info.items() if not isinstance(x, dict)]
    if numbers := sorted({k for k, x in plain if not isinstance(x, str)}):
        lost.append(f"that {some(numbers)} are numbers: they are text")
    if empty := sorted({k for v in annotations.videos.values() for k, x in v.info.items() if x == ""}):
        lost.append(f"that {some(empty)} are empty text: they are left out")
    if capital := sorted({k for v in annotations.videos.values() for k in v.info if k != k.lower()}):
        lost.append(f"capitals in the names of fields: {some(capital)}")
    videos = {
        n: replace(v, info={k.lower(): str(x) for k, x in v.info.items() if x != "" and k != "counts"})
        for n, v in annotations.videos.items()
    }
    return Annotations(found, videos), lost


def _others(video: Video) -> dict[str, str]:
    own = {name: getattr(video, name) for name in _OTHERS}
    return {k: v if isinstance(v, str) else repr(v) for k, v in own.items() if v is not None} | video.info


def _rows(annotations: Annotations) -> Iterator[Row]:
    """Rows of whole videos first where they have labels of their own, or no segment."""
    for video in annotations.videos.values():
        others = _others(video)
        of_segments = tuple(dict.fromkeys(s.label for s in video.segments))
        weak = video.labels if video.labels != of_segments else () if video.segments else (None,)
        for label in weak:
            yield Row(video.name, None, None, label, None, others)
        for s in video.segments:
            yield Row(video.name, s.start, s.end, s.label, None, others)
