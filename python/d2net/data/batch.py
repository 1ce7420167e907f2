"""A batch of videos, packed without padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

import d2kernels as d2k


class Whole(NamedTuple):
    """What is known of a batch where only a rank's share of its videos was read.

    offsets (n + 1,), lengths (n,) and labels (n, C) of all its videos, which of its rows the first one of the share is
    (1,), and how many videos each rank has.
    """

    offsets: Tensor
    lengths: Tensor
    labels: Tensor
    first_row: Tensor
    counts: list[int]

    def to(self, device: torch.device) -> Whole:
        moved = (t.to(device, non_blocking=True) for t in self[:4])
        return Whole(*moved, self.counts)


class Batch(NamedTuple):
    """features (total, d), offsets (n + 1,), lengths (n,) and video-level labels (n, C) bool.

    Features are float32, or bfloat16 where a step's layers would cast them so.
    There are `gap` zero rows before, between and after the videos. A rank's share of a batch knows of the whole.
    counts (n, C) float32 say how often each class occurs, NaN where that is not known, of methods that ask for them.
    """

    features: Tensor
    offsets: Tensor
    lengths: Tensor
    labels: Tensor
    gap: int = 0
    whole: Whole | None = None
    counts: Tensor | None = None

    @property
    def snippets(self) -> Tensor:
        """(n,) of all videos, those of other ranks included."""
        return self.lengths if self.whole is None else self.whole.lengths

    def ragged(self) -> d2k.Ragged:
        # `pack` has laid the rows out: a step does not look at them again.
        return d2k.Ragged._trusted(self.features, self.offsets, self.lengths, gap=self.gap)

    def to(self, device: torch.device) -> Batch:
        moved = (t.to(device, non_blocking=True) for t in self[:4])
        counts = None if self.counts is None else self.counts.to(device, non_blocking=True)
        return Batch(*moved, gap=self.gap, whole=self.whole and self.whole.to(device), counts=counts)


def pack(arrays: Sequence[np.ndarray], labels: np.ndarray, gap: int = 0, rows: int | None = None) -> Batch:
    """arrays: (s_i, d) each; labels: (n, C); rows: of the batch, zero rows behind the last ones included."""
    lengths = np.array([len(a) for a in arrays])
    offsets = offsets_of(lengths, gap)
    values = np.zeros((int(offsets[-1]) if rows is None else rows, *arrays[0].shape[1:]), np.float32)
    for a, start in zip(arrays, offsets[:-1].tolist(), strict=True):
        values[start : start + len(a)] = a
    parts = (values, offsets, lengths, labels.astype(bool))
    return Batch(*map(torch.from_numpy, parts), gap=gap)


def offsets_of(lengths: np.ndarray, gap: int) -> np.ndarray:
    """(n + 1,) where sequences begin that have `gap` rows before, between and after them."""
    return np.append(0, (lengths + gap).cumsum()) + gap
