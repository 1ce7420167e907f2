"""NumPy's .npy: headers, and rows of an array without the others."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import IO, NamedTuple

import numpy as np
from numpy.lib import format as npy


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
