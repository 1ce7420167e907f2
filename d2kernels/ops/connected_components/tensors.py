"""connected_components of tensors, as far as it is not a backend's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from d2kernels.ops._library import constant, levels
from d2kernels.ops.connected_components import schema
from d2kernels.ops.connected_components.checks import check_order, check_shapes
from d2kernels.ragged import Ragged, _values_can_be_checked, take


def of_tensors(
    scores: Tensor | Ragged,
    thresholds: Any,
    offsets: Any,
    lengths: Any,
    mask: Any,
    class_mask: Any,
    min_length: int,
    distinct: bool,
    capacity: int | None,
) -> Any:
    form = take("connected_components", scores, offsets, lengths, mask)
    values = form.values[:, None] if form.values.dim() == 1 else form.values
    if values.dim() != 2 or not values.is_floating_point():
        raise ValueError(
            "connected_components: scores must be float rows (total, C) or (total,), "
            f"got {form.values.dtype} {tuple(form.values.shape)}"
        )
    dtype = torch.float64 if values.dtype == torch.float64 else torch.float32
    thresholds = levels("connected_components", thresholds, dtype, values.device)
    if class_mask is not None and (not isinstance(class_mask, torch.Tensor) or class_mask.dtype != torch.bool):
        got = getattr(class_mask, "dtype", type(class_mask).__name__)
        raise TypeError(f"connected_components: class_mask must be bool, got {got}")
    check_shapes(values, form.lengths.shape[0], thresholds, class_mask)
    if _values_can_be_checked(thresholds):
        check_order("connected_components", thresholds)
    found, count = schema.connected_components(
        *constant(values, form.offsets, form.lengths, thresholds), class_mask, min_length, distinct, capacity
    )
    return found.unbind(), count
