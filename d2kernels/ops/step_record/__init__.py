"""The books of a training step, kept on the device."""

from __future__ import annotations

import torch
from torch import Tensor

from d2kernels.ops._library import without_gradient
from d2kernels.ops.step_record import schema

__all__ = ["step_record"]


def step_record(
    terms: tuple[Tensor, Tensor, Tensor, Tensor],
    norm: Tensor,
    left_out: Tensor | None,
    reference: Tensor,
    kept: Tensor,
    sums: Tensor,
) -> Tensor:
    """Adds a step to the log's sums, keeps its reference, and says whether the optimiser must leave the weights alone.

    Args:
        terms: total, classification loss, L_DS and L_DV, 0-d float32.
        norm: of the whole gradient, 0-d float32.
        left_out: 0-d int64, video terms left out, or None for none.
        reference: (D,) float32 after the step; `kept` (D,) becomes it where all of it is finite.
        sums: (7,) float32, to which terms, norm, whether the step is skipped, and left_out are added; what is not
            finite counts as 0.

    Returns:
        0-d float32: 1 where the total is 0 or not finite or the norm is not finite, else 0.

    Raises:
        ValueError: an argument of the wrong shape, dtype or layout.
    """
    width = (reference.numel(),)
    given = *terms, norm, reference, kept, sums
    shapes = *[()] * (len(terms) + 1), width, width, (7,)
    for i, (x, shape) in enumerate(zip(given, shapes, strict=True)):
        if x.dtype is not torch.float32 or x.shape != shape or not x.is_contiguous():
            name = f"terms[{i}]" if i < len(terms) else ("norm", "reference", "kept", "sums")[i - len(terms)]
            raise ValueError(f"step_record: {name} must be contiguous float32 {shape}, got {x.dtype} {tuple(x.shape)}")
    if left_out is not None and (left_out.dtype != torch.int64 or left_out.dim()):
        raise ValueError(f"step_record: left_out must be int64 (), got {left_out.dtype} {tuple(left_out.shape)}")
    return without_gradient(schema.step_record, *terms, norm, left_out, reference, kept, sums)
