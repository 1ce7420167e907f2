"""Detections as columns of numbers: an .npz, and Parquet where pyarrow is."""

from __future__ import annotations

import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from d2net.data.detections.model import Detections
from d2net.data.detections.share import Part, Share
from d2net.data.files import DataError, shown, write_atomically

COLUMNS = {"video": "<i4", "label": "<i4", "start": "<f8", "end": "<f8", "score": "<f8"}
MARK = "d2net detections 1"


def write_npz(
    path: str | os.PathLike, videos: Sequence[str], classes: Sequence[str], parts: Iterable[Detections]
) -> int:
    """Writes the parts' rows as columns `video`, `label` (int32 indices into `videos` and `classes`), `start`, `end`
    (seconds) and `score` (float64), and returns how many there are.

    Args:
        parts: of consecutive videos, one after the other; one is in memory at a time.

    Raises:
        DataError: a name that ends in a zero, which NumPy's text cannot hold.
    """
    for name in (*videos, *classes):
        if name.endswith("\0"):
            raise DataError(f"{path}: {name!r} ends in a zero, which no .npz can hold; rename it")
    with ExitStack() as stack:
        near = str(folder) if (folder := Path(path).parent).is_dir() else None  # where the file has room too
        files = {c: stack.enter_context(tempfile.TemporaryFile(dir=near)) for c in COLUMNS}
        rows = first = 0
        for part in parts:
            for name, file in files.items():
                values = part.video + first if name == "video" else getattr(part, name)
                file.write(np.ascontiguousarray(values, COLUMNS[name]).data)
            rows, first = rows + len(part), first + len(part.videos)

        def write(out: IO[bytes]) -> None:
            with zipfile.ZipFile(out, "w") as archive:
                for name, texts in (("videos", videos), ("classes", classes), ("format", [MARK])):
                    with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as entry:
                        np.lib.format.write_array(entry, np.array(texts, np.str_), allow_pickle=False)
                for name, file in files.items():
                    head = {"descr": COLUMNS[name], "fortran_order": False, "shape": (rows,)}
                    with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as entry:
                        np.lib.format.write_array_header_1_0(entry, head)
                        file.seek(0)
                        shutil.copyfileobj(file, entry, 1 << 20)

        write_atomically(path, write)
    return rows


def read_npz(path: str | os.PathLike, part: Part | None = None) -> Detections:
    """What `write_npz` wrote, or the part of it.

    Raises:
        DataError: an entry that is missing or of another type.
    """
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
        if missing := [c for c in (*COLUMNS, "videos", "classes") if f"{c}.npy" not in names]:
            raise DataError(f"{path} lacks {', '.join(missing)}; an .npz of detections has {', '.join(COLUMNS)}")
        found = {c: _array(archive, c) for c in ("videos", "classes")}
        rows = None if part is None else part.of(_array(archive, "video"))
        found |= {c: _array(archive, c) if rows is None else _array(archive, c)[rows] for c in COLUMNS}
    for name in ("videos", "classes"):
        if found[name].dtype.kind != "U" or found[name].ndim != 1:
            raise DataError(f"{path}: {name} must be text, got {found[name].dtype} {found[name].shape}")
    for name, dtype in COLUMNS.items():
        if found[name].dtype.kind not in "iu" if dtype == "<i4" else found[name].dtype.kind != "f":
            raise DataError(f"{path}: {name} must be {np.dtype(dtype)}, got {found[name].dtype}")
    videos, classes = found["videos"].tolist(), found["classes"].tolist()
    _check_names(path, videos, classes)
    own = Detections.from_arrays(videos, classes, *(found[c] for c in COLUMNS))
    if part is None or rows is None:
        return own
    return replace(own, share=Share(np.flatnonzero(rows), len(rows), part))


def _array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with archive.open(f"{name}.npy") as file:
        array = np.lib.format.read_array(file, allow_pickle=False)
        file.read(1)  # the checksum is compared at the end
        return array


def _check_names(path: str | os.PathLike, videos: Sequence[Any], classes: Sequence[Any]) -> None:
    for what, names in (("video", videos), ("class", classes)):
        if len(set(names)) != len(names):
            raise DataError(f"{path}: a {what} is in it twice")
        if odd := next((n for n in names if not isinstance(n, str) or not n.strip()), None):
            raise DataError(f"{path}: {shown(odd)} is no name of a {what}")


def is_detections_npz(path: str | os.PathLike) -> bool:
    """Whether an .npz holds columns of detections, and not features."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {f"{c}.npy" for c in (*COLUMNS, "videos", "classes", "format")} <= set(archive.namelist())
    except (zipfile.BadZipFile, OSError):
        return False
