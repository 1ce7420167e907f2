"""Schema and fake kernels of condition_number; the slopes are empty without `for_backward`."""

from __future__ import annotations

import torch
from torch import Tensor

from d2kernels.ops._library import define


def _fake(
    a: Tensor, b: Tensor | None, atol: float, rtol: float, log: bool, for_backward: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    shapes = [x.shape if x is not None and for_backward else (0,) for x in (a, b)]
    slope_a, slope_b = (a.new_empty(shape, dtype=torch.float64) for shape in shapes)
    return a.new_empty(a.shape[0]), slope_a, slope_b


condition_number = define(
    "condition_number",
    "condition_number",
    "(Tensor a, Tensor? b, float atol, float rtol, bool log, bool for_backward=True)"
    " -> (Tensor value, Tensor slope_a, Tensor slope_b)",
    _fake,
)
condition_number_backward = define(
    "condition_number",
    "condition_number_backward",
    "(Tensor grad, Tensor slope) -> Tensor",
    lambda grad, slope: slope.new_empty(slope.shape, dtype=grad.dtype),
)
