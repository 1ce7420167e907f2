"""temporal_conv by Triton: one launch a direction for all groups, then weight and bias gradients in a fixed order.

float32 products follow torch.get_float32_matmul_precision(): "highest" is IEEE, anything else TF32.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from d2kernels.ops._triton import INTERPRETED, on_device
from d2kernels.ops.temporal_conv import reference
from d2kernels.ops.temporal_conv.schema import needs_sign
from d2kernels.ops.temporal_conv.triton_forms import specializations
from d2kernels.ops.temporal_conv.triton_kernels import (
    add_parts,
    column_parts,
    convolve,
    row_bounds,
    weight_parts,
)
from d2kernels.ops.temporal_conv.triton_tiles import tile_of, weight_tile

__all__ = ["specializations", "temporal_conv_backward", "temporal_conv_forward", "why_not"]

_BOUNDS_ROWS, _ADDED, _COLUMNS = 256, 1024, 64
_LEAST_ROWS = 512  # of one split of the weight gradient


def why_not(device: str, dtype: torch.dtype | None) -> str | None:
    return None if dtype is None or dtype in (torch.float32, torch.bfloat16, torch.float16) else f"no {dtype} kernel"


def precision(dtype: torch.dtype) -> str:
    return "ieee" if dtype == torch.float32 and torch.get_float32_matmul_precision() == "highest" else "tf32"


def _arch(x: Tensor) -> int:
    if x.device.type != "cuda":
        return 90
    major, minor = torch.cuda.get_device_capability(x.device)
    return 10 * major + minor


def _rows(x: Tensor) -> Tensor:
    return x if x.stride(1) == 1 or x.shape[1] == 1 else x.contiguous()


def _steps(n: int) -> int:
    return max(1, n.bit_length())


def _packed(weight: Tensor) -> Tensor:
    """(k, c_out, c_in): either direction reads it along whole lines."""
    return weight.permute(2, 0, 1).contiguous()


def _launch(
    x: Tensor,
    packed: Tensor,
    bias: Tensor | None,
    sign: Tensor | None,
    added: Tensor | None,
    offsets: Tensor,
    lengths: Tensor,
    *,
    dilation: int,
    groups: int,
    slope: float | None,
    back: bool,
) -> Tensor:
    """sign is written forward and read on the way back."""
    total, (kernel, outputs, inner) = x.shape[0], packed.shape
    c_in, c_out = (outputs // groups, inner) if back else (inner, outputs // groups)
    out = x.new_empty((total, c_out * groups))
    mode = precision(x.dtype)
    tile = tile_of(_arch(x), x.dtype, mode, c_in, c_out)
    grid = (triton.cdiv(total, tile.rows) * triton.cdiv(c_out, tile.out), groups)
    n = lengths.shape[0]
    with on_device(x):
        convolve[grid](
            x, packed, bias, sign if back else None, added, out, None if back else sign, offsets, lengths,
            n, total, c_in, c_out, x.stride(0), added.stride(0) if added is not None else 0, dilation,
            1.0 if slope is None else slope,
            KERNEL=kernel, BACK=back, ACTIVATION=slope is not None, BIAS=bias is not None, ADD=added is not None,
            SIGN=sign is not None and not back, EVEN=c_in % tile.inner == 0, PRECISION=mode,
            UPCAST=INTERPRETED and x.dtype.itemsize == 2, STEPS=_steps(n), HALVES=tile.out == 256,
            BLOCK_ROWS=tile.rows, BLOCK_OUT=tile.out, BLOCK_IN=tile.inner, BAND=8,
            num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip
    return out


def temporal_conv_forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    offsets: Tensor,
    lengths: Tensor,
    dilation: int,
    groups: int,
    negative_slope: float | None,
    residual: bool,
) -> tuple[Tensor, Tensor]:
    if x.shape[0] == 0 or weight.numel() == 0 or lengths.shape[0] == 0:
        return reference.temporal_conv_forward(
            x, weight, bias, offsets, lengths, dilation, groups, negative_slope, residual
        )
    x = _rows(x)
    rows = x.shape[0] if needs_sign(negative_slope, residual) else 0
    sign = x.new_empty((rows, weight.shape[0]), dtype=torch.bool)
    out = _launch(
        x, _packed(weight), bias, sign.view(torch.uint8) if rows else None, x if residual else None,
        offsets.contiguous(), lengths.contiguous(),
        dilation=dilation, groups=groups, slope=negative_slope, back=False,
    )  # fmt: skip
    return out, sign


def _splits(total: int, tiles: int, arch_blocks: int = 264) -> int:
    """How many parts of the rows are summed apart, so that a few tiles fill a large GPU; from shapes alone."""
    return max(1, min(triton.cdiv(arch_blocks, tiles), triton.cdiv(total, _LEAST_ROWS)))


def temporal_conv_backward(
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
    need_x: bool,
    need_weight: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    if x.shape[0] == 0 or weight.numel() == 0 or lengths.shape[0] == 0:
        return reference.temporal_conv_backward(
            grad, x, weight, offsets, lengths, sign, dilation, groups, negative_slope, residual, need_x, need_weight
        )
    grad, x, offsets, lengths = _rows(grad), _rows(x), offsets.contiguous(), lengths.contiguous()
    passed = sign.contiguous().view(torch.uint8) if negative_slope is not None else None
    grad_x, grad_w, grad_b = x.new_empty(0), weight.new_empty(0), weight.new_empty(0)
    if need_x:
        grad_x = _launch(
            grad, _packed(weight), None, passed, grad if residual else None, offsets, lengths,
            dilation=dilation, groups=groups, slope=negative_slope, back=True,
        )  # fmt: skip
    if need_weight:
        grad_w, grad_b = _of_weight(grad, x, weight, offsets, lengths, passed, dilation, groups, negative_slope)
    return grad_x, grad_w, grad_b


def _of_weight(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    offsets: Tensor,
    lengths: Tensor,
    sign: Tensor | None,
    dilation: int,
    groups: int,
    slope: float | None,
) -> tuple[Tensor, Tensor]:
    total, (outputs, c_in, kernel), n = x.shape[0], weight.shape, lengths.shape[0]
    c_out, mode = outputs // groups, precision(x.dtype)
    tile = weight_tile(_arch(x), x.dtype, mode)
    tiles = triton.cdiv(c_out, tile.out) * triton.cdiv(c_in, tile.inner)
    splits = _splits(total, tiles * groups * kernel)
    per_split = triton.cdiv(triton.cdiv(total, splits), tile.rows) * tile.rows
    first, end = offsets.new_empty((2, total)).unbind()
    parts = x.new_empty((splits, kernel, outputs, c_in), dtype=torch.float32)
    grad_w = torch.empty_like(weight, memory_format=torch.contiguous_format)
    sums_splits = _splits(total, triton.cdiv(outputs, _COLUMNS))
    sums_rows = triton.cdiv(total, sums_splits)
    sums = x.new_empty((sums_splits, 1, outputs, 1), dtype=torch.float32)
    grad_b = weight.new_empty(outputs)
    activation, factor = slope is not None, 1.0 if slope is None else slope
    with on_device(x):
        row_bounds[(triton.cdiv(total, _BOUNDS_ROWS),)](
            offsets, lengths, first, end, n, total, STEPS=_steps(n), ROWS=_BOUNDS_ROWS
        )
        weight_parts[(tiles, groups * kernel, splits)](
            grad, x, sign, first, end, parts,
            total, c_in, c_out, grad.stride(0), x.stride(0), dilation, factor, per_split,
            KERNEL=kernel, ACTIVATION=activation, PRECISION=mode, UPCAST=INTERPRETED and x.dtype.itemsize == 2,
            BLOCK_OUT=tile.out, BLOCK_IN=tile.inner, BLOCK_ROWS=tile.rows,
            num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip
        add_parts[(triton.cdiv(outputs * c_in, _ADDED), kernel)](
            parts, grad_w, splits, outputs, c_in, KERNEL=kernel, BLOCK=_ADDED
        )
        column_parts[(triton.cdiv(outputs, _COLUMNS), sums_splits)](
            grad, sign, first, end, sums, total, outputs, grad.stride(0), factor, sums_rows,
            ACTIVATION=activation, BLOCK_ROWS=64, BLOCK=_COLUMNS,
        )  # fmt: skip
        add_parts[(triton.cdiv(outputs, _ADDED), 1)](sums, grad_b, sums_splits, outputs, 1, KERNEL=1, BLOCK=_ADDED)
    return grad_w, grad_b
