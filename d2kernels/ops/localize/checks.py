"""What localize refuses, of tensors and arrays alike. Does not import torch."""

from __future__ import annotations

from typing import Any, NamedTuple

MOST_UPSAMPLED = 1024  # positions a snippet
MOST_POSITIONS = 2**31 - 1  # of a batch: what upsampling makes of its rows


class Given(NamedTuple):
    """A call's arguments."""

    form: tuple[Any, Any, Any, Any]  # activations, offsets, lengths, mask
    thresholds: Any
    class_mask: Any
    class_score: Any
    capacity: int | None
    rules: tuple[Any, ...]  # those of the schema, in its order


def check_tables(shape: tuple[int, int], **given: Any) -> None:
    for name, table in given.items():
        if table is not None and tuple(table.shape) != shape:
            raise ValueError(f"localize: {name} must be {shape}, got {tuple(table.shape)}")


def check_thresholds(thresholds: Any) -> None:
    if thresholds.ndim != 1 or len(thresholds) == 0:
        raise ValueError(
            f"localize: thresholds must have shape (T,) with T at least 1, got {tuple(thresholds.shape)}"
        )


def check_positions(rows: int, upsample: int) -> None:
    if rows * upsample > MOST_POSITIONS and upsample > 1:
        raise ValueError(f"localize: {rows} rows upsampled by {upsample} exceed {MOST_POSITIONS} positions")
