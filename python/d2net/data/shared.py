"""Features that several processes of this machine read from one memory."""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, NamedTuple

import torch
from torch import Tensor

from d2net.data.cache import CachedFeatures, Resident, bytes_of, precision_of
from d2net.data.features import FeatureStore
from d2net.sections import TrainConfig
from d2net.terminal import Bar

CPU = torch.device("cpu")


class Shared(NamedTuple):
    """What lets a process see the features: a file's descriptor, which it must have inherited, and whose rows it holds.

    processes: that divide the room of what is not shared; the file is None where nothing is.
    """

    descriptor: int | None
    names: list[str]
    processes: int


@contextmanager
def shared(
    cache: CachedFeatures, names: Sequence[str], config: TrainConfig, processes: int, show: bool = False
) -> Iterator[Shared]:
    """Reads the videos into memory that processes can share, where `train.cache_gigabytes` allows all of them.

    It is counted once, however many read it, and is gone with the last process that sees it. The cache keeps it too.

    Args:
        show: a progress bar.
    """
    names, size = list(names), bytes_of(cache, list(names))
    if size > int(config.cache_gigabytes * 2**30):
        yield Shared(None, [], processes)
        return
    with _memory(size) as file:
        bar = Bar("features", len(names), unit="video", show=show)
        rows = _rows(mmap.mmap(file.fileno(), size), cache, names)
        Resident(cache, names, CPU, bar.over(names), rows)
        yield Shared(file.fileno(), names, processes)


def attached(store: FeatureStore, of: Shared, config: TrainConfig) -> CachedFeatures:
    """A cache that has the shared features, or where there are none a process's part of the room for its own."""
    cache = CachedFeatures(store, config.cache_gigabytes / max(1, config.workers))
    if of.descriptor is None:
        cache.left //= of.processes
        return cache
    # What is written, though nothing is, stays in this process.
    rows = _rows(mmap.mmap(of.descriptor, 0, access=mmap.ACCESS_COPY), cache, of.names)
    resident = Resident(cache, of.names, CPU, rows=rows, filled=True)
    if config.resident != "off":
        cache.resident = resident
    return cache


def _rows(memory: mmap.mmap, cache: CachedFeatures, names: list[str]) -> Tensor:
    return torch.frombuffer(memory, dtype=precision_of(cache, names)).view(-1, cache.store.width)


def _memory(size: int) -> IO[bytes]:
    """A file without a name, in memory where the system has such."""
    made = hasattr(os, "memfd_create")
    file: IO[bytes] = os.fdopen(os.memfd_create("d2net"), "w+b") if made else tempfile.TemporaryFile()  # noqa: SIM115
    file.truncate(size)
    return file
