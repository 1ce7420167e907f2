"""Schemas and fake kernels of nms and soft_nms."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from d2kernels.ops._library import define


def _size(capacity: Any) -> Any:
    return torch.library.get_ctx().new_dynamic_size() if capacity is None else capacity


def _fake(segments: Tensor, scores: Tensor, groups: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    return groups.new_empty(_size(options[-1])), groups.new_empty(())


def _fake_soft(segments: Tensor, scores: Tensor, groups: Tensor, *options: Any) -> tuple[Tensor, Tensor, Tensor]:
    kept = _size(options[-1])
    return groups.new_empty(kept), scores.new_empty(kept), groups.new_empty(())


nms = define(
    "nms",
    "nms",
    "(Tensor segments, Tensor scores, Tensor groups, float iou_threshold, bool inclusive, SymInt? capacity)"
    " -> (Tensor kept, Tensor count)",
    _fake,
)
soft_nms = define(
    "nms",
    "soft_nms",
    "(Tensor segments, Tensor scores, Tensor groups, float sigma, float score_threshold, SymInt? capacity)"
    " -> (Tensor kept, Tensor scores, Tensor count)",
    _fake_soft,
)
