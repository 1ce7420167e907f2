"""Features in memory: as many arrays as fit, or all rows in one tensor on the training's device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from d2net.data.features.tensors import from_bfloat16, to_bfloat16

if TYPE_CHECKING:
    from d2net.data.features import FeatureStore
    from d2net.sections import TrainConfig

FREE_SHARE = 0.5  # of a device's free memory, which features may take of themselves
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

    def hold(self, name: str, rows: Tensor) -> None:
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


def bytes_of(features: CachedFeatures, names: list[str]) -> int:
    """What these videos take in one tensor."""
    return sum(features.store.lengths[v] for v in names) * features.store.width * precision_of(features, names).itemsize


def precision_of(features: CachedFeatures, names: list[str]) -> torch.dtype:
    """The precision that all of them are stored in, else float32, which holds every one."""
    if features.halves:
        return torch.bfloat16
    half = all(features.store.dtype(v) == np.float16 for v in names)
    return torch.float16 if half else torch.float32


def why_not_resident(
    features: CachedFeatures, names: list[str], config: TrainConfig, device: torch.device
) -> str | None:
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
