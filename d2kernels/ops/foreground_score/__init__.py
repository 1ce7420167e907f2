"""How far each row points away from a background reference."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from d2kernels._arguments import number
from d2kernels.ops._library import apply, once
from d2kernels.ops.foreground_score import schema
from d2kernels.ragged import Ragged, take


class _ForegroundScore(torch.autograd.Function):
    inputs = 2
    forward = staticmethod(schema.foreground_score)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:4])
        ctx.eps = inputs[4]

    @staticmethod
    @once
    def backward(ctx: Any, grad: Tensor) -> tuple:
        need_x, need_reference = ctx.needs_input_grad[:2]
        grad_x, grad_reference = schema.foreground_score_backward(
            grad, *ctx.saved_tensors, ctx.eps, need_x, need_reference
        )
        return grad_x if need_x else None, grad_reference if need_reference else None, None, None, None


def foreground_score(
    x: Tensor | Ragged,
    reference: Tensor,
    *,
    eps: float = 1e-8,
    offsets: Tensor | None = None,
    lengths: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor | Ragged:
    """λ' = 0.5 (1 - cos(x, reference)) of every row: 0 where it points along the reference, 1 against it.

    Eq. 8, with the values and gradients of torch.nn.functional.cosine_similarity: each norm is replaced by
    eps where it is smaller, and eps is not differentiated. A zero row, or a zero reference, scores 0.5.

    Args:
        x: (total, D) rows as Ragged or packed, or dense (n, s, D); float.
        reference: (D,) or (1, D), float.
        eps: lower bound of each norm.
        offsets, lengths, mask: see `Ragged`; dense rows take exactly one of lengths and mask.

    Returns:
        (total,) in the form and dtype of x, computed in float32 or better; 0 on gap rows.

    Raises:
        ValueError, TypeError: an argument of the wrong shape, dtype or value.
    """
    form = take("foreground_score", x, offsets, lengths, mask)
    rows = form.values
    if rows.dim() != 2 or not rows.is_floating_point():
        raise ValueError(
            f"foreground_score: x must be float rows (total, D), got {rows.dtype} {tuple(rows.shape)}"
        )
    if not isinstance(reference, Tensor):
        raise TypeError(f"foreground_score: reference must be a tensor, got {type(reference).__name__}")
    width = rows.shape[1]
    flat = reference[0] if reference.dim() == 2 and reference.shape[0] == 1 else reference
    if flat.dim() != 1 or flat.shape[0] != width or not flat.is_floating_point():
        raise ValueError(
            f"foreground_score: reference must be float with shape ({width},) or (1, {width}), "
            f"got {reference.dtype} {tuple(reference.shape)}"
        )
    eps = number("foreground_score", "eps", eps, least=0)
    score = apply(_ForegroundScore, rows, flat, form.offsets, form.lengths, eps)
    return form.restore(score)
