"""Schemas and fake kernels of nms and soft_nms; groups None: all of one group."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from d2kernels.ops._library import define


def _size(capacity: Any) -> Any:
    return torch.library.get_ctx().new_dynamic_size() if capacity is None else capacity


def _fake(segments: Tensor, *given: Any) -> tuple[Tensor, Tensor]:
    kept = segments.new_empty(_size(given[-1]), dtype=torch.int64)
    return kept, kept.new_empty(())


def _fake_soft(segments: Tensor, scores: Tensor, *given: Any) -> tuple[Tensor, Tensor, Tensor]:
    kept, count = _fake(segments, *given)
    return kept, scores.new_empty(kept.shape), count


nms = define(
    "nms",
    "nms",
    "(Tensor segments, Tensor scores, Tensor? groups, float iou_threshold, bool inclusive, SymInt? capacity)"
    " -> (Tensor kept, Tensor count)",
    _fake,
)
soft_nms = define(
    "nms",
    "soft_nms",
    "(Tensor segments, Tensor scores, Tensor? groups, float sigma, float score_threshold, SymInt? capacity)"
    " -> (Tensor kept, Tensor scores, Tensor count)",
    _fake_soft,
)
