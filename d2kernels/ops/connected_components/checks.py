"""What connected_components refuses, of tensors and arrays alike. Does not import torch."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from d2kernels._arguments import FEW, listed


def rising(numbers: list[float]) -> bool:
    """Whether each is larger than the one before; of NaN none is."""
    return numbers[0] == numbers[0] and all([a < b for a, b in pairwise(numbers)])


def check_shapes(scores: Any, n: int, thresholds: Any, class_mask: Any) -> None:
    """Shapes, which tensors and arrays share."""
    classes = scores.shape[1]
    own = (n, classes, thresholds.shape[-1]) if thresholds.ndim else ()
    if thresholds.ndim not in (1, 3) or thresholds.shape[-1] == 0 or (thresholds.ndim == 3 and thresholds.shape != own):
        raise ValueError(
            f"connected_components: thresholds must have shape (T,) or (n, C, T) = ({n}, {classes}, T) with T at "
            f"least 1, got {tuple(thresholds.shape)}"
        )
    if class_mask is not None and tuple(class_mask.shape) != (n, classes):
        raise ValueError(
            f"connected_components: class_mask must have shape {(n, classes)}, got {tuple(class_mask.shape)}"
        )


def check_order(op: str, thresholds: Any) -> None:
    """Shared thresholds rise strictly; those of each class must not fall, since rounding can make them equal."""
    if thresholds.ndim == 1 and thresholds.shape[0] <= FEW and rising(listed(thresholds)):
        return
    low, high = thresholds[..., :-1], thresholds[..., 1:]
    if thresholds.ndim == 1 and not bool((low < high).all() & (thresholds == thresholds).all()):
        raise ValueError(
            f"{op}: thresholds must rise strictly in {thresholds.dtype}, got {listed(thresholds)}"
        )
    if thresholds.ndim == 3 and bool((low > high).any()):
        raise ValueError(f"{op}: thresholds must not fall along their last axis, but somewhere they do")
