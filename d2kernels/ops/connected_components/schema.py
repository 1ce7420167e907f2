"""Schema and fake kernel of connected_components."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from d2kernels.ops._library import define


def _fake(scores: Tensor, offsets: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    found = torch.library.get_ctx().new_dynamic_size() if options[-1] is None else options[-1]
    return offsets.new_empty((5, found)), offsets.new_empty(())


connected_components = define(
    "connected_components",
    "connected_components",
    "(Tensor scores, Tensor offsets, Tensor lengths, Tensor thresholds, Tensor? class_mask,"
    " int min_length, bool distinct, SymInt? capacity) -> (Tensor found, Tensor count)",
    _fake,
)
