"""Ragged batches in NumPy arrays: what ragged.py does for tensors, without importing torch."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import NamedTuple

import numpy as np

from d2kernels import backends


class ArrayForm(NamedTuple):
    """An op's row input in packed form: values (total, ...), offsets (n + 1,) and lengths (n,) contiguous int64."""

    values: np.ndarray
    offsets: np.ndarray
    lengths: np.ndarray


def _index_vector(op: str, name: str, value: object) -> np.ndarray:
    array = np.asarray(value)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise TypeError(f"{op}: {name} must be a 1-D integer array, got {array.dtype} with shape {array.shape}")
    return np.ascontiguousarray(array, dtype=np.int64)


def take_array(
    op: str, x: np.ndarray, offsets: object = None, lengths: object = None, mask: np.ndarray | None = None
) -> ArrayForm:
    """Reads packed rows + offsets (+ lengths), or a dense batch + exactly one of lengths and mask.

    Raises:
        ValueError, TypeError: naming `op` and the argument that does not fit.
    """
    if offsets is not None:
        if mask is not None:
            raise ValueError(f"{op}: give offsets (packed rows) or mask (dense), not both")
        starts = _index_vector(op, "offsets", offsets)
        if not len(starts):
            raise ValueError(f"{op}: offsets must hold n + 1 entries, got none; an empty batch has offsets [0]")
        sizes = np.diff(starts) if lengths is None else _index_vector(op, "lengths", lengths)
        if len(sizes) != len(starts) - 1:
            raise ValueError(
                f"{op}: {len(starts)} offsets make {len(starts) - 1} sequences, but lengths has {len(sizes)} entries"
            )
        values = x
    else:
        if (lengths is None) == (mask is None):
            raise ValueError(
                f"{op}: a plain array needs offsets (packed rows), or exactly one of lengths and mask "
                f"(dense (n, s, ...)); got {'both' if mask is not None else 'none'}"
            )
        if x.ndim < 2:
            raise ValueError(f"{op}: a dense batch has at least 2 dimensions (n, s, ...), got {x.shape}")
        n, s = x.shape[:2]
        if mask is not None:
            mask = np.asarray(mask)
            if mask.dtype != bool or mask.shape != (n, s):
                raise ValueError(f"{op}: mask must be bool with shape {(n, s)}, got {mask.dtype} {mask.shape}")
            if (mask[:, 1:] & ~mask[:, :-1]).any():
                raise ValueError(f"{op}: mask must be True on each sequence's first rows only; found a gap in it")
            sizes = mask.sum(1, dtype=np.int64)
        else:
            sizes = _index_vector(op, "lengths", lengths)
        if len(sizes) != n:
            raise ValueError(f"{op}: {n} dense sequences need {n} lengths, got {len(sizes)}")
        starts = np.arange(n + 1, dtype=np.int64) * s
        values = x.reshape(n * s, *x.shape[2:])
    if starts[0] < 0 or starts[-1] > len(values) or (starts[1:] < starts[:-1]).any():
        raise ValueError(
            f"{op}: offsets must rise from at least 0 to at most the {len(values)} rows of the values, "
            f"got {starts.tolist() if len(starts) <= 16 else f'{len(starts)} of them, {starts[0]}..{starts[-1]}'}"
        )
    room = np.diff(starts)
    if ((sizes < 0) | (sizes > room)).any():
        i = int(np.argmax((sizes < 0) | (sizes > room)))
        raise ValueError(
            f"{op}: lengths[{i}] = {sizes[i]} does not fit the {room[i]} rows "
            f"between offsets[{i}] and offsets[{i + 1}]"
        )
    return ArrayForm(values, starts, sizes)


def levels(op: str, thresholds: object) -> np.ndarray:
    """Thresholds as an array of numbers.

    Raises:
        TypeError: strings, bools, complex numbers, or what makes no array.
    """
    try:
        array = np.asarray(thresholds)
    except ValueError as error:
        raise TypeError(f"{op}: thresholds must be numbers, got {thresholds!r} ({error})") from None
    if array.dtype.kind not in "fiu" and array.size:
        raise TypeError(f"{op}: thresholds must be numbers, got {array.dtype}")
    return array


def backend_for_arrays(op: str) -> ModuleType:
    """The module whose functions take the op's NumPy arrays: the native one, or the reference, which goes by torch.

    Raises:
        BackendUnavailable: another backend was asked for by name, or there are neither compiled parts nor torch.
    """
    asked = backends.asked_for(op)
    if asked not in (None, "native", "reference"):
        raise backends.BackendUnavailable(f"{op}: the {asked} backend takes torch tensors; use torch.from_numpy first")
    if asked == "native" or (asked is None and backends.can_run(op, "native")):
        backends.can_run(op, "native", raise_error=True)
        return backends.module(op, "native")
    try:
        return importlib.import_module("d2kernels.ops._reference_arrays")
    except ImportError as error:
        reason = f"{op}: there are no compiled parts, and the reference backend needs torch ({error}); install torch"
        raise backends.BackendUnavailable(reason) from None


def strided(x: np.ndarray) -> tuple[np.ndarray, tuple[int, ...]]:
    """The array, copied where its strides are no whole elements, and its strides in elements."""
    if any(stride % x.itemsize for stride in x.strides):
        x = np.ascontiguousarray(x)
    return x, tuple(stride // x.itemsize for stride in x.strides)
