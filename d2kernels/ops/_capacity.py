"""Results of a fixed size, for ops that find a number of rows that depends on values. Does not import torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


def check_capacity(op: str, needed: int, capacity: int) -> None:
    if needed > capacity:
        raise ValueError(f"{op}: capacity = {capacity} is too small; {needed} is needed")


def padded(op: str, column: Tensor, capacity: int | None, value: float) -> Tensor:
    """The column with `capacity` entries along its last axis; unchanged where that is None."""
    import torch.nn.functional as F

    if capacity is None:
        return column
    check_capacity(op, column.shape[-1], capacity)
    return F.pad(column, (0, capacity - column.shape[-1]), value=value)


def padded_array(op: str, column: np.ndarray, capacity: int, value: float) -> np.ndarray:
    check_capacity(op, column.shape[-1], capacity)
    extra = [(0, 0)] * (column.ndim - 1) + [(0, capacity - column.shape[-1])]
    return np.pad(column, extra, constant_values=np.asarray(value, column.dtype))


def check_count(op: str, count: Tensor, capacity: int) -> None:
    """Waits for a count on a GPU and raises, where D2K_CHECK=1 asks for it."""
    from d2kernels.ragged import _values_can_be_checked

    if _values_can_be_checked(count):
        check_capacity(op, int(count), capacity)
