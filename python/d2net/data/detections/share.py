"""Which detections a process has, where several share those of one file."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Part(NamedTuple):
    """One process of `size`, which has every size-th video of a file from its own number on."""

    rank: int
    size: int

    def has(self, video: int) -> bool:
        return video % self.size == self.rank

    def of(self, videos: np.ndarray) -> np.ndarray:
        """Bool of an array of videos."""
        return videos % self.size == self.rank


class Share(NamedTuple):
    """rows: (m,) int64, the places of a process's detections among the file's `total`; part: whose."""

    rows: np.ndarray
    total: int
    part: Part
