"""temporal_conv in float32 on the CPU by packed products of csrc: nothing padded, no row moved, activation fused."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from d2kernels import _native
from d2kernels.ops.temporal_conv import bits, table
from d2kernels.ops.temporal_conv.dropout import threshold
from d2kernels.ops.temporal_conv.precision import float32

_MOST_TAPS = 768  # of a packed row (kDepth of csrc/cpu/products.h)
_LEAST_WIDTH = 64  # channels from which on Winograd's maps cost less than the products that it spares


def available() -> bool:
    """Whether this build and this machine have them."""
    native, _ = _native.extension()
    return native is not None and native.convolves_cpu()


@lru_cache(maxsize=256)
def _ways(shape: tuple[int, int, int], dilation: int, groups: int) -> tuple[bool, bool]:
    """Whether they are the faster ones for a weight of this shape, and whether Winograd's F(4, 3) would be."""
    c_out, c_in, kernel = shape
    if c_out == 0 or c_in == 0:
        return False, False
    width = c_out // groups
    maps = kernel == 3 and dilation == 1 and c_in >= _LEAST_WIDTH and width >= _LEAST_WIDTH
    return kernel <= _MOST_TAPS and table.ours(kernel, c_in, width), maps


def winograd(weight: Tensor, dilation: int, groups: int) -> bool:
    """Whether Winograd's F(4, 3) was asked for (D2K_FLOAT32=winograd) and the layer is one where it wins."""
    return _ways(weight.shape, dilation, groups)[1] and float32() == "winograd"


def serve(x: Tensor, weight: Tensor, dilation: int, groups: int) -> bool:
    """Whether they take this layer: by its dtype and shape and the machine, never by the batch."""
    if x.dtype is not torch.float32 or not available():
        return False
    ours, maps = _ways(weight.shape, dilation, groups)
    return ours or (maps and float32() == "winograd")


def forward(
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
    for_backward: bool = True,
) -> tuple[Tensor, Tensor | None]:
    *form, _ = x.shape
    c_out, sign = weight.shape[0], None
    out = x.new_empty(*form, c_out)
    if negative_slope is not None and for_backward:
        sign = x.new_zeros(math.prod(form), bits.width(c_out), dtype=torch.uint8)
    fast = winograd(weight, dilation, groups)
    options = dilation, groups, fast, negative_slope, residual, dropout, seed
    _native.module().temporal_conv_cpu(
        x, weight, offsets, lengths, *options, bias, out, sign, torch.get_num_threads()
    )
    return out, sign


def backward(
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
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    own = negative_slope is None and (seed is None or threshold(dropout) == 0)
    inner = None if own else grad.new_empty(*grad.shape)
    grad_x = x.new_empty(*x.shape) if need_x else None
    grad_w = x.new_empty(*weight.shape) if need_weight else None
    grad_b = x.new_empty(weight.shape[0]) if need_bias else None
    fast = winograd(weight, dilation, groups)
    options = dilation, groups, fast, negative_slope, residual, dropout, seed
    results = sign, inner, grad_x, grad_w, grad_b
    _native.module().temporal_conv_backward_cpu(
        x, weight, offsets, lengths, *options, grad, *results, torch.get_num_threads()
    )
    return grad_x, grad_w, grad_b
