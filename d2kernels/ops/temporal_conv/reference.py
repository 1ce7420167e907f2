"""temporal_conv in plain PyTorch: one product per group over gathered taps, no padding computed."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from d2kernels.ops._rows import accumulation_dtype, rows
from d2kernels.ops.temporal_conv import bits
from d2kernels.ops.temporal_conv.dropout import drop
from d2kernels.ops.temporal_conv.schema import of_rows, of_rows_backward


def _taps(x: Tensor, offsets: Tensor, lengths: Tensor, kernel: int, dilation: int, groups: int) -> Tensor:
    """(groups, total, kernel · c / groups): each row's taps, zero outside its sequence."""
    total, channels = x.shape
    sequence, place, valid = rows(offsets, lengths, total)
    row = torch.arange(total, device=x.device)
    end = lengths[sequence] if lengths.shape[0] else torch.zeros_like(row)
    parts = []
    for j in range(kernel):
        shift = (j - kernel // 2) * dilation
        inside = valid & (place + shift >= 0) & (place + shift < end)
        shifted = x if shift == 0 else x[(row + shift).clamp(0, max(total - 1, 0))]
        # where, not a product: gap rows may hold NaN.
        parts.append(torch.where(inside[:, None], shifted, 0).view(total, groups, channels // groups))
    return torch.cat(parts, dim=2).transpose(0, 1)


def _matrix(weight: Tensor, groups: int) -> Tensor:
    """(groups, kernel · c_in / groups, c_out / groups) of nn.Conv1d's (c_out, c_in / groups, kernel)."""
    c_out, c_in, kernel = weight.shape
    by_group = weight.view(groups, c_out // groups, c_in, kernel).permute(0, 3, 2, 1)
    return by_group.reshape(groups, kernel * c_in, c_out // groups)


def grouped_transpose(weight: Tensor, groups: int) -> Tensor:
    """Weights whose convolution is the gradient's way back: the kernel flipped, in and out exchanged."""
    c_out, c_in, kernel = weight.shape
    flipped = weight.view(groups, c_out // groups, c_in, kernel).transpose(1, 2).flip(3)
    return flipped.reshape(groups * c_in, c_out // groups, kernel)


def _linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, offsets: Tensor, lengths: Tensor, dilation: int, groups: int
) -> Tensor:
    taps = _taps(x, offsets, lengths, weight.shape[2], dilation, groups)
    out = torch.bmm(taps, _matrix(weight, groups)).transpose(0, 1).reshape(x.shape[0], weight.shape[0])
    return out if bias is None else out + bias


def temporal_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    offsets: Tensor,
    lengths: Tensor,
    dilation: int = 1,
    groups: int = 1,
    negative_slope: float | None = None,
    residual: bool = False,
    dropout: float = 0.0,
    seed: Tensor | None = None,
) -> Tensor:
    """(total, c_out), differentiable; zero on gap rows."""
    y = _linear(x, weight, bias, offsets, lengths, dilation, groups)
    if negative_slope is not None:
        y = F.leaky_relu(y, negative_slope)
    if residual:
        y = y + x
    return torch.where(rows(offsets, lengths, x.shape[0]).valid[:, None], drop(y, dropout, seed), 0)


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
    y = _linear(x, weight, bias, offsets, lengths, dilation, groups)
    sign = bits.pack((y if negative_slope is not None and for_backward else y[:0]) > 0)
    if negative_slope is not None:
        y = F.leaky_relu(y, negative_slope)
    if residual:
        y = y + x
    valid = rows(offsets, lengths, x.shape[0]).valid
    return torch.where(valid[:, None], drop(y, dropout, seed), 0), sign


def weight_gradient(
    inner: Tensor, x: Tensor, weight: Tensor, offsets: Tensor, lengths: Tensor, dilation: int, groups: int
) -> Tensor:
    """(c_out, c_in, k): inner (total, c_out), the gradient before bias and activation, against x's taps."""
    c_out, c_in, kernel = weight.shape
    taps = _taps(x, offsets, lengths, kernel, dilation, groups)
    by_group = inner.reshape(len(x), groups, c_out // groups).transpose(0, 1)
    product = torch.bmm(taps.transpose(1, 2), by_group).view(groups, kernel, c_in, c_out // groups)
    return product.permute(0, 3, 2, 1).reshape(c_out, c_in, kernel).contiguous()


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
    """Gradients of x, weight and bias; `sign` as schema.py says."""
    c_out = weight.shape[0]
    valid = rows(offsets, lengths, x.shape[0]).valid
    grad = drop(torch.where(valid[:, None], grad, 0), dropout, seed)
    inner = grad
    if negative_slope is not None:
        assert sign is not None  # an activation has one
        inner = torch.where(bits.unpack(sign, c_out), grad, grad * negative_slope)
    grad_x, grad_w, grad_b = x.new_empty(0), weight.new_empty(0), weight.new_empty(0)
    if need_x:
        grad_x = _linear(inner, grouped_transpose(weight, groups), None, offsets, lengths, dilation, groups)
        if residual:
            grad_x = grad_x + grad
        grad_x = torch.where(valid[:, None], grad_x, 0)
    if need_weight:
        grad_w = weight_gradient(inner, x, weight, offsets, lengths, dilation, groups)
    if need_bias:
        grad_b = inner.sum(0, dtype=accumulation_dtype(inner.dtype)).to(weight.dtype)
    return grad_x, grad_w, grad_b
