"""localize of tensors, as far as it is not a backend's."""

from __future__ import annotations

import torch
from torch import Tensor

from d2kernels._native import cast
from d2kernels.ops._library import constant
from d2kernels.ops._library import levels as as_levels
from d2kernels.ops.connected_components.checks import check_order
from d2kernels.ops.localize import schema
from d2kernels.ops.localize.checks import Given, check_positions, check_tables, check_thresholds
from d2kernels.ragged import _values_can_be_checked, take


def of_tensors(given: Given) -> tuple[Tensor, ...]:
    _, thresholds, class_mask, class_score, capacity, rules = given
    form = take("localize", *given.form)
    values, n = form.values, form.lengths.shape[0]
    if values.dim() != 2 or not values.is_floating_point():
        raise ValueError(
            f"localize: activations must be float rows (total, C), got {values.dtype} {tuple(values.shape)}"
        )
    for name, table in (("class_mask", class_mask), ("class_score", class_score)):
        if not isinstance(table, torch.Tensor) and table is not None:
            raise TypeError(f"localize: {name} must be a tensor as activations, got {type(table).__name__}")
    check_tables((n, values.shape[1]), class_mask=class_mask, class_score=class_score)
    if values.dtype != torch.float64:
        values = values.float()
    if class_mask is not None and class_mask.dtype != torch.bool:
        raise TypeError(f"localize: class_mask must be bool, got {class_mask.dtype}")
    if class_score is not None and class_score.is_complex():
        raise TypeError(f"localize: class_score must be numbers, got {class_score.dtype}")
    check_positions(values.shape[0], rules[9])
    levels = as_levels("localize", thresholds, torch.float64, values.device)
    check_thresholds(levels)
    if _values_can_be_checked(levels):
        check_order("localize", levels if rules[-1] else cast(levels, values.dtype))
    arguments = constant(values, form.offsets, form.lengths, levels, class_mask, *rules, class_score)
    return schema.localize(*arguments, capacity)
