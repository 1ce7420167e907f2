"""Features in memory, as many as fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from d2net.data.features.tensors import from_bfloat16, to_bfloat16

if TYPE_CHECKING:
    from d2net.data.features import FeatureStore
    from d2net.data.resident import Resident

_WHOLE = 4  # times what is asked for, up to which a video is read and kept whole


class CachedFeatures:
    """A store's arrays, kept once read as long as they fit, bit for bit and of the size that the file has them in.

    Args:
        gigabytes: the bound of what is kept.

    room: that bound, left: what of it is free, in bytes.
    """

    def __init__(self, store: FeatureStore, gigabytes: float):
        self.store, self.room = store, int(gigabytes * 2**30)
        self.left = self.room
        self.kept: dict[str, np.ndarray] = {}
        self.halves = store.precision == "bfloat16"
        self.resident: Resident | None = None

    def __getitem__(self, name: str) -> np.ndarray:
        """(s, d), as of the store."""
        return self.rows(name, 0, self.store.lengths[name])

    def rows(self, name: str, first: int, end: int) -> np.ndarray:
        """`self[name][first:end]`; of a video that is much longer, or does not fit, no other rows are read."""
        if name not in self.kept and not self._keep(name, end - first):
            return self.store.rows(name, first, end)
        part = self.kept[name][first:end]
        return from_bfloat16(part) if self.halves else part

    def size(self, name: str) -> int:
        """Bytes that a video takes here."""
        each = 2 if self.halves else self.store.dtype(name).itemsize
        return self.store.lengths[name] * self.store.width * each

    def hold(self, name: str, rows: torch.Tensor) -> None:
        """Keeps a video's rows that others have on the CPU, in place of a copy of its own."""
        if name not in self.kept:
            self.left = max(0, self.left - self.size(name))
        self.kept[name] = (rows.view(torch.uint16) if self.halves else rows).numpy()

    def _keep(self, name: str, wanted: int) -> bool:
        """Reads the video whole and keeps it, where it fits and is not much longer than what is wanted of it."""
        if self.size(name) > self.left or (self.store.lengths[name] > _WHOLE * wanted and self.store.reads_rows(name)):
            return False
        array = self.store[name]
        self.kept[name] = to_bfloat16(array) if self.halves else np.ascontiguousarray(array)
        self.left -= self.size(name)
        return True
