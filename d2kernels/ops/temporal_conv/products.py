"""temporal_conv in float32 on the CPU by packed products of csrc: nothing padded, no row moved, activation fused."""

from __future__ import annotations

import torch
from torch import Tensor

from d2kernels import _native
from d2kernels.ops.temporal_conv import bits, table
from d2kernels.ops.temporal_conv.dropout import threshold
from d2kernels.ops.temporal_conv.precision import float32
from d2kernels.ops.temporal_conv.schema import needs_sign

_MOST_TAPS = 768  # of a packed row (kDepth of csrc/cpu/products.h)
_LEAST_WIDTH = 64  # channels from which on Winograd's maps cost less than the products that it spares


def available() -> bool:
    """Whether this build and this machine have them."""
    native, _ = _native.extension()
    return native is not None and native.convolves_cpu()


def winograd(weight: Tensor, dilation: int, groups: int) -> bool:
    """Whether Winograd's F(4, 3) was asked for (D2K_FLOAT32=winograd) and the layer is one where it wins."""
    c_out, c_in, kernel = weight.shape
    if (kernel, dilation) != (3, 1) or min(c_in, c_out // groups) < _LEAST_WIDTH:
        return False
    return float32() == "winograd"


def serve(x: Tensor, weight: Tensor, dilation: int, groups: int) -> bool:
    """Whether they take this layer: by its dtype and shape and the machine, never by the batch."""
    if x.dtype != torch.float32 or weight.numel() == 0 or not available():
        return False
    c_out, c_in, kernel = weight.shape
    if winograd(weight, dilation, groups):
        return True
    return kernel <= _MOST_TAPS and table.ours(kernel, c_in, c_out // groups)


def _rows(x: Tensor) -> Tensor:
    """x with channels next to each other; rows may lie apart."""
    if x.is_contiguous():
        return x
    apart, within = x.stride()
    return x if within == 1 and apart >= x.shape[1] else x.contiguous()


def _shape(offsets: Tensor, lengths: Tensor, total: int, weight: Tensor, dilation: int, groups: int) -> tuple[int, ...]:
    c_out, c_in, taps = weight.shape
    place = (offsets.data_ptr(), lengths.data_ptr(), lengths.shape[0], total)
    fast = winograd(weight, dilation, groups)
    return (*place, c_in, c_out // groups, groups, taps, min(dilation, max(total, 1)), fast)


def _dropout(p: float, seed: Tensor | None) -> tuple[int, int, int, float]:
    """Seed, first row, threshold and scale; a threshold of 0 drops nothing."""
    if seed is None or threshold(p) == 0:
        return 0, 0, 0, 1.0
    number, first = seed.tolist()
    return number, first, threshold(p), 1 / (1 - p)


def _address(x: Tensor | None) -> int:
    return 0 if x is None else x.data_ptr()


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
) -> tuple[Tensor, Tensor]:
    x, weight, offsets, lengths = _rows(x), weight.contiguous(), offsets.contiguous(), lengths.contiguous()
    bias = None if bias is None else bias.contiguous()
    total, c_out = x.shape[0], weight.shape[0]
    out = x.new_empty((total, c_out))
    signs = needs_sign(negative_slope, residual)
    sign = x.new_zeros((total if signs else 0, bits.width(c_out)), dtype=torch.uint8)
    _native.module().temporal_conv_cpu(
        _shape(offsets, lengths, total, weight, dilation, groups),
        x.data_ptr(),
        x.stride(0),
        weight.data_ptr(),
        _address(bias),
        negative_slope,
        residual,
        _dropout(dropout, seed),
        out.data_ptr(),
        sign.data_ptr() if signs else 0,
        torch.get_num_threads(),
    )
    return out, sign


def backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    offsets: Tensor,
    lengths: Tensor,
    sign: Tensor,
    dilation: int,
    groups: int,
    negative_slope: float | None,
    residual: bool,
    dropout: float,
    seed: Tensor | None,
    need_x: bool,
    need_weight: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    native, threads, total, c_out = _native.module(), torch.get_num_threads(), x.shape[0], weight.shape[0]
    grad, x, weight, sign = _rows(grad), _rows(x), weight.contiguous(), sign.contiguous()
    offsets, lengths = offsets.contiguous(), lengths.contiguous()
    shape = _shape(offsets, lengths, total, weight, dilation, groups)
    dropped = _dropout(dropout, seed)
    drops = dropped[2] > 0
    changes = negative_slope is not None or drops
    inner = x.new_empty((total, c_out)) if changes else grad
    grad_x = x.new_empty((total, weight.shape[1] * groups) if need_x else 0)
    grad_w, grad_b = weight.new_empty(0), weight.new_empty(0)
    # What passes by the convolution: the gradient itself, or what dropout leaves of it, written where it is added to.
    passes = (grad_x if drops else grad) if need_x and residual else None
    if need_weight:
        grad_w, grad_b = torch.empty_like(weight), weight.new_empty(c_out)
    by_output = negative_slope is not None and sign.is_floating_point()
    native.temporal_conv_inner_cpu(
        shape,
        grad.data_ptr(),
        grad.stride(0),
        sign.data_ptr() if by_output else 0,
        0 if by_output else sign.data_ptr(),
        negative_slope,
        dropped,
        inner.data_ptr() if changes else 0,
        grad_x.data_ptr() if passes is grad_x else 0,
        grad_b.data_ptr() if need_weight else 0,
        threads,
    )
    if need_x:
        native.temporal_conv_input_gradient_cpu(
            shape,
            inner.data_ptr(),
            inner.stride(0),
            weight.data_ptr(),
            0 if passes is None else passes.data_ptr(),
            0 if passes is None else passes.stride(0),
            grad_x.data_ptr(),
            threads,
        )
    if need_weight:
        native.temporal_conv_weight_gradient_cpu(
            shape, inner.data_ptr(), inner.stride(0), x.data_ptr(), x.stride(0), grad_w.data_ptr(), threads
        )
    return grad_x, grad_w, grad_b
