"""Mean of each sequence's k largest scores per class."""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
from torch import Tensor

from d2kernels._arguments import choice, flag, whole
from d2kernels.ops._library import apply, constant, is_integer, once
from d2kernels.ops.topk_pool import schema
from d2kernels.ragged import Ragged, take


class TopkPool(torch.autograd.Function):
    inputs = 1
    forward = staticmethod(schema.topk_pool)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        ctx.save_for_backward(*inputs[:4], *output[1:])
        ctx.rule = inputs[4:7]
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)

    @staticmethod
    @once
    def backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple:
        slope = None if grad is None else schema.topk_pool_backward(grad, *ctx.saved_tensors, *ctx.rule)
        return slope, None, None, None, None, None, None, None


def _rule(lengths: Tensor, k: int | Tensor | None, divisor: int, rounding: str) -> tuple[Tensor | None, int, int, bool]:
    """k, each, divisor and ceil of schema.py."""
    divisor = min(whole("topk_pool", "divisor", divisor), 1 << 62)  # no sequence is as long, and no sum wraps
    ceil = choice("topk_pool", "rounding", rounding, ("ceil", "floor")) == "ceil"
    if not isinstance(k, Tensor):
        return None, 0 if k is None else whole("topk_pool", "k", k), divisor, ceil
    if k.shape != lengths.shape or not is_integer(k):
        raise ValueError(
            f"topk_pool: k must be an int or an integer tensor of shape {tuple(lengths.shape)}, "
            f"got {k.dtype} {tuple(k.shape)}"
        )
    if k.device != lengths.device:
        raise ValueError(f"topk_pool: k is on {k.device} but scores is on {lengths.device}; move it there")
    # A copy of the caller's own, which it may change before the backward.
    return k.to(torch.int64, copy=True), 0, divisor, ceil


@overload
def topk_pool(
    scores: Tensor | Ragged,
    *,
    k: int | Tensor | None = ...,
    divisor: int = ...,
    rounding: str = ...,
    offsets: Tensor | None = ...,
    lengths: Tensor | None = ...,
    mask: Tensor | None = ...,
    return_indices: Literal[False] = ...,
) -> Tensor: ...


@overload
def topk_pool(
    scores: Tensor | Ragged,
    *,
    k: int | Tensor | None = ...,
    divisor: int = ...,
    rounding: str = ...,
    offsets: Tensor | None = ...,
    lengths: Tensor | None = ...,
    mask: Tensor | None = ...,
    return_indices: Literal[True],
) -> tuple[Tensor, Tensor]: ...


def topk_pool(
    scores: Tensor | Ragged,
    *,
    k: int | Tensor | None = None,
    divisor: int = 8,
    rounding: str = "ceil",
    offsets: Tensor | None = None,
    lengths: Tensor | None = None,
    mask: Tensor | None = None,
    return_indices: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Mean of the k largest scores of each sequence and class (the paper's temporal top-k pooling, Sec. 3.1).

    Ties at the k-th largest score share its gradient equally, so the result and its gradient depend on neither
    order nor backend. NaN sorts above every number, as in torch.topk.

    Args:
        scores: (total, C) rows as Ragged or packed, or dense (n, s, C); float.
        k: how many, one int for all or (n,); clipped to [1, s_i]. Default: s_i / divisor, rounded.
        divisor: used where k is None.
        rounding: "ceil" or "floor" of s_i / divisor.
        offsets, lengths, mask: see `Ragged`; dense scores take exactly one of lengths and mask.
        return_indices: also return where the k scores are.

    Returns:
        (n, C) in the dtype of scores, accumulated in float32 or better; 0 for an empty sequence. With return_indices
        that and (n, C, k_max) int64, k_max the largest k: rows within the sequence by falling score, ties by the first
        row, and -1 past k and in an empty sequence. They are without gradient, and k_max is read from the device.

    Raises:
        ValueError, TypeError: an argument of the wrong shape, dtype or value.
    """
    form = take("topk_pool", scores, offsets, lengths, mask)
    if form.values.dim() != 2 or not form.values.is_floating_point():
        raise ValueError(
            f"topk_pool: scores must be float rows (total, C), got {form.values.dtype} {tuple(form.values.shape)}"
        )
    rule = _rule(form.lengths, k, divisor, rounding)
    mean = apply(TopkPool, form.values, form.offsets, form.lengths, *rule, keeps=True)[0]
    if not flag("topk_pool", "return_indices", return_indices):
        return mean
    count = schema.counts(form.lengths, *rule)
    most = int(torch.minimum(count, form.lengths).max()) if len(count) else 0
    return mean, schema.topk_indices(*constant(form.values, form.offsets, form.lengths, count), most)
