"""1-D convolution along time that never mixes sequences and never computes padding."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from d2kernels._arguments import flag, number, whole
from d2kernels.ops._library import apply, autocasts, once
from d2kernels.ops.temporal_conv import schema
from d2kernels.ops.temporal_conv.dropout import placed
from d2kernels.ragged import Ragged, take

_FARTHEST = 1 << 40  # rows; no sequence is as long, and no product with a place in the kernel wraps


class TemporalConv(torch.autograd.Function):
    inputs = 3
    forward = staticmethod(schema.temporal_conv)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        x, weight, _, offsets, lengths, _, _, slope, _, _, seed, ctx.gap, _ = inputs
        ctx.options = inputs[5:10]
        _, sign = output
        if sign is not None:
            ctx.mark_non_differentiable(sign)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, weight, offsets, lengths, None if slope is None else sign, seed)

    @staticmethod
    @once
    def backward(ctx: Any, grad: Tensor | None, _: None) -> tuple:
        if grad is None:
            return (None,) * 13
        x, weight, offsets, lengths, sign, seed = ctx.saved_tensors
        need_x, need_w, need_b = ctx.needs_input_grad[:3]
        grad_x, grad_w, grad_b = schema.temporal_conv_backward(
            grad, x, weight, offsets, lengths, sign, *ctx.options, seed, need_x, need_w, need_b, ctx.gap
        )
        rest = (None,) * 10
        return grad_x if need_x else None, grad_w if need_w else None, grad_b if need_b else None, *rest


def _check(x: Tensor, weight: Tensor, bias: Tensor | None, groups: int, residual: bool, dense: bool) -> None:
    if x.dim() != (3 if dense else 2) or not x.is_floating_point():
        got = tuple((x.flatten(0, 1) if dense else x).shape)
        raise ValueError(f"temporal_conv: x must be float rows (total, c_in), got {x.dtype} {got}")
    shape = weight.shape
    if len(shape) != 3 or shape[2] % 2 == 0 or shape[1] == 0:
        raise ValueError(
            f"temporal_conv: weight must be (c_out, c_in / groups, k), c_in not 0 and k odd, got {tuple(shape)}"
        )
    dtype, c_out, c_in = x.dtype, shape[0], shape[1] * groups
    if weight.dtype != dtype:
        raise TypeError(f"temporal_conv: weight must be {dtype} as x, got {weight.dtype}")
    if bias is not None and bias.dtype != dtype:
        raise TypeError(f"temporal_conv: bias must be {dtype} as x, got {bias.dtype}")
    if x.shape[-1] != c_in:
        raise ValueError(
            f"temporal_conv: x has {x.shape[-1]} channels, but weight {tuple(shape)} with {groups} groups takes {c_in}"
        )
    if c_out % groups:
        raise ValueError(f"temporal_conv: {groups} groups do not divide weight's {c_out} output channels")
    if bias is not None and bias.shape != (c_out,):
        raise ValueError(f"temporal_conv: bias must be ({c_out},), got {tuple(bias.shape)}")
    if residual and c_in != c_out:
        raise ValueError(f"temporal_conv: residual needs as many channels out as in, got {c_in} in and {c_out} out")


def _seed(x: Tensor, dropout: float, seed: Tensor | None, first_row: Tensor | None) -> Tensor | None:
    for name, given in (("seed", seed), ("first_row", first_row)):
        if given is None:
            continue
        if not isinstance(given, Tensor):
            kind = type(given).__name__
            raise TypeError(f"temporal_conv: {name} must be a tensor (1,) of torch.int64, got {kind} {given!r}")
        if given.dtype != torch.int64 or given.shape != (1,):
            raise ValueError(f"temporal_conv: {name} must be (1,) torch.int64, got {tuple(given.shape)} {given.dtype}")
    if not dropout:
        return None
    if seed is None:
        seed = torch.randint(-(1 << 63), (1 << 63) - 1, (1,), device=x.device)
    return placed(seed, first_row)


def temporal_conv(
    x: Tensor | Ragged,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    dilation: int = 1,
    groups: int = 1,
    negative_slope: float | None = None,
    residual: bool = False,
    dropout: float = 0.0,
    seed: Tensor | None = None,
    first_row: Tensor | None = None,
    offsets: Tensor | None = None,
    lengths: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor | Ragged:
    """Convolution along time, each sequence zero-padded to keep its length (a TC layer of Sec. 3).

    out[t] = Σ_j W[:, :, j] x[t + (j − ⌊k/2⌋)·dilation] + bias, then LeakyReLU, then + x, then dropout; as nn.Conv1d on
    every sequence alone with padding dilation·(k − 1)/2.

    Args:
        x: (total, c_in) rows as Ragged or packed, or dense (n, s, c_in); float. Time comes before channels.
        weight: (c_out, c_in / groups, k) as nn.Conv1d holds it, k odd.
        bias: (c_out,) or None.
        dilation: rows between taps.
        groups: blocks of channels that are convolved apart.
        negative_slope: of a LeakyReLU on the result; None for none.
        residual: adds x to the result; needs c_in == c_out.
        dropout: probability p in [0, 1) with which an element becomes zero; the others are divided by 1 − p. No mask is
            kept: the backward makes it again from the seed.
        seed: (1,) int64 on x's device, drawn from torch's generator when None. It and an element's place in the batch's
            rows, padding counted, say whether the element is dropped, on every backend.
        first_row: (1,) int64 on x's device, where the batch is a part of a larger one: which of its rows the first here
            is. The parts drop what the whole batch would with the same seed.
        offsets, lengths, mask: see `Ragged`; dense rows take exactly one of lengths and mask.

    Under autocast, x, weight and bias are cast as F.conv1d casts them. On a CPU with AVX2, D2K_FLOAT32=winograd in the
    environment takes float32 layers of kernel 3, dilation 1 and 64 channels a group or more by Winograd's F(4, 3):
    faster, at about twice the rounding, which is relative to the largest of the six rows about a tile of 4 of the same
    sequence. On a GPU, float32 products are full float32 unless torch.backends.cuda.matmul.fp32_precision (or
    allow_tf32) says tf32; the weights are read without a copy where they lie by tap, as
    `weight.permute(2, 0, 1).contiguous().permute(1, 2, 0)` does.

    Returns:
        (total, c_out) in the form and dtype of x, accumulated in float32 or better; gap rows are zero.

    Raises:
        ValueError, TypeError: an argument of the wrong shape, dtype or value.
    """
    form = take("temporal_conv", x, offsets, lengths, mask, flat=False)
    rows = form.values
    if not isinstance(weight, Tensor):
        raise TypeError(f"temporal_conv: weight must be a tensor, got {type(weight).__name__}")
    if bias is not None and not isinstance(bias, Tensor):
        raise TypeError(f"temporal_conv: bias must be a tensor, got {type(bias).__name__}")
    if autocasts(rows):
        dtype = torch.get_autocast_dtype(rows.device.type)
        rows, weight = rows.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    dilation = min(whole("temporal_conv", "dilation", dilation), _FARTHEST)
    groups = whole("temporal_conv", "groups", groups)
    residual = flag("temporal_conv", "residual", residual)
    slope = None if negative_slope is None else number("temporal_conv", "negative_slope", negative_slope)
    dropout = number("temporal_conv", "dropout", dropout, least=0, below=1)
    _check(rows, weight, bias, groups, residual, form.dense is not None)
    if dropout or seed is not None or first_row is not None:
        seed = _seed(rows, dropout, seed, first_row)
    gap = 0 if form.ragged is None else form.ragged.gap
    options = (dilation, groups, slope, residual, dropout, seed, gap)
    out, _ = apply(TemporalConv, rows, weight, bias, form.offsets, form.lengths, *options, keeps=True)
    return out if form.ragged is None else form.restore(out)
