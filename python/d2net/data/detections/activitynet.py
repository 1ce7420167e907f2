"""ActivityNet's results JSON, read a video at a time."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import numpy as np

from d2net.data.detections.model import Detections
from d2net.data.detections.share import Part, Share
from d2net.data.files import DataError, shown
from d2net.data.json_items import json_items
from d2net.ranges import number, seconds

_NUMBERS = (float, int)


def read_results(path: str | os.PathLike, part: Part | None = None) -> Detections:
    """Detections of ActivityNet's results: `results` → video → label, score, segment; no more is in memory than the
    columns, of the part's videos alone where there is one, and one video.

    Raises:
        DataError: names the video and row.
    """
    index: dict[str, int] = {}
    videos: list[str] = []
    counts: list[int] = []
    places: list[int] = []
    labels: list[np.ndarray] = []
    numbers: list[np.ndarray] = []
    # Objects come as tuples of pairs, which no JSON array does: one with a key twice can be told.
    for name, entries in json_items(path, "results", tuple):
        videos.append(name)
        counts.append(len(entries) if isinstance(entries, list) else 0)
        if part is not None and not part.has(len(videos) - 1):
            continue
        places.append(len(videos) - 1)
        if entries:
            if not isinstance(entries, list):
                raise DataError(f"{path}: video {name!r}: expected a list of detections, got {shown(_plain(entries))}")
            label, values = _plainly(entries, index) or _row_by_row(path, name, entries, index)
            labels.append(label)
            numbers.append(values)
        else:
            labels.append(np.zeros(0, np.int32))
            numbers.append(np.zeros((0, 3)))
    video = np.repeat(np.array(places, np.int32), [len(x) for x in labels])
    label = np.concatenate(labels) if labels else np.zeros(0, np.int32)
    del labels
    columns = np.concatenate(numbers).T if numbers else np.zeros((3, 0))
    del numbers
    found = Detections.from_arrays(videos, tuple(index), video, label, *map(np.ascontiguousarray, columns))
    if part is None:
        return found
    own = np.repeat(part.of(np.arange(len(videos))), counts)
    return replace(found, share=Share(np.flatnonzero(own), len(own), part))


def _plainly(entries: list[Any], index: dict[str, int]) -> tuple[np.ndarray, np.ndarray] | None:
    """(n,) labels and (n, 3) start, end and score of entries without anything odd; None where there is."""
    labels, values, before = [], [], len(index)
    try:
        for pairs in entries:
            entry = dict(pairs)
            label, score, (start, end) = entry["label"], entry["score"], entry["segment"]
            numbers = type(start) in _NUMBERS and type(end) in _NUMBERS and type(score) in _NUMBERS
            named = type(label) is str and label.strip()
            if type(pairs) is not tuple or len(entry) != len(pairs) or not numbers or not named:
                raise ValueError
            labels.append(index.setdefault(label, len(index)))
            values.append((start, end, score))
        return np.array(labels, np.int32), np.array(values, np.float64)
    except (KeyError, TypeError, ValueError, OverflowError):
        for label in list(index)[before:]:
            del index[label]
        return None


def _row_by_row(
    path: str | os.PathLike, name: str, entries: list[Any], index: dict[str, int]
) -> tuple[np.ndarray, np.ndarray]:
    labels, values = [], []
    for i, pairs in enumerate(entries):
        entry = _plain(pairs)
        try:
            if isinstance(pairs, tuple) and len(entry) != len(pairs):
                raise KeyError("a key occurs twice")
            start, end = seconds(entry["segment"])
            if isinstance(entry["label"], bool) or not isinstance(entry["label"], (str, int)):
                raise TypeError("a label is a name")
            if not str(entry["label"]).strip():
                raise TypeError("a label is a name")
            values.append((start, end, number(entry["score"])))
            labels.append(index.setdefault(str(entry["label"]), len(index)))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise DataError(
                f"{path}: video {name!r}, row {i}: expected label, score and segment [start, end], got {shown(entry)}"
            ) from error
    return np.array(labels, np.int32), np.array(values, np.float64)


def _plain(value: Any) -> Any:
    """Objects as dicts again."""
    if isinstance(value, tuple):
        return {key: _plain(x) for key, x in value}
    return [_plain(x) for x in value] if isinstance(value, list) else value
