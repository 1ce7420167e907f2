"""Features that several processes of this machine read from one memory."""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, NamedTuple

import numpy as np

from d2net.data.cache import CachedFeatures
from d2net.data.features import FeatureStore
from d2net.terminal import Bar

_ALIGNED = 64  # bytes that arrays begin at multiples of


class Place(NamedTuple):
    """Where an array is in the memory: its first byte, shape and type."""

    start: int
    shape: tuple[int, int]
    dtype: str


class Shared(NamedTuple):
    """What a process needs to see the features: the memory's descriptor, which it must have inherited, and places.

    gigabytes: what is left to each process for videos that are not in it.
    """

    descriptor: int
    places: dict[str, Place]
    gigabytes: float


@contextmanager
def shared(
    cache: CachedFeatures, names: Sequence[str], longest: int | None, processes: int, show: bool = False
) -> Iterator[Shared | None]:
    """Reads the videos that the cache has room for into memory that processes can share, and keeps them there.

    It is counted once, however many read it, and is gone with the last process that sees it. None where no video fits.

    Args:
        longest: rows of a video that are wanted at a time, None for all.
        processes: that divide what is left of the cache's room.
        show: a progress bar.
    """
    places, total = {}, 0
    for name in names:
        rows = cache.store.lengths[name]
        if name not in cache.kept and cache.keeps(name, min(rows, longest or rows)):
            dtype = np.dtype(np.uint16) if cache.halves else cache.store.dtype(name)
            places[name] = Place(total, (rows, cache.store.width), dtype.str)
            total += -(-cache.size(name) // _ALIGNED) * _ALIGNED
            cache.left -= cache.size(name)
    if not places:
        yield None
        return
    with _memory(total) as file:
        memory = mmap.mmap(file.fileno(), total)
        for name in Bar("features", len(places), unit="video", show=show).over(places):
            cache.kept[name] = _array(memory, places[name])
            cache.kept[name][...] = cache.read(name)
        yield Shared(file.fileno(), places, cache.left / processes / 2**30)


def attached(store: FeatureStore, of: Shared, gigabytes: float) -> CachedFeatures:
    """A cache that holds the shared videos; gigabytes: its bound, as in a process that shares nothing."""
    cache = CachedFeatures(store, gigabytes)
    cache.left = int(of.gigabytes * 2**30)
    memory = mmap.mmap(of.descriptor, 0, access=mmap.ACCESS_COPY)  # what is written, though nothing is, stays here
    cache.kept = {name: _array(memory, place) for name, place in of.places.items()}
    return cache


def _array(memory: mmap.mmap, place: Place) -> np.ndarray:
    rows, width = place.shape
    return np.frombuffer(memory, np.dtype(place.dtype), rows * width, place.start).reshape(rows, width)


def _memory(size: int) -> IO[bytes]:
    """A file without a name, in memory where the system has such."""
    made = hasattr(os, "memfd_create")
    file: IO[bytes] = os.fdopen(os.memfd_create("d2net"), "w+b") if made else tempfile.TemporaryFile()  # noqa: SIM115
    file.truncate(size)
    return file
