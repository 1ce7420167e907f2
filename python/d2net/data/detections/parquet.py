"""Detections in Parquet, by pyarrow."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from d2net.data.detections.model import Detections
from d2net.data.files import DataError, replacing

_NAMES = b"d2net"  # of the schema's metadata that has videos and classes, those without detections included
_COLUMNS = ("video", "label", "start", "end", "score")


def _pyarrow(path: str | os.PathLike) -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DataError(f"{path}: Parquet needs the package pyarrow; pip install pyarrow, or use .npz") from error
    return pyarrow


def check_parquet(path: str | os.PathLike) -> None:
    """Raises DataError where there is no pyarrow."""
    _pyarrow(path)


def write_parquet(
    path: str | os.PathLike, videos: Sequence[str], classes: Sequence[str], parts: Iterable[Detections]
) -> int:
    """Writes columns video, label (text by dictionary), start, end (seconds) and score, and returns how many rows.

    Args:
        parts: of consecutive videos, one after the other; one is in memory at a time.
    """
    pa = _pyarrow(path)
    text = pa.dictionary(pa.int32(), pa.string())
    names = json.dumps({"videos": list(videos), "classes": list(classes)}).encode()
    fields = [("video", text), ("label", text), *((c, pa.float64()) for c in _COLUMNS[2:])]
    schema = pa.schema(fields, metadata={_NAMES: names})
    rows = 0
    with replacing(path) as place, pa.parquet.ParquetWriter(place, schema, compression="zstd") as writer:
        for part in parts:
            texts = [
                pa.DictionaryArray.from_arrays(pa.array(place.astype(np.int32)), pa.array(of, pa.string()))
                for place, of in ((part.video, part.videos), (part.label, part.classes))
            ]
            columns = [*texts, *(pa.array(getattr(part, c)) for c in _COLUMNS[2:])]
            if len(part):
                writer.write_table(pa.table(columns, schema=schema))
            rows += len(part)
    return rows


def read_parquet(path: str | os.PathLike) -> Detections:
    """Columns video, label, start, end and score of any Parquet file; others are left out.

    Raises:
        DataError: no pyarrow, a column that is missing, or one with empty values.
    """
    pa = _pyarrow(path)
    file = pa.parquet.ParquetFile(path)
    held = file.schema_arrow
    if missing := [c for c in _COLUMNS if c not in held.names]:
        raise DataError(f"{path} lacks {', '.join(missing)}; Parquet of detections has {', '.join(_COLUMNS)}")
    known = json.loads((held.metadata or {}).get(_NAMES, b'{"videos": [], "classes": []}'))
    keys = {"video": "videos", "label": "classes"}
    index = {name: {v: i for i, v in enumerate(known[key])} for name, key in keys.items()}
    parts: list[list[np.ndarray]] = []
    for batch in file.iter_batches(columns=list(_COLUMNS)):
        table = {name: batch.column(name) for name in _COLUMNS}
        if empty := next((name for name, column in table.items() if column.null_count), None):
            raise DataError(f"{path}: {empty} is empty in {table[empty].null_count} rows; fill it or drop them")
        numbers = [np.asarray(table[c].to_numpy(zero_copy_only=False), np.float64) for c in _COLUMNS[2:]]
        parts.append([_numbered(path, name, table[name], index[name]) for name in _COLUMNS[:2]] + numbers)
    columns = [np.concatenate(c) for c in zip(*parts, strict=True)] if parts else [np.zeros(0)] * 5
    return Detections.from_arrays(list(index["video"]), tuple(index["label"]), *columns)


def _numbered(path: str | os.PathLike, what: str, column: Any, index: dict[str, int]) -> np.ndarray:
    """The place of each of the column's names in the index, which takes those that are new."""
    if not hasattr(column, "indices"):
        column = column.dictionary_encode()
    names = column.dictionary.to_pylist()
    if odd := next((n for n in names if not isinstance(n, str) or not n.strip()), None):
        raise DataError(f"{path}: {what} must be names, got {odd!r}")
    places = np.array([index.setdefault(name, len(index)) for name in names], np.int64)
    return places[column.indices.to_numpy(zero_copy_only=False)]
