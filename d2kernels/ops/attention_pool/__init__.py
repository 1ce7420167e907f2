"""Attention-weighted sums of each sequence's selected rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from d2kernels._arguments import flag, number
from d2kernels.ops._library import apply, once
from d2kernels.ops.attention_pool import schema
from d2kernels.ragged import Ragged, take


class AttentionPool(NamedTuple):
    """Pooled rows (n, D) or (n, A, D), and the attention (n,) or (n, A) that was summed for each."""

    embedding: Tensor
    mass: Tensor


class _AttentionPool(torch.autograd.Function):
    inputs = 2
    forward = staticmethod(schema.attention_pool)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        ctx.save_for_backward(output[1], *inputs[:4])
        ctx.options = inputs[4:]
        ctx.set_materialize_grads(False)

    @staticmethod
    @once
    def backward(ctx: Any, grad: Tensor | None, grad_mass: Tensor | None) -> tuple:
        if grad is None and grad_mass is None:
            return (None,) * 7
        need_x, need_attention = ctx.needs_input_grad[:2]
        mass, x, *rest = ctx.saved_tensors
        if grad is None:
            grad = x.new_zeros((*mass.shape, x.shape[1]))
        grad_x, grad_attention = schema.attention_pool_backward(
            grad, grad_mass, mass, x, *rest, *ctx.options, need_x, need_attention
        )
        return (grad_x if need_x else None, grad_attention if need_attention else None, None, None, None, None, None)


def thresholds_of(op: str, threshold: float | Sequence[float]) -> float | list[float]:
    """One number, or a list of them."""
    if isinstance(threshold, Tensor):
        raise TypeError(f"{op}: threshold must be a float or a sequence of floats, got a tensor")
    if isinstance(threshold, np.ndarray) and threshold.ndim == 1:
        threshold = threshold.tolist()
    if isinstance(threshold, Sequence) and not isinstance(threshold, (str, bytes)):
        return [number(op, f"threshold[{i}]", t, finite=False) for i, t in enumerate(threshold)]
    return number(op, "threshold", threshold, finite=False)


def _thresholds(threshold: float | Sequence[float], columns: int) -> tuple[float, ...]:
    if type(threshold) is float:
        return (number("attention_pool", "threshold", threshold, finite=False),) * columns
    values = thresholds_of("attention_pool", threshold)
    if not isinstance(values, list):
        return (values,) * columns
    if len(values) != columns:
        raise ValueError(
            f"attention_pool: {columns} attention columns need {columns} thresholds or one for all, got {len(values)}"
        )
    return tuple(values)


def attention_pool(
    x: Tensor | Ragged,
    attention: Tensor | Ragged,
    *,
    threshold: float | Sequence[float] = 0.5,
    inclusive: bool = False,
    normalize: bool = False,
    offsets: Tensor | None = None,
    lengths: Tensor | None = None,
    mask: Tensor | None = None,
) -> AttentionPool:
    """Attention-weighted sum of the rows whose attention passes a threshold (Eq. 2).

    embedding[i, a] = Σ attention[t, a] x[t] over the rows t of sequence i with attention[t, a] > threshold[a]
    and mass[i, a] = Σ attention[t, a] over the same rows. Foreground and background embeddings are one call
    with the columns λ and 1 - λ. Rows that are not selected are not read: NaN there stays there.

    Args:
        x: (total, D) rows as Ragged or packed, or dense (n, s, D); float.
        attention: (total,) or (total, A) in the same form as x, float.
        threshold: one for all columns or A of them; rounded to the dtype of attention before comparing.
        inclusive: whether attention equal to the threshold passes.
        normalize: divide each embedding by its mass; 0 where the mass is 0.
        offsets, lengths, mask: see `Ragged`; dense rows take exactly one of lengths and mask.

    Returns:
        embedding (n, D) or (n, A, D) in the dtype of x, mass (n,) or (n, A) in that of attention, both
        accumulated in float32 or better and differentiable; 0 for a sequence without a selected row.

    Raises:
        ValueError, TypeError: an argument of the wrong shape, dtype or value.
    """
    form = take("attention_pool", x, offsets, lengths, mask)
    rows = form.values
    if rows.dim() != 2 or not rows.is_floating_point():
        raise ValueError(
            f"attention_pool: x must be float rows (total, D), got {rows.dtype} {tuple(rows.shape)}"
        )
    weights = form.align("attention", attention)
    if not 1 <= weights.dim() <= 2 or not weights.is_floating_point():
        raise ValueError(
            f"attention_pool: attention must be float rows (total,) or (total, A), "
            f"got {weights.dtype} {tuple(weights.shape)}"
        )
    columns = 1 if weights.dim() == 1 else weights.shape[1]
    if columns == 0:
        raise ValueError(
            f"attention_pool: attention must have at least one column, got {tuple(weights.shape)}"
        )
    options = (
        _thresholds(threshold, columns),
        flag("attention_pool", "inclusive", inclusive),
        flag("attention_pool", "normalize", normalize),
    )
    embedding, total = apply(_AttentionPool, rows, weights, form.offsets, form.lengths, *options)
    return AttentionPool(embedding, total if total.dtype is weights.dtype else total.to(weights.dtype))
