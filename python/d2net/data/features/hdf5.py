"""Features in HDF5, a dataset a video."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from d2net.data.features.store import FeatureError, FeatureStore


class Hdf5Features(FeatureStore):
    """An HDF5 file with a dataset per video."""

    def __init__(self, path: Path):
        self.path = path
        shapes: dict[str, tuple[tuple[int, ...], np.dtype]] = {}

        def visit(name: str, item: Any) -> None:
            if hasattr(item, "shape"):
                shapes[name] = (item.shape, item.dtype)

        with self._open() as file:
            file.visititems(visit)
        super().__init__(str(path), shapes)

    def _open(self):
        try:
            import h5py
        except ImportError as error:
            raise FeatureError(f"{self.path}: reading HDF5 needs the package h5py; pip install h5py") from error
        try:
            return h5py.File(self.path, "r")
        except OSError as error:
            raise FeatureError(f"{self.path} is truncated or not HDF5: {error}") from error

    def _read(self, name: str) -> np.ndarray:
        with self._open() as file:
            return file[name][()]
