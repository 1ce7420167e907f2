"""ActivityNet's results JSON."""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np

from d2net.data.detections.model import Detections
from d2net.data.files import DataError, shown, write_atomically
from d2net.ranges import number, seconds


def from_tree(path: str | os.PathLike, tree: Any) -> Detections:
    """Detections out of ActivityNet's results tree: `results` → video → label, score, segment."""
    results = tree.get("results") if isinstance(tree, dict) else None
    if not isinstance(results, dict):
        raise DataError(f"{path}: expected an object with `results`, as ActivityNet's result files have")
    videos = list(results)
    index: dict[str, int] = {}
    rows: list[tuple[int, int, float, float, float]] = []
    for v, name in enumerate(videos):
        if not isinstance(results[name] or [], list):
            raise DataError(f"{path}: video {name!r}: expected a list of detections, got {shown(results[name])}")
        for i, entry in enumerate(results[name] or []):
            try:
                start, end = seconds(entry["segment"])
                if isinstance(entry["label"], bool) or not isinstance(entry["label"], (str, int)):
                    raise TypeError("a label is a name")
                if not str(entry["label"]).strip():
                    raise TypeError("a label is a name")
                label = index.setdefault(str(entry["label"]), len(index))
                rows.append((v, label, start, end, number(entry["score"])))
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                raise DataError(
                    f"{path}: video {name!r}, row {i}: expected label, score and segment [start, end], got "
                    f"{shown(entry)}"
                ) from error
    columns = np.array(rows, np.float64).reshape(-1, 5).T
    return Detections.from_arrays(videos, tuple(index), *columns)


def save_detections(path: str | os.PathLike, detections: Detections) -> None:
    """Writes ActivityNet results JSON in one step; every video appears, with or without detections.

    Args:
        path: the file to write; an interrupted save leaves an earlier one whole.
        detections: m of them, times in seconds.

    Raises:
        OSError: nothing can be written there.
        ValueError: a time or score that is not finite.
    """
    results: dict[str, list[dict]] = {v: [] for v in detections.videos}
    columns = (detections.video, detections.label, detections.start, detections.end, detections.score)
    for v, c, a, b, s in zip(*(x.tolist() for x in columns), strict=True):
        results[detections.videos[v]].append({"label": detections.classes[c], "score": s, "segment": [a, b]})
    tree = {"version": "1.3", "results": results, "external_data": {}}
    write_atomically(path, lambda file: file.write(json.dumps(tree, allow_nan=False).encode()))
