"""Schema and fake kernels of temporal_conv.

x is rows (total, c_in) or dense (n, s, c_in), which are n · s rows; the result and gradients are in its form.

`sign` says where the activation passed its input: one bit an element (bits.py), no rows where there is none, or
without `for_backward`. The backward takes that and not the output, which may be freed before it. Dropped elements
have no sign, and need none. `seed` is (2,) int64, dropout.py's seed and first row, and not None where dropout is not
0. x has at least `gap` zero rows before, between and after its sequences; a gradient's gap rows hold anything.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from d2kernels.ops._library import define
from d2kernels.ops.temporal_conv import bits


def _fake(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    offsets: Tensor,
    lengths: Tensor,
    dilation: int,
    groups: int,
    negative_slope: float | None,
    residual: bool,
    dropout: float,
    seed: Tensor | None,
    gap: int = 0,
    for_backward: bool = True,
) -> tuple[Tensor, Tensor]:
    out = x.new_empty((*x.shape[:-1], weight.shape[0]))
    # torch.Size.numel() would fix a size that torch.export lets vary.
    rows = math.prod(x.shape[:-1]) if negative_slope is not None and for_backward else 0
    return out, x.new_empty((rows, bits.width(weight.shape[0])), dtype=torch.uint8)


def _fake_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    offsets: Tensor,
    lengths: Tensor,
    sign: Tensor | None,
    dilation: int,
    groups: int,
    negative_slope: float | None,
    residual: bool,
    dropout: float,
    seed: Tensor | None,
    need_x: bool,
    need_weight: bool,
    need_bias: bool,
    gap: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients that are not needed are empty."""
    return (
        torch.empty_like(x, memory_format=torch.contiguous_format) if need_x else x.new_empty(0),
        torch.empty_like(weight, memory_format=torch.contiguous_format) if need_weight else weight.new_empty(0),
        weight.new_empty(weight.shape[0] if need_bias else 0),
    )


def of_rows(forward: Callable[..., tuple[Tensor, Any]]) -> Callable[..., tuple[Tensor, Any]]:
    """Lets a forward of rows take dense x."""

    @functools.wraps(forward)
    def wrapper(x: Tensor, *rest: Any) -> tuple[Tensor, Any]:
        if x.dim() == 2:
            return forward(x, *rest)
        out, sign = forward(x.flatten(0, 1), *rest)
        return out.view(*x.shape[:-1], out.shape[1]), sign

    return wrapper


def of_rows_backward(backward: Callable[..., tuple[Any, Any, Any]]) -> Callable[..., tuple[Any, Any, Any]]:
    """Lets a backward of rows take dense x and its result's gradient."""

    @functools.wraps(backward)
    def wrapper(grad: Tensor, x: Tensor, *rest: Any) -> tuple[Any, Any, Any]:
        if x.dim() == 2:
            return backward(grad, x, *rest)
        grad_x, grad_w, grad_b = backward(grad.flatten(0, 1), x.flatten(0, 1), *rest)
        return grad_x if grad_x is None or grad_x.dim() != 2 else grad_x.view(x.shape), grad_w, grad_b

    return wrapper


temporal_conv = define(
    "temporal_conv",
    "temporal_conv",
    "(Tensor x, Tensor weight, Tensor? bias, Tensor offsets, Tensor lengths, int dilation, int groups,"
    " float? negative_slope, bool residual, float dropout, Tensor? seed, int gap=0, bool for_backward=True)"
    " -> (Tensor out, Tensor sign)",
    _fake,
)
temporal_conv_backward = define(
    "temporal_conv",
    "temporal_conv_backward",
    "(Tensor grad, Tensor x, Tensor weight, Tensor offsets, Tensor lengths, Tensor? sign, int dilation, int groups,"
    " float? negative_slope, bool residual, float dropout, Tensor? seed, bool need_x, bool need_weight,"
    " bool need_bias, int gap=0)"
    " -> (Tensor grad_x, Tensor grad_weight, Tensor grad_bias)",
    _fake_backward,
)
