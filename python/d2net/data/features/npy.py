"""NumPy's .npy: headers, and rows of an array without the others."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from stat import S_ISREG
from typing import IO, NamedTuple

import numpy as np
from numpy.lib import format as npy

from d2net.data.features.headers import Shape

# A pipe is not waited for; elsewhere than on POSIX there are none, and files are text unless said.
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_VERSION_1 = b"\x93NUMPY\x01"
_HEAD = 192  # bytes; NumPy's headers of two axes take 128
_MOST_KNOWN = 1 << 14


class Header(NamedTuple):
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype


def _read(file: IO[bytes]) -> Header:
    read: Callable = npy.read_array_header_1_0 if npy.read_magic(file)[0] == 1 else npy.read_array_header_2_0
    return Header(*read(file))


def header(file: IO[bytes], size: int) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype of a .npy of `size` bytes, without reading its data.

    Raises:
        ValueError: not a .npy, or one whose data are not of the size that it states.
    """
    shape, _, dtype = _read(file)
    # An object array's size says nothing; the store refuses it by name.
    if dtype.kind != "O" and file.tell() + math.prod(shape) * dtype.itemsize != size:
        raise ValueError(f"it states {dtype} {shape}, which its {size} bytes are not")
    return shape, dtype


class HeaderReader:
    """Headers of many .npy files, four system calls each; those of the same bytes are parsed once."""

    def __init__(self) -> None:
        self.known: dict[bytes, tuple[int, Shape]] = {}

    def read(self, path: str) -> Shape | None:
        """As `header`; None of what is no regular file, or no .npy as NumPy writes it, for others to say what it is."""
        with suppress(Exception):
            return self._read(path)
        return None

    def _read(self, path: str) -> Shape | None:
        place = os.open(path, _FLAGS)
        try:
            stat = os.fstat(place)
            head = os.read(place, _HEAD)
        finally:
            os.close(place)
        end = 10 + int.from_bytes(head[8:10], "little")
        if not S_ISREG(stat.st_mode) or not head.startswith(_VERSION_1) or end > len(head):
            return None
        head = head[:end]
        if (found := self.known.get(head)) is None:
            shape, _, dtype = _read(io.BytesIO(head))
            if dtype.kind == "O":
                return None
            if len(self.known) >= _MOST_KNOWN:
                self.known.clear()
            found = self.known[head] = end + math.prod(shape) * dtype.itemsize, (shape, dtype)
        return found[1] if found[0] == stat.st_size else None


def npy_rows(file: IO[bytes], shape: Sequence[int], first: int, end: int) -> np.ndarray | None:
    """Rows first..end - 1 of the .npy that begins where the file stands, an array of `shape` or (1, *shape).

    None where it is laid out by columns, or is of another shape now.
    """
    found = _read(file)
    shape = tuple(shape)
    if found.fortran or found.dtype.hasobject or found.shape not in (shape, (1, *shape)):
        return None
    return rows_at(file, file.tell(), found.dtype, shape, first, end)


def rows_at(file: IO[bytes], begin: int, dtype: np.dtype, shape: Sequence[int], first: int, end: int) -> np.ndarray:
    """Rows first..end - 1 of a C-ordered array of `shape` whose data begin at byte `begin`.

    Read, not mapped: a file that shrinks meanwhile is an error and no crash.

    Raises:
        ValueError: the file ends before them.
    """
    rows = np.empty((end - first, *shape[1:]), dtype)
    file.seek(begin + first * math.prod(shape[1:]) * dtype.itemsize)
    got = file.readinto(rows.reshape(-1).view(np.uint8).data) if rows.nbytes else 0  # type: ignore[attr-defined]
    if got != rows.nbytes:
        raise ValueError(f"it ends in row {first + got // max(1, rows[:1].nbytes)} of {shape[0]}")
    return rows
