"""Features in one .npz keyed by video."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import numpy as np

from d2net.data.features.index import Index, file_state
from d2net.data.features.store import FeatureError, FeatureStore, header
from d2net.data.features.timing import FILE, timing_of_file
from d2net.data.files import check_regular, reading


class NpzFeatures(FeatureStore):
    """One .npz keyed by video; a timing.json in it may state when a snippet is."""

    layout = "an .npz keyed by video"

    def __init__(self, path: Path):
        self.path = path
        self._archive: zipfile.ZipFile | None = None
        self._opener = 0
        with reading(path, "an .npz", FeatureError):
            check_regular(path, FeatureError)
            index = Index(path, file_state(path))
            if index.keys() is None:
                self._index(index)
                index.save()
            self.stated = index.stated
            self.entries = {entry.removesuffix(".npy"): entry for entry in index.known}
        super().__init__(str(path), {name: index.known[entry] for name, entry in self.entries.items()})

    def _index(self, index: Index) -> None:
        """Reads each array's header, and the timing where there is one."""
        with zipfile.ZipFile(self.path) as archive:
            if FILE in archive.namelist():
                index.stated = timing_of_file(f"{self.path}: {FILE}", json.loads(archive.read(FILE)))
            for info in archive.infolist():
                entry = info.filename
                # macOS adds a shadow of each file to the archives that it makes.
                if not entry.endswith(".npy") or entry.rpartition("/")[2].startswith("."):
                    continue
                if entry in index.known:
                    raise FeatureError(f"{self.path}: video {entry.removesuffix('.npy')!r} is in it twice")
                with reading(f"{self.path}: {entry}", "a NumPy array", FeatureError), archive.open(entry) as file:
                    index.add(entry, header(file, info.file_size))

    def _read(self, name: str) -> np.ndarray:
        # A forked process has its parent's handle, whose place in the file both would move.
        if self._archive is None or self._opener != os.getpid():
            self._archive, self._opener = zipfile.ZipFile(self.path), os.getpid()
        # Not np.load: it takes the entry `v.npy` for the key `v.npy` too.
        with self._archive.open(self.entries[name]) as file:
            array = np.lib.format.read_array(file, allow_pickle=False)
            file.read(1)  # the checksum is compared at the end
        return array

    def __getstate__(self) -> dict:
        # A worker process opens its own handle.
        return {**self.__dict__, "_archive": None}
