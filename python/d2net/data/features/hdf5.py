"""Features in HDF5, a dataset a video."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from d2net.data.features.headers import Headers, Shape
from d2net.data.features.index import Kept, file_state, load, save
from d2net.data.features.store import FeatureError, FeatureStore
from d2net.data.files import check_regular, reading
from d2net.data.names import names_a_kind
from d2net.ranges import usable

MOST_NESTED = 16


class Hdf5Features(FeatureStore):
    """An HDF5 file with a dataset per video, or a group per video that holds one dataset, named alike in all groups."""

    layout = "HDF5, a dataset a video"

    def __init__(self, path: Path):
        self.path = path
        with reading(path, "HDF5", FeatureError):
            with self._open() as file:
                state = file_state(path)
                if (kept := load(path, state)) is None:
                    kept = _indexed(path, file)
                    save(path, state, kept)
                self.stated = _stated(file)
            self.places = _by_video(kept.names)
        kinds = dict(zip(kept.names, map(kept.kinds.__getitem__, kept.code.tolist()), strict=True))
        super().__init__(str(path), {video: kinds[place] for video, place in self.places.items()})

    def _open(self) -> Any:
        try:
            import h5py
        except ImportError as error:
            raise FeatureError(f"{self.path}: reading HDF5 needs the package h5py; pip install h5py") from error
        check_regular(self.path, FeatureError)
        return h5py.File(self.path, "r")

    def _read(self, name: str) -> np.ndarray:
        with self._open() as file:
            dataset = file[self.places[name]]
            _check_own_data(self.path, name, dataset)
            return dataset[()]

    def reads_rows(self, name: str) -> bool:
        return not self.turned  # compressed data come in chunks of rows, as h5py writes them

    def _read_rows(self, name: str, first: int, end: int) -> np.ndarray | None:
        with self._open() as file:
            dataset = file[self.places[name]]
            _check_own_data(self.path, name, dataset)
            if dataset.shape != self.held[name]:
                raise self.changed(name, dataset.shape, dataset.dtype)
            batch = dataset.shape != self.stored_shape(name)
            return dataset[0, first:end] if batch else dataset[first:end]


def _indexed(path: Path, file: Any) -> Kept:
    found: dict[str, Shape] = {}
    for name, item in _datasets(path, file):
        _check_own_data(path, name, item)
        found[name] = item.shape or (), item.dtype
    headers = Headers.of(found)
    return Kept(headers.code, headers.kinds, headers.names, np.zeros((0, 0), np.int64), {})


def _datasets(
    path: Path, group: Any, prefix: str = "", seen: dict[Any, str] | None = None
) -> Iterator[tuple[str, Any]]:
    """Every dataset by name, links within the file followed."""
    import h5py

    seen = {} if seen is None else seen
    own = prefix.rstrip("/") or "/"
    if group.id in seen:
        raise FeatureError(f"{path}: the group {own!r} is {seen[group.id]!r} by another name; keep one name for each")
    if prefix.count("/") > MOST_NESTED:
        raise FeatureError(f"{path}: the group {own!r} is more than {MOST_NESTED} deep")
    seen[group.id] = own
    for key in group:
        name, link = prefix + key, group.get(key, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            raise FeatureError(f"{path}: {name!r} is a link to another file, {link.filename!r}; copy the data in")
        try:
            item = group[key]
        except KeyError as error:
            raise FeatureError(f"{path}: {name!r} is damaged or a link to nothing; write the file again") from error
        if isinstance(item, h5py.Group):
            yield from _datasets(path, item, f"{name}/", seen)
        elif isinstance(item, h5py.Dataset):
            yield name, item


def _stated(file: Any) -> dict[str, float]:
    """The file's attributes that state its timing; numbers, or their text."""
    found: dict[str, float] = {}
    for name in ("fps", "stride", "snippet_frames", "snippet_seconds"):
        if name in file.attrs and (value := usable(file.attrs[name])) is not None:
            found[name] = value
    return found


def _check_own_data(path: Path, name: str, dataset: Any) -> None:
    """Refuses data that are not in the file: what a file names elsewhere is not ours to open."""
    if dataset.external or dataset.is_virtual:
        raise FeatureError(f"{path}: the data of {name!r} are in other files; copy them in")
    if dataset.size and not dataset.id.get_storage_size():
        raise FeatureError(f"{path}: the data of {name!r} were never written; extract it again")


def _by_video(places: list[str]) -> dict[str, str]:
    """{video: dataset}: `v_1/c3d_features`, `v_2/c3d_features` are videos v_1 and v_2."""
    parts = [place.rpartition("/") for place in places]
    leaves = {leaf for _, _, leaf in parts}
    # Of one video alone only its name can tell.
    one_each = len(leaves) == 1 and (len(places) > 1 or names_a_kind(*leaves))
    if one_each and all(group for group, _, _ in parts):
        return {group: place for (group, _, _), place in zip(parts, places, strict=True)}
    return {place: place for place in places}
