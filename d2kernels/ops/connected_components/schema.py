"""Schema and fake kernel of connected_components."""

from __future__ import annotations

import torch
from torch import Tensor

from d2kernels.ops._library import define


def _fake(scores: Tensor, offsets: Tensor, *_: object) -> Tensor:
    return offsets.new_empty((5, torch.library.get_ctx().new_dynamic_size()))


connected_components = define(
    "connected_components",
    "connected_components",
    "(Tensor scores, Tensor offsets, Tensor lengths, Tensor thresholds, Tensor? class_mask,"
    " int min_length, bool distinct) -> Tensor",
    _fake,
)
