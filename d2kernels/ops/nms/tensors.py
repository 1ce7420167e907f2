"""nms and soft_nms of tensors, as far as it is not a backend's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from d2kernels.ops._library import constant, is_integer
from d2kernels.ops.nms.checks import ENDS, check_shapes, check_values
from d2kernels.ops.nms.reference import times
from d2kernels.ops.nms.schema import nms, soft_nms
from d2kernels.ragged import _values_can_be_checked

__all__ = ["checked", "nms", "soft_nms", "with_ends_after"]

# What torch compares; other floats and integers become float64 and int64 first.
_ORDERED = (
    *(torch.float64, torch.float32, torch.bfloat16, torch.float16),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8),
)


def checked(op: str, segments: Any, scores: Tensor, groups: Tensor | None) -> tuple[Any, ...]:
    for name, x in (("scores", scores), ("groups", groups)):
        if not isinstance(x, torch.Tensor) and not (x is None and name == "groups"):
            raise TypeError(f"{op}: {name} must be a tensor as segments, got {type(x).__name__}")
    if not isinstance(segments, torch.Tensor) or segments.dim() != 2 or segments.shape[1] != 2:
        got = tuple(segments.shape) if isinstance(segments, torch.Tensor) else type(segments).__name__
        raise ValueError(f"{op}: segments must be (m, 2) starts and ends, got {got}")
    if not (is_integer(segments) or segments.is_floating_point()):
        raise ValueError(f"{op}: segments must be integers that int64 holds, or floats, got {segments.dtype}")
    check_shapes(op, segments, scores, groups, scores.is_floating_point(), groups is None or is_integer(groups))
    if _values_can_be_checked(segments, scores) and len(scores):
        check_values(op, segments if segments.dtype in _ORDERED else times(segments), scores)
    return constant(segments, scores, None if groups is None else groups.long())


def with_ends_after(op: str, segments: Tensor) -> Tensor:
    segments = times(segments)
    ends = segments[:, 1] + 1
    if _values_can_be_checked(segments) and bool((ends < segments[:, 1]).any()):
        raise ValueError(f"{op}: {ENDS}")
    return torch.stack([segments[:, 0], ends], 1)
