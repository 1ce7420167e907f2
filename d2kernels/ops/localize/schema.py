"""Schema and fake kernel of localize."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from d2kernels.ops._library import define


def _fake(values: Tensor, offsets: Tensor, lengths: Tensor, *options: Any) -> tuple[Tensor, ...]:
    capacity = options[-1]
    found = torch.library.get_ctx().new_dynamic_size() if capacity is None else capacity
    double = values.new_empty(found, dtype=torch.float64)
    index = lengths.new_empty(found)
    return (
        index,
        torch.empty_like(index),
        double,
        torch.empty_like(double),
        torch.empty_like(double),
        lengths.new_empty(lengths.shape),
    )


localize = define(
    "localize",
    "localize",
    "(Tensor activations, Tensor offsets, Tensor lengths, Tensor thresholds, Tensor? class_mask, float margin,"
    " bool pooled, float? min_score, int min_length, float iou_threshold, bool inclusive, float? sigma,"
    " float? keep_ratio, bool keep_per_class, int upsample, int smoothing, str? relative, Tensor? class_score,"
    " SymInt? capacity)"
    " -> (Tensor sequence, Tensor label, Tensor start, Tensor end, Tensor score, Tensor count)",
    _fake,
)
