"""Schema and fake kernels of temporal_conv.

`sign` says where the activation passed its input: one bit an element (bits.py), no rows where there is none, or
without `for_backward`. The backward takes that and not the output, which may be freed before it. Dropped elements
have no sign, and need none. `seed` is (2,) int64, dropout.py's seed and first row, and not None where dropout is not
0. x has at least `gap` zero rows before, between and after its sequences; a gradient's gap rows hold anything.
"""

from __future__ import annotations

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
    out = x.new_empty((x.shape[0], weight.shape[0]))
    rows = x.shape[0] if negative_slope is not None and for_backward else 0
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
    gap: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients that are not needed are empty; those of weight and bias come together."""
    return (
        torch.empty_like(x, memory_format=torch.contiguous_format) if need_x else x.new_empty(0),
        torch.empty_like(weight, memory_format=torch.contiguous_format) if need_weight else weight.new_empty(0),
        weight.new_empty(weight.shape[0] if need_weight else 0),
    )


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
    " float? negative_slope, bool residual, float dropout, Tensor? seed, bool need_x, bool need_weight, int gap=0)"
    " -> (Tensor grad_x, Tensor grad_weight, Tensor grad_bias)",
    _fake_backward,
)
