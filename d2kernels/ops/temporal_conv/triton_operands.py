"""How the operands of temporal_conv's products lie: copies of rows and of weights in another order."""

from __future__ import annotations

import torch
from torch import Tensor

from d2kernels.ops._triton import bound, cdiv, power
from d2kernels.ops.temporal_conv.triton_beside import repack_kernel, transpose_kernel


def rows_of(x: Tensor) -> Tensor:
    """x with channels next to each other; rows may lie apart."""
    return x if x.stride(1) == 1 and x.stride(0) >= x.shape[1] else x.contiguous()


def by_tap(weight: Tensor) -> Tensor:
    """(k, c_out, c_in) with inputs next to each other: weight itself where it lies so, else a copy."""
    by_tap = weight.permute(2, 0, 1)
    if by_tap.is_contiguous():
        return by_tap
    return repack(weight, 1, False) if weight.is_contiguous() else by_tap.contiguous()


def dense(weight: Tensor) -> Tensor:
    """weight where it lies in one of two orders, else a copy: each is a form of a kernel."""
    return weight if weight.is_contiguous() or weight.permute(2, 0, 1).is_contiguous() else weight.contiguous()


def repack(weight: Tensor, groups: int, back: bool) -> Tensor:
    """(k, c_out, c_in) of weight, or `back`: (k, groups · c_in, c_out / groups), outputs next to each other."""
    outer, inner, taps = weight.shape[0] // groups, weight.shape[1], weight.shape[2]
    shape = (taps, groups * inner, outer) if back else (taps, groups * outer, inner)
    out = torch.empty(shape, dtype=weight.dtype, device=weight.device)
    rows, columns = (32, 32) if back else (8, 128)
    bound(
        repack_kernel,
        OUTER=outer,
        INNER=inner,
        TAPS=taps,
        W_GROUP=outer * weight.stride(0),
        W_OUTER=weight.stride(0),
        W_INNER=weight.stride(1),
        W_TAP=weight.stride(2),
        OUT_OUTER=1 if back else inner,
        OUT_INNER=outer if back else 1,
        OUT_TAP=groups * outer * inner,
        WIDTH=power(taps),
        BLOCK_O=rows,
        BLOCK_I=columns,
        num_warps=4,
    )((cdiv(outer, rows) * cdiv(inner, columns), groups), weight, out)
    return out


def transposed(x: Tensor) -> Tensor:
    """(c, total) of (total, c), with rows of whole 16 bytes."""
    total, channels = x.shape
    stride = cdiv(total, 16) * 16
    out = torch.empty((channels, stride), dtype=x.dtype, device=x.device)
    rows, columns = 64, min(32, power(channels))
    grid = (cdiv(total, rows), cdiv(channels, columns))
    constants = {"CHANNELS": channels, "X_STRIDE": x.stride(0), "BLOCK_R": rows, "BLOCK_C": columns}
    bound(transpose_kernel, **constants, num_warps=4)(grid, x, out, total, stride)
    return out[:, :total]
