"""Features in one .npz keyed by video."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from d2net.data.features.store import FeatureError, FeatureStore, header
from d2net.data.files import DAMAGED


class NpzFeatures(FeatureStore):
    """One .npz keyed by video."""

    def __init__(self, path: Path):
        self.path = path
        try:
            with zipfile.ZipFile(path) as archive:
                names = [n for n in archive.namelist() if n.endswith(".npy")]
                shapes = {n.removesuffix(".npy"): header(archive.open(n), f"{path}: {n}") for n in names}
        except FeatureError:
            raise
        except DAMAGED as error:
            raise FeatureError(f"{path} is truncated or not an .npz: {error}") from error
        super().__init__(str(path), shapes)
        self._archive: np.lib.npyio.NpzFile | None = None

    def _read(self, name: str) -> np.ndarray:
        if self._archive is None:
            self._archive = np.load(self.path, allow_pickle=False)
        return self._archive[name]

    def __getstate__(self) -> dict:
        # A worker process opens its own handle.
        return {**self.__dict__, "_archive": None}
