"""Batches of features that stay in memory: drawn as indices, and gathered by one operation."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from d2kernels.ops.gather_rows import gather_rows
from d2net.data.batch import Batch, offsets_of
from d2net.data.cache import Resident
from d2net.data.dataset import TrainingBatches


class Drawn(NamedTuple):
    """A batch whose features are still to be gathered: sequence i is rows first[i] and on of what stays in memory.

    batch: without features, (0, d); rows: that they will have, zero rows included.
    """

    first: Tensor
    rows: int
    batch: Batch

    @property
    def snippets(self) -> Tensor:
        """As of `Batch`."""
        return self.batch.snippets


class Drawing(Dataset):
    """Item i is iteration i's batch as `Drawn`; first: the row at which each video begins."""

    def __init__(self, batches: TrainingBatches, first: np.ndarray):
        self.batches, self.first = batches, first

    def __getitem__(self, iteration: int) -> Drawn:
        batches = self.batches
        videos, crops, counts, whole = batches.chosen(iteration)
        start, end = np.array(crops, np.int64).reshape(-1, 2).T
        offsets = offsets_of(end - start, batches.gap)
        parts = self.first[videos] + start, offsets, end - start, batches.labels[videos].astype(bool)
        first, *known = map(torch.from_numpy, parts)
        none = torch.empty(0, batches.features.store.width)
        rows = batches.rows((end - start).tolist())
        return Drawn(first, rows, Batch(none, *known, gap=batches.gap, whole=whole, counts=counts))


def gathered(resident: Resident, drawn: Drawn, dtype: torch.dtype = torch.float32, out: Tensor | None = None) -> Batch:
    """The batch in `dtype`, from its indices on the host; out: (rows, d) of it, where its features are to lie."""
    rows = resident.rows
    batch = drawn.batch.to(rows.device)
    if out is None:
        out = rows.new_empty(drawn.rows, rows.shape[1], dtype=dtype)
    first = drawn.first.to(rows.device, non_blocking=True)
    gather_rows(rows, first, batch.offsets, batch.lengths, out)
    return batch._replace(features=out)
