"""Results of a fixed size."""

from __future__ import annotations

from typing import TYPE_CHECKING

from d2kernels.ops import _capacity

if TYPE_CHECKING:
    from torch import Tensor

NOT_A_NUMBER = "localize: a proposal's score is NaN; activations or class_score hold what has no finite sum"
PADDING = (-1, -1, 0, 0, 0)  # of the five columns, beyond the detections


def padded(found: tuple[Tensor, ...], capacity: int | None) -> tuple[Tensor, ...]:
    """The columns with `capacity` rows each, and the counts; unchanged where that is None."""
    if capacity is None:
        return found
    *columns, count = found
    return (*(_capacity.padded("localize", c, capacity, v) for c, v in zip(columns, PADDING, strict=True)), count)
