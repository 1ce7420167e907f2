"""Maximal runs of scores above thresholds: 1-D connected components. Does not import torch for NumPy arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from d2kernels._arguments import flag, whole
from d2kernels._dlpack import takes_dlpack
from d2kernels.ops._capacity import padded_array
from d2kernels.ops.connected_components.checks import check_order, check_shapes

if TYPE_CHECKING:
    from torch import Tensor

    from d2kernels.ragged import Ragged


class Segments(NamedTuple):
    """Runs, ordered by sequence, label, threshold and start; each column (m,) int64."""

    sequence: Any
    label: Any
    threshold: Any  # index into the thresholds
    start: Any  # rows from the sequence's first, half-open
    end: Any


def _of_arrays(
    scores: np.ndarray,
    thresholds: Any,
    offsets: Any,
    lengths: Any,
    mask: Any,
    class_mask: Any,
    min_length: int,
    distinct: bool,
    capacity: int | None,
) -> Any:
    from d2kernels._arrays import backend_for_arrays, levels, take_array

    form = take_array("connected_components", scores, offsets, lengths, mask)
    values = form.values[:, None] if form.values.ndim == 1 else form.values
    if values.ndim != 2 or values.dtype.kind != "f":
        raise ValueError(
            "connected_components: scores must be float rows (total, C) or (total,), "
            f"got {form.values.dtype} {form.values.shape}"
        )
    dtype = np.float64 if values.dtype.itemsize >= 8 else np.float32
    thresholds = np.ascontiguousarray(levels("connected_components", thresholds), dtype=dtype)
    if class_mask is not None:
        class_mask = np.asarray(class_mask)
        if class_mask.dtype != bool:
            raise TypeError(f"connected_components: class_mask must be bool, got {class_mask.dtype}")
        class_mask = np.ascontiguousarray(class_mask)
    check_shapes(values, len(form.lengths), thresholds, class_mask)
    check_order("connected_components", thresholds)
    backend = backend_for_arrays("connected_components")
    found = backend.connected_components_arrays(
        values.astype(dtype, copy=False), form.offsets, form.lengths, thresholds, class_mask, min_length, distinct
    )
    if capacity is None:
        return found, None
    return padded_array("connected_components", found, capacity, -1), np.array(found.shape[1])


@takes_dlpack
def connected_components(
    scores: Tensor | Ragged | np.ndarray,
    thresholds: Sequence[float] | Tensor | np.ndarray,
    *,
    offsets: Tensor | np.ndarray | None = None,
    lengths: Tensor | np.ndarray | None = None,
    mask: Tensor | np.ndarray | None = None,
    class_mask: Tensor | np.ndarray | None = None,
    min_length: int = 1,
    distinct: bool = True,
    capacity: int | None = None,
) -> Any:
    """Maximal runs of scores strictly above each threshold, per sequence and class (proposals, Sec. 3.3).

    A run that is above several thresholds is given once, at the lowest, with `distinct`: [a, b) at threshold i > 0 only
    if max(score[a - 1], score[b]) > threshold i - 1 (outside the sequence: -inf). There are then at most s per
    sequence and class, whatever the number of thresholds. NaN is above nothing.

    Args:
        scores: (total, C) rows as Ragged or packed, or dense (n, s, C); one class may drop its axis. Float. NumPy
            arrays give NumPy arrays, through the native backend and without importing torch.
        thresholds: (T,) rising strictly, or (n, C, T), not falling, for thresholds of each class's own. Rounded to
            float64 for float64 scores, else to float32, in which scores of 16 bits are compared exactly.
        offsets, lengths, mask: see `Ragged`; dense scores take exactly one of lengths and mask.
        class_mask: (n, C) bool, the classes to look at; all where None.
        min_length: leaves out shorter runs, in rows.
        distinct: False gives every run at every threshold.
        capacity: fixed size m, -1 beyond the runs. On a GPU nothing is waited for then: `count` tells all that were
            found, the first of which there is room for are given, and `D2K_CHECK=1` waits and raises.

    Returns:
        Segments(sequence, label, threshold, start, end): (m,) int64 each, in this order of sorting; [start, end) in
        rows from the sequence's first. On a GPU their number costs one synchronisation. With `capacity`,
        (Segments, count ()).

    Raises:
        ValueError, TypeError: an argument of the wrong shape, dtype or value; a capacity that is too small, naming the
            one that is needed.
        BackendUnavailable: NumPy arrays where there is no compiled extension.
    """
    min_length = whole("connected_components", "min_length", min_length)
    distinct = flag("connected_components", "distinct", distinct)
    if capacity is not None:
        capacity = whole("connected_components", "capacity", capacity, 0)
    if isinstance(scores, np.ndarray):
        of: Any = _of_arrays
    else:
        from d2kernels.ops.connected_components.tensors import of_tensors as of
    columns, count = of(scores, thresholds, offsets, lengths, mask, class_mask, min_length, distinct, capacity)
    segments = Segments(*columns)
    return segments if capacity is None else (segments, count)
