"""A made-up data set on disk."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

from d2net.data.features.writing import Written, write_features
from d2net.data.files import DataError, write_atomically
from d2net.data.synth.features import SyntheticFeatures

FORMATS = {"npz": "features.npz", "h5": "features.h5", "safetensors": "features.safetensors", "folder": "features"}


class SyntheticSet(NamedTuple):
    features: Written
    annotations: Path


def write_synthetic_set(
    folder: str | os.PathLike,
    store: SyntheticFeatures,
    *,
    format: str = "npz",
    dtype: str | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> SyntheticSet:
    """Writes features.npz (.h5, .safetensors, or a folder) and annotations.json into `folder`, video by video.

    Raises:
        DataError: no such format, or what is there would be replaced.
    """
    if format not in FORMATS:
        raise DataError(f"format must be {', '.join(FORMATS)}, got {format!r}")
    folder = Path(folder)
    features, annotations = folder / FORMATS[format], folder / "annotations.json"
    for path in (features, annotations):
        if path.exists() and not overwrite:
            raise DataError(f"{path} is there; say --overwrite to replace it, or give another folder")
    written = write_features(features, store, dtype=dtype, overwrite=overwrite, progress=progress)

    def write(file: IO[bytes]) -> None:
        for piece in _pieces(store):
            file.write(piece.encode())

    write_atomically(annotations, write)
    return SyntheticSet(written, annotations)


def _pieces(store: SyntheticFeatures) -> Iterator[str]:
    """ActivityNet's JSON, a piece a video."""
    head = {"version": "synthetic", "classes": list(store.timelines.classes), "streams": store.streams, **store.stated}
    yield json.dumps(head)[:-1] + ', "database": {'
    for i in range(len(store)):
        subset, timeline = store.timeline(i)
        rows = [{"label": s.label, "segment": [s.start, s.end]} for s in timeline.segments]
        entry = {"subset": subset, "duration_second": timeline.duration, "annotations": rows}
        yield f"{',' if i else ''}\n{json.dumps(store.name(i))}: {json.dumps(entry)}"
    yield "\n}}\n"
