"""Features that are in memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from d2net.data.features.store import FeatureStore


class ArrayFeatures(FeatureStore):
    """A mapping of (s, d) arrays by video."""

    layout = "arrays in memory"

    def __init__(self, arrays: Mapping[str, np.ndarray]):
        self.arrays = arrays
        super().__init__("arrays", {name: (x.shape, x.dtype) for name, x in arrays.items()})

    def sources(self) -> list[Path]:
        return []

    def reads_rows(self, name: str) -> bool:
        return True

    def _read(self, name: str) -> np.ndarray:
        return self.arrays[name]

    def _read_rows(self, name: str, first: int, end: int) -> np.ndarray | None:
        x = self.arrays[name]
        return (x[0] if x.shape != self.stored_shape(name) else x)[first:end]
