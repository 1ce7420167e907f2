"""Many videos in each of many files: a folder of .npz, HDF5 or safetensors, or what Hugging Face's index names."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from d2net.data.features.files import CALLED
from d2net.data.features.hdf5 import Hdf5Features
from d2net.data.features.headers import Shape
from d2net.data.features.listing import Listing
from d2net.data.features.npz import NpzFeatures, array_entries
from d2net.data.features.store import FeatureError, FeatureStore
from d2net.data.features.tensors import SafetensorsFeatures, tensor_headers
from d2net.data.files import DataError, read_json, reading, shown, some

INDEX = ".safetensors.index.json"
_OPEN: dict[str, Callable[[Path], FeatureStore]] = {
    ".npz": NpzFeatures,
    ".h5": Hdf5Features,
    ".hdf5": Hdf5Features,
    ".safetensors": SafetensorsFeatures,
}
_LOOKED_AT = 3  # files; one may hold a single video


class ShardedFeatures(FeatureStore):
    """The videos of several stores."""

    def __init__(self, path: Path, shards: Mapping[str, FeatureStore]):
        """shards: stores by their files' names."""
        self.of: dict[str, FeatureStore] = {}
        shapes: dict[str, Shape] = {}
        for file, shard in shards.items():
            if twice := next((v for v in shard if v in self.of), None):
                raise FeatureError(f"{path}: video {twice!r} is in {Path(self.of[twice].source).name} and in {file}")
            self.of |= dict.fromkeys(shard, shard)
            shapes |= shard.headers.column(lambda kind: kind)
        self.files = [Path(shard.source) for shard in shards.values()]
        super().__init__(str(path), shapes)
        self.stated = _agreed(path, {file: shard.stated for file, shard in shards.items()})
        if all(shard.precision == "bfloat16" for shard in shards.values()):
            self.precision = "bfloat16"
        kinds = Counter(p.suffix.lower().removeprefix(".") for p in self.files)
        self.layout = f"{len(shards)} shards ({', '.join(kinds)})"

    def sources(self) -> list[Path]:
        return self.files

    def _read(self, name: str) -> np.ndarray:
        return self.of[name]._read(name)

    def reads_rows(self, name: str) -> bool:
        return not self.turned and self.of[name].reads_rows(name)

    def _read_rows(self, name: str, first: int, end: int) -> np.ndarray | None:
        shard = self.of[name]
        # What a shard by itself takes for ten crops or a batch need not be so.
        return shard._read_rows(name, first, end) if shard.stored_shape(name) == self.stored_shape(name) else None


def _agreed(path: Path, stated: Mapping[str, Mapping[str, float]]) -> Mapping[str, float]:
    said = {file: fields for file, fields in stated.items() if fields}
    if not said:
        return {}
    first, fields = next(iter(said.items()))
    if other := next((file for file, own in said.items() if dict(own) != dict(fields)), None):
        raise FeatureError(
            f"{path}: the timing is {dict(fields)} in {first} and {dict(said[other])} in {other}; state one"
        )
    return fields


def _files(folder: Path) -> list[str]:
    return sorted(
        e.name
        for e in os.scandir(folder)
        if not e.name.startswith(".") and os.path.splitext(e.name)[1].lower() in _OPEN and e.is_file()
    )


def _indices(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob(f"*{INDEX}") if not p.name.startswith("."))


def are_shards(listing: Listing) -> bool:
    """Whether a folder's files hold many videos each: it has an index, HDF5, or files of several arrays without one
    that is called as a video's features are."""
    kinds, folder = listing.kinds().keys(), listing.folder
    if ".json" in kinds and _indices(folder):
        return True
    if not kinds & _OPEN.keys() or kinds & {".npy", ".pt", ".pth"}:
        return False
    files = _files(folder)
    return any(_many(folder / name) for name in dict.fromkeys([*files[:_LOOKED_AT], *files[-1:]]))


def _many(path: Path) -> bool:
    kind = path.suffix.lower()
    if kind in (".h5", ".hdf5"):
        return True
    try:
        with reading(path, "an .npz" if kind == ".npz" else "safetensors", FeatureError):
            held: Iterable[str] = array_entries(path) if kind == ".npz" else tensor_headers(path).tensors
    except DataError:
        return False  # its reader says what is wrong
    held = list(held)
    return len(held) > 1 and not set(held) & set(CALLED)


def open_shards(path: Path) -> FeatureStore:
    """Opens a folder of shards, or the `*.safetensors.index.json` that Hugging Face's libraries write beside theirs.

    Raises:
        FeatureError: no shards, one that is missing or damaged, a video in two of them, timings or widths that differ.
    """
    if not path.is_dir():
        return _of_index(path)
    if found := _indices(path):
        if len(found) > 1:
            raise FeatureError(f"{path} holds {len(found)} indices ({some([p.name for p in found])}); name one of them")
        return _of_index(found[0])
    files = _files(path)
    if not files:
        raise FeatureError(f"{path}: no shards in it; they are .npz, .h5 or .safetensors files")
    return ShardedFeatures(path, {name: _OPEN[os.path.splitext(name)[1].lower()](path / name) for name in files})


def _of_index(path: Path) -> FeatureStore:
    with reading(path, "an index of safetensors", FeatureError):
        tree = read_json(path)
        places: Any = tree.get("weight_map") if isinstance(tree, dict) else None
        if not isinstance(places, dict) or not places:
            raise FeatureError(f"{path}: no weight_map in it, which says which file holds which video")
        files = list(dict.fromkeys(places.values()))
        if odd := [f for f in files if not isinstance(f, str) or Path(f).name != f or not f.endswith(".safetensors")]:
            raise FeatureError(f"{path}: files of the weight_map are .safetensors beside it, got {shown(odd[0])}")
    shards = {name: SafetensorsFeatures(path.parent / name) for name in files}
    store = ShardedFeatures(path, shards)
    lost = [v for v, file in places.items() if v not in shards[file]]
    surplus = [v for v in store if v not in places]
    if lost or surplus:
        what = f"names {lost[0]!r} in {places[lost[0]]}, which" if lost else f"does not name {surplus[0]!r}, which"
        where = "is not there" if lost else f"{Path(store.of[surplus[0]].source).name} holds"
        raise FeatureError(f"{path} {what} {where}; write the index again")
    return store
