"""Detections as pickled columns: ActionFormer's and OpenTAD's results."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import IO, Any

import numpy as np

from d2net.data.detections.model import Detections
from d2net.data.files import DataError, shown
from d2net.data.pickles import load_pickle

_PICKLED = ("video-id", "t-start", "t-end", "label", "score")


def from_pickle(path: str | os.PathLike, file: IO[bytes]) -> Detections:
    """A dict of columns video-id, t-start, t-end (seconds), label, score; nothing in the pickle is executed."""
    tree = load_pickle(file)
    if not isinstance(tree, dict) or (missing := [name for name in _PICKLED if name not in tree]):
        lack = f"lacks {', '.join(missing)}" if isinstance(tree, dict) else f"is a {type(tree).__name__}"
        raise DataError(f"{path} {lack}; a pickle of detections is a dict of {', '.join(_PICKLED)}")
    columns = {name: _values(path, name, tree[name]) for name in _PICKLED}
    if len({len(c) for c in columns.values()}) > 1:
        raise DataError(f"{path}: its columns have {', '.join(f'{len(c)} {n}' for n, c in columns.items())}")
    return _detections(path, zip(*(columns[name] for name in _PICKLED), strict=True))


def _values(path: str | os.PathLike, name: str, column: Any) -> Sequence[Any]:
    values = column.reshape(-1).tolist() if isinstance(column, np.ndarray) else column
    if not isinstance(values, list):
        raise DataError(f"{path}: {name} must be a column, got {shown(column)}")
    return [v.decode("utf-8", "replace") if isinstance(v, bytes) else v for v in values]


def _detections(path: str | os.PathLike, rows: Iterable[tuple[Any, ...]]) -> Detections:
    videos: dict[str, int] = {}
    classes: dict[str, int] = {}
    found = []
    for i, (video, start, end, label, score) in enumerate(rows):
        if not isinstance(video, str) or isinstance(label, (bool, float)) or not isinstance(label, (str, int)):
            raise DataError(f"{path}: detection {i}: video and label must be names, got {shown((video, label))}")
        if not str(label).strip() or not video.strip():
            raise DataError(f"{path}: detection {i}: a video or label without a name: {shown((video, label))}")
        v, c = videos.setdefault(video, len(videos)), classes.setdefault(str(label), len(classes))
        found.append((v, c, float(start), float(end), float(score)))
    columns = np.array(found, np.float64).reshape(-1, 5).T
    return Detections.from_arrays(list(videos), tuple(classes), *columns)
