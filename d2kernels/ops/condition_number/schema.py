"""Schema and fake kernels of condition_number."""

from __future__ import annotations

import torch
from torch import Tensor

from d2kernels.ops._library import define


def _fake(a: Tensor, b: Tensor | None, atol: float, rtol: float, log: bool) -> tuple[Tensor, Tensor, Tensor]:
    value = a.new_empty(a.shape[0])
    slope_b = a.new_empty(0, dtype=torch.float64) if b is None else torch.empty_like(b, dtype=torch.float64)
    return value, a.new_empty(a.shape, dtype=torch.float64), slope_b.contiguous()


condition_number = define(
    "condition_number",
    "condition_number",
    "(Tensor a, Tensor? b, float atol, float rtol, bool log) -> (Tensor value, Tensor slope_a, Tensor slope_b)",
    _fake,
)
condition_number_backward = define(
    "condition_number",
    "condition_number_backward",
    "(Tensor grad, Tensor slope) -> Tensor",
    lambda grad, slope: slope.new_empty(slope.shape, dtype=grad.dtype),
)
