"""temporal_conv by Triton: every tap of a tile of rows is the same tile shifted, all groups in one launch.

float32 products are ieee, or tf32 where torch.backends.cuda.matmul allows it; D2K_FLOAT32=ieee|tf32|tf32x3 overrides.
"""

from __future__ import annotations

import torch
from torch import Tensor

from d2kernels.ops._triton import bound, cdiv, on_device, power, steps
from d2kernels.ops.temporal_conv import bits
from d2kernels.ops.temporal_conv.dropout import threshold
from d2kernels.ops.temporal_conv.schema import of_rows, of_rows_backward
from d2kernels.ops.temporal_conv.triton_beside import gradient_kernel
from d2kernels.ops.temporal_conv.triton_configs import BITS, NO_SIGN
from d2kernels.ops.temporal_conv.triton_forms import specializations
from d2kernels.ops.temporal_conv.triton_launch import device_of, repacked
from d2kernels.ops.temporal_conv.triton_operands import by_tap, dense, repack, rows_of
from d2kernels.ops.temporal_conv.triton_product import Layer, convolve
from d2kernels.ops.temporal_conv.triton_weight_gradient import (
    plain_weight_gradient,
    sum_parts,
    takes_plain_tiles,
    weight_gradient,
)

__all__ = ["specializations", "temporal_conv_backward", "temporal_conv_forward", "why_not"]
_CHUNK, _CHUNKS = 64, 256  # rows added in one program of the bias gradient, at least; programs, at most


def why_not(device: str, dtype: torch.dtype | None) -> str | None:
    if dtype in (None, torch.float32, torch.bfloat16, torch.float16):
        return None
    return f"its products accumulate in float32, which is too little for {dtype}"


@of_rows
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
    dropout: float,
    seed: Tensor | None,
    gap: int = 0,
    for_backward: bool = True,
) -> tuple[Tensor, Tensor]:
    total, c_out = x.shape[0], weight.shape[0]
    signs = negative_slope is not None and for_backward
    # Groups that end within a byte would share it: their flags are packed afterwards.
    straddles = c_out // groups % 8 != 0
    width = c_out if straddles else bits.width(c_out)
    sign = torch.empty((total if signs else 0, width), dtype=torch.uint8, device=x.device)
    if total == 0 or lengths.shape[0] == 0 or weight.numel() == 0:
        from d2kernels.ops.temporal_conv import reference

        return reference.temporal_conv_forward(
            x, weight, bias, offsets, lengths, dilation, groups, negative_slope, residual, dropout, seed, gap,
            for_backward,
        )
    with on_device(x):
        x, bias = rows_of(x), None if bias is None else bias.contiguous()
        out = convolve(
            x,
            by_tap(weight),
            Layer(c_out // groups, weight.shape[1], weight.shape[2], groups),
            bias,
            x if residual else None,
            offsets.contiguous(),
            lengths.contiguous(),
            dilation,
            negative_slope,
            sign if signs else None,
            dropout,
            seed,
            gap,
        )
        if straddles:
            sign = bits.pack(sign)
    return out, sign


@of_rows_backward
def temporal_conv_backward(
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
    total, c_out = grad.shape
    if total == 0 or lengths.shape[0] == 0 or weight.numel() == 0:
        from d2kernels.ops.temporal_conv import reference

        return reference.temporal_conv_backward(
            grad, x, weight, offsets, lengths, sign, dilation, groups, negative_slope, residual, dropout, seed,
            need_x, need_weight, need_bias,
        )
    grad_x, grad_w, grad_b = x.new_empty(0), weight.new_empty(0), weight.new_empty(0)
    with on_device(x):
        grad, x, n = rows_of(grad), rows_of(x), lengths.shape[0]
        offsets, lengths = offsets.contiguous(), lengths.contiguous()
        assert negative_slope is None or sign is not None, "the forward keeps the signs of an activation"
        kind = NO_SIGN if negative_slope is None else BITS
        # Products that transformed their operand on the way would do so once a tap and a tile, in registers. What a
        # gradient's gap rows hold is anything: where they count as zero rows, they are written.
        changes = kind != NO_SIGN or dropout > 0 or (gap > 0 and 90 <= device_of(x)[0] < 120)
        inner = torch.empty((total, c_out), dtype=grad.dtype, device=x.device) if changes else grad
        rows = cdiv(cdiv(total, _CHUNKS), _CHUNK) * _CHUNK
        sums = torch.empty((cdiv(total, rows), c_out), dtype=torch.float32, device=x.device)
        taps = weight.shape[2]
        plainly = need_weight and takes_plain_tiles(gap, inner, x, taps, dilation)
        reaches = need_weight and not plainly
        reach = torch.empty((2, total if reaches else 0), dtype=torch.int32, device=x.device).unbind()
        block = min(power(c_out), 128)
        bound(
            gradient_kernel,
            CHANNELS=c_out,
            GRAD_STRIDE=grad.stride(0),
            SIGN=kind,
            DROPOUT=dropout > 0,
            LEAST=threshold(dropout),
            WRITE=changes,
            REACH=reaches,
            STEPS=steps(n),
            BLOCK_R=16,
            BLOCK_C=block,
            num_warps=4,
        )(
            (sums.shape[0], cdiv(c_out, block)),
            grad,
            grad if sign is None or kind == NO_SIGN else sign.contiguous(),
            inner,
            sums,
            *reach,
            offsets,
            lengths,
            n,
            total,
            rows,
            negative_slope or 0.0,
            grad if seed is None else seed,
            1 / (1 - dropout),
        )
        if need_x:
            across = not repacked(x)
            grad_x = convolve(
                inner,
                by_tap(weight) if across else repack(dense(weight), groups, True),
                Layer(c_out // groups, weight.shape[1], weight.shape[2], groups, True, not across),
                None,
                grad if residual else None,
                offsets,
                lengths,
                dilation,
                None,
                None,
                dropout if residual else 0.0,
                seed,
                gap,
            )
        if need_weight:
            if plainly:
                grad_w = plain_weight_gradient(inner, x, offsets, lengths, weight, dilation, groups)
            else:
                grad_w = weight_gradient(inner, x, reach, weight, dilation, groups)
        if need_bias:
            grad_b = sum_parts(sums, torch.empty(c_out, dtype=weight.dtype, device=x.device))
    return grad_x, grad_w, grad_b
