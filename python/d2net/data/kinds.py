"""What a file or folder of data holds: features, annotations or detections."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from d2net.data.annotations.splits import is_split_folder
from d2net.data.annotations.wtalc import is_wtalc
from d2net.data.detections.binary import is_detections_npz
from d2net.data.events import Event, is_events, read_events, read_tracks, track_files
from d2net.data.features.files import KINDS as ARRAYS
from d2net.data.features.shards import INDEX as SHARDS
from d2net.data.files import DataError, check_regular, read_json, reading

Kind = Literal["features", "annotations", "detections"]
KINDS: tuple[Kind, ...] = ("features", "annotations", "detections")
_FEATURES = (".npz", ".h5", ".hdf5", ".safetensors", ".npy")


def kind_of(path: str | os.PathLike) -> Kind:
    """Told by content; events with scores are detections.

    Raises:
        DataError: none of them; names the file.
    """
    place = Path(path)
    with reading(path, "features, annotations or detections"):
        if place.is_dir():
            if is_wtalc(place) or is_split_folder(place):
                return "annotations"
            tracks = track_files(place)
            # Empty texts are tracks of nothing, or marks beside arrays.
            if not tracks or (not any(p.stat().st_size for p in tracks) and _holds_arrays(place)):
                return "features"
            return _of_events(read_tracks(place))
        check_regular(place)
        if place.suffix.lower() == ".npz" and is_detections_npz(place):
            return "detections"
        if place.suffix.lower() in _FEATURES or place.name.endswith(SHARDS):
            return "features"
        with open(place, "rb") as file:
            head = file.read(4)
            if head[:1] == b"\x80" or head == b"PAR1":
                return "detections"
        if is_events(place):
            return _of_events(read_events(place))
        tree = read_json(place)
        if isinstance(tree, dict) and ("database" in tree) != ("results" in tree):
            return "annotations" if "database" in tree else "detections"
    raise DataError(f"{path}: neither features, annotations (`database`) nor detections (`results`); say --kind")


def _holds_arrays(folder: Path) -> bool:
    return any(p.suffix.lower() in ARRAYS for p in folder.iterdir() if not p.name.startswith("."))


def _of_events(events: Iterator[Event]) -> Kind:
    """The first with times decides."""
    first = next((e for e in events if e.start is not None), None)
    return "detections" if first is not None and first.score is not None else "annotations"
