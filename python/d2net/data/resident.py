"""Features that stay in memory, of which a batch is one gather."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from d2kernels.ops.gather_rows import gather_rows
from d2net.data.cache import CachedFeatures
from d2net.data.dataset import Batch, offsets_of

if TYPE_CHECKING:
    from d2net.data.dataset import TrainingBatches
    from d2net.sections import TrainConfig

FREE_SHARE = 0.5  # of a device's free memory, which features may take of themselves


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


def bytes_of(features: CachedFeatures, names: list[str]) -> int:
    """What these videos take in one tensor."""
    return sum(features.store.lengths[v] for v in names) * features.store.width * precision_of(features, names).itemsize


def precision_of(features: CachedFeatures, names: list[str]) -> torch.dtype:
    """The precision that all of them are stored in, else float32, which holds every one."""
    if features.halves:
        return torch.bfloat16
    half = all(features.store.dtype(v) == np.float16 for v in names)
    return torch.float16 if half else torch.float32


def why_not(features: CachedFeatures, names: list[str], config: TrainConfig, device: torch.device) -> str | None:
    """Why these videos do not stay in the device's memory, or None: on the CPU they have `train.cache_gigabytes`, on a
    GPU half of what is free."""
    if config.resident == "off":
        return "train.resident is off"
    needed = bytes_of(features, names)
    if device.type == "cpu":
        room, bound = int(config.cache_gigabytes * 2**30), "train.cache_gigabytes allows"
    else:
        room, bound = int(torch.cuda.mem_get_info(device)[0] * FREE_SHARE), f"half of {device}'s free memory is"
    if needed <= room:
        return None
    return f"features take {needed / 2**30:.3g} GiB in memory and {bound} {room / 2**30:.3g}"


class Resident:
    """The rows of all `names` in one tensor on the device, as they are stored.

    On the CPU the cache's arrays become views of it: nothing is held twice.

    Args:
        read: what gives the names, in their order, as a progress bar does.
        rows: memory to read into, (snippets, width) of `precision_of` the features; filled: another process has.

    Raises:
        FeatureError: a video cannot be read.
    """

    def __init__(
        self,
        features: CachedFeatures,
        names: list[str],
        device: torch.device,
        read: Iterator[str] | None = None,
        rows: Tensor | None = None,
        filled: bool = False,
    ):
        self.names, self.device = list(names), device
        lengths = [features.store.lengths[v] for v in names]
        self.lengths = np.array(lengths, np.int64)
        self.first = np.append(0, self.lengths.cumsum())[:-1]
        total = sum(lengths)
        if rows is None:
            rows = torch.empty(total, features.store.width, dtype=precision_of(features, names), device=device)
        self.rows = rows
        for i, name in enumerate(names if read is None else read):
            own = self.rows[self.first[i] : self.first[i] + self.lengths[i]]
            if not filled:
                array = features[name]
                own.copy_(torch.from_numpy(array if array.flags.writeable else array.copy()))
            if device.type == "cpu":
                features.hold(name, own)

    def of(self, names: list[str], device: torch.device) -> bool:
        """Whether it has just these videos, there."""
        return self.names == list(names) and self.device == device

    def drawing(self, batches: TrainingBatches) -> Drawing:
        """What is drawn of each iteration's batch, or of the rank's share of it."""
        return Drawing(batches, self.first)

    def batch(self, drawn: Drawn, dtype: torch.dtype = torch.float32, out: Tensor | None = None) -> Batch:
        """The batch in `dtype`, from its indices on the host; out: (rows, d) of it, where its features are to lie."""
        batch = drawn.batch.to(self.rows.device)
        if out is None:
            out = self.rows.new_empty(drawn.rows, self.rows.shape[1], dtype=dtype)
        first = drawn.first.to(self.rows.device, non_blocking=True)
        gather_rows(self.rows, first, batch.offsets, batch.lengths, out)
        return batch._replace(features=out)
