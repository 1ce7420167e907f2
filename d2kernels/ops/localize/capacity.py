"""Results of a fixed size."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

NOT_A_NUMBER = "localize: a proposal's score is NaN; activations or class_score hold what has no finite sum"
PADDING = (-1, -1, 0, 0, 0)  # of the five columns, beyond the detections


def check_capacity(needed: int, capacity: int) -> None:
    if needed > capacity:
        raise ValueError(f"localize: capacity = {capacity} is too small; {needed} is needed")


def padded(found: tuple[Tensor, ...], capacity: int | None) -> tuple[Tensor, ...]:
    """The columns with `capacity` rows each, and the counts; unchanged where that is None."""
    import torch.nn.functional as F

    if capacity is None:
        return found
    *columns, count = found
    check_capacity(len(columns[0]), capacity)
    extra = (0, capacity - len(columns[0]))
    return (*(F.pad(c, extra, value=v) for c, v in zip(columns, PADDING, strict=True)), count)
