"""temporal_conv in float32 on the CPU by packed products of csrc: nothing padded, no row moved, activation fused."""

from __future__ import annotations

from typing import Any

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


def winograd(weight: Tensor, dilation: int, groups: int) -> bool:
    """Whether Winograd's F(4, 3) was asked for (D2K_FLOAT32=winograd) and the layer is one where it wins."""
    c_out, c_in, kernel = weight.shape
    if kernel != 3 or dilation != 1 or c_in < _LEAST_WIDTH or c_out // groups < _LEAST_WIDTH:
        return False
    return float32() == "winograd"


def serve(x: Tensor, weight: Tensor, dilation: int, groups: int) -> bool:
    """Whether they take this layer: by its dtype and shape and the machine, never by the batch."""
    if x.dtype != torch.float32 or not available():
        return False
    c_out, c_in, kernel = weight.shape
    if c_out == 0 or c_in == 0:
        return False
    of_table = kernel <= _MOST_TAPS and table.ours(kernel, c_in, c_out // groups)
    return of_table or winograd(weight, dilation, groups)


def _rows(x: Tensor) -> Tensor:
    """x with channels next to each other; rows may lie apart."""
    if x.is_contiguous():
        return x
    if x.dim() == 3:
        return x.contiguous()
    apart, within = x.stride()
    return x if within == 1 and apart >= x.shape[1] else x.contiguous()


def _apart(x: Tensor) -> int:
    """How far apart the rows of `_rows` are; the stride of an axis of one is anything."""
    return x.shape[-1] if x.is_contiguous() else x.stride(0)


def _shape(offsets: Tensor, lengths: Tensor, total: int, weight: Tensor, dilation: int, groups: int) -> tuple[Any, ...]:
    c_out, c_in, taps = weight.shape
    fast = winograd(weight, dilation, groups)
    reach = dilation if dilation < total else max(total, 1)  # taps farther apart see nothing more
    return offsets, lengths, lengths.shape[0], total, c_in, c_out // groups, groups, taps, reach, fast


def _dropout(p: float, seed: Tensor | None) -> tuple[int, int, int, float]:
    """Seed, first row, threshold and scale; a threshold of 0 drops nothing."""
    if seed is None or threshold(p) == 0:
        return 0, 0, 0, 1.0
    number, first = seed.tolist()
    return number, first, threshold(p), 1 / (1 - p)


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
    x = _rows(x)
    *form, c_in = x.shape
    total, c_out = x.numel() // c_in, weight.shape[0]
    out, sign = x.new_empty(*form, c_out), None
    if negative_slope is not None and for_backward:
        sign = x.new_zeros(total, bits.width(c_out), dtype=torch.uint8)
    _native.module().temporal_conv_cpu(
        _shape(offsets, lengths, total, weight, dilation, groups),
        x.data_ptr(),
        _apart(x),
        weight,
        bias,
        negative_slope,
        residual,
        _dropout(dropout, seed),
        out,
        sign,
        torch.get_num_threads(),
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
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    total, c_out = x.numel() // x.shape[-1], weight.shape[0]
    grad, x = _rows(grad), _rows(x)
    dropped = _dropout(dropout, seed)
    inner = x.new_empty(total, c_out) if negative_slope is not None or dropped[2] > 0 else None
    grad_x = x.new_empty(*x.shape) if need_x else None
    grad_w, grad_b = (x.new_empty(*weight.shape), x.new_empty(c_out)) if need_weight else (None, None)
    _native.module().temporal_conv_backward_cpu(
        _shape(offsets, lengths, total, weight, dilation, groups),
        grad.data_ptr(),
        _apart(grad),
        sign,
        negative_slope,
        residual,
        dropped,
        x.data_ptr(),
        _apart(x),
        weight,
        inner,
        grad_x,
        grad_w,
        grad_b,
        torch.get_num_threads(),
    )
    return grad_x, grad_w, grad_b
