"""Schemas and fake kernels of nms and soft_nms."""

from __future__ import annotations

import torch
from torch import Tensor

from d2kernels.ops._library import define


def _size() -> torch.SymInt:
    return torch.library.get_ctx().new_dynamic_size()


def _fake_soft(segments: Tensor, scores: Tensor, groups: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    kept = _size()
    return groups.new_empty(kept), scores.new_empty(kept)


nms = define(
    "nms",
    "nms",
    "(Tensor segments, Tensor scores, Tensor groups, float iou_threshold, bool inclusive) -> Tensor",
    lambda segments, scores, groups, *_: groups.new_empty(_size()),
)
soft_nms = define(
    "nms",
    "soft_nms",
    "(Tensor segments, Tensor scores, Tensor groups, float sigma, float score_threshold) -> (Tensor, Tensor)",
    _fake_soft,
)
