"""W-TALC's annotations: a folder of .npy arrays in the order of videoname.npy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from d2net.data.features.wtalc import NAMES, text_list
from d2net.data.files import DataError, check_regular, reading
from d2net.data.pickles import load_npy


def is_wtalc(path: Path) -> bool:
    return (path / NAMES).exists()


def wtalc_tree(path: Path) -> dict[str, Any]:
    """The folder as ActivityNet's annotation tree.

    videoname, subset, classlist; labels and segments (seconds) per instance; labels_all, duration and original_fps
    where they are there.

    Raises:
        DataError: an array is missing, of another length, or no W-TALC array; names the file.
    """
    names = text_list(_array(path, "videoname"))
    if len(set(names)) < len(names):
        raise DataError(f"{path / NAMES}: video {next(n for n in names if names.count(n) > 1)!r} is in it twice")

    def column(name: str) -> list[Any]:
        array = _array(path, name)
        if len(array) != len(names):
            raise DataError(f"{path / name}.npy has {len(array)} entries, but {NAMES} {len(names)}")
        return array.reshape(len(names), -1)[:, 0].tolist() if array.dtype != object else list(array)

    columns = {name: column(name) for name in ("subset", "labels", "segments")}
    for name in ("labels_all", "duration", "original_fps"):
        if (path / f"{name}.npy").exists():
            columns[name] = column(name)
    classes = text_list(_array(path, "classlist"))
    database = {name: _entry(path, name, {k: v[i] for k, v in columns.items()}) for i, name in enumerate(names)}
    return {"classes": classes, "database": database}


def _entry(path: Path, name: str, row: dict[str, Any]) -> dict[str, Any]:
    labels, segments = _list(row["labels"]), _list(row["segments"])
    if len(labels) != len(segments):
        raise DataError(f"{path}: video {name!r} has {len(labels)} labels for {len(segments)} segments")
    entry = {
        "subset": _text(row["subset"]),
        "annotations": [{"label": _text(c), "segment": _list(s)} for c, s in zip(labels, segments, strict=True)],
        "video_labels": [_text(c) for c in _list(row.get("labels_all", []))],
    }
    return entry | {k: row[old] for k, old in (("duration_second", "duration"), ("fps", "original_fps")) if old in row}


def _array(path: Path, name: str) -> np.ndarray:
    place = path / f"{name}.npy"
    with reading(place, "a W-TALC array"):
        check_regular(place)
        with open(place, "rb") as file:
            array = load_npy(file)
        if array.ndim < 1:
            raise DataError(f"{place} is a single value, not an array")
        return array


def _list(value: Any) -> list:
    if isinstance(value, np.ndarray):
        return value.tolist()
    return value if isinstance(value, list) else [value]


def _text(value: Any) -> Any:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
