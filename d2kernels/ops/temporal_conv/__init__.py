"""1-D convolution along time that never mixes sequences and never computes padding."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from d2kernels._arguments import flag, number, whole
from d2kernels.ops._library import apply, once
from d2kernels.ops.temporal_conv import schema
from d2kernels.ops.temporal_conv.dropout import placed
from d2kernels.ragged import Ragged, take

_FARTHEST = 1 << 40  # rows; no sequence is as long, and no product with a place in the kernel wraps


class TemporalConv(torch.autograd.Function):
    @staticmethod
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
        gap: int,
    ) -> tuple[Tensor, Tensor]:
        return schema.temporal_conv(
            x, weight, bias, offsets, lengths, dilation, groups, negative_slope, residual, dropout, seed, gap
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        x, weight, bias, offsets, lengths, *ctx.options, seed, ctx.gap = inputs
        out, sign = output
        ctx.mark_non_differentiable(sign)
        ctx.set_materialize_grads(False)
        ctx.has_bias = bias is not None
        # Without residual the output's sign is the activation's branch.
        slope, residual, _ = ctx.options[2:]
        from_output = slope is not None and not schema.needs_sign(slope, residual)
        ctx.save_for_backward(x, weight, offsets, lengths, out if from_output else sign, seed)

    @staticmethod
    @once
    def backward(ctx: Any, grad: Tensor | None, _: None) -> tuple:
        if grad is None:
            return (None,) * 12
        x, weight, offsets, lengths, sign, seed = ctx.saved_tensors
        need = ctx.needs_input_grad
        grads = schema.temporal_conv_backward(
            grad, x, weight, offsets, lengths, sign, *ctx.options, seed, need[0], need[1] or need[2], ctx.gap
        )
        grad_x, grad_w, grad_b = (g if n else None for g, n in zip(grads, need, strict=False))
        return (grad_x, grad_w, grad_b if ctx.has_bias else None) + (None,) * 9


def _check(x: Tensor, weight: Tensor, bias: Tensor | None, groups: int, residual: bool) -> None:
    if x.dim() != 2 or not x.is_floating_point():
        raise ValueError(f"temporal_conv: x must be float rows (total, c_in), got {x.dtype} {tuple(x.shape)}")
    if weight.dim() != 3 or weight.shape[2] % 2 == 0 or weight.shape[1] == 0:
        raise ValueError(
            f"temporal_conv: weight must be (c_out, c_in / groups, k), c_in not 0 and k odd, got {tuple(weight.shape)}"
        )
    for name, p in (("weight", weight), ("bias", bias)):
        if p is not None and p.dtype != x.dtype:
            raise TypeError(f"temporal_conv: {name} must be {x.dtype} as x, got {p.dtype}")
    c_out, c_in = weight.shape[0], weight.shape[1] * groups
    if x.shape[1] != c_in:
        raise ValueError(
            f"temporal_conv: x has {x.shape[1]} channels, but weight {tuple(weight.shape)} with {groups} groups "
            f"takes {c_in}"
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
    form = take("temporal_conv", x, offsets, lengths, mask)
    rows = form.values
    for name, p in (("weight", weight), ("bias", bias)):
        if not isinstance(p, Tensor) and not (p is None and name == "bias"):
            raise TypeError(f"temporal_conv: {name} must be a tensor, got {type(p).__name__}")
    kind = rows.device.type
    if kind != "meta" and torch.is_autocast_enabled(kind) and rows.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(kind)
        rows, weight = rows.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    dilation = min(whole("temporal_conv", "dilation", dilation), _FARTHEST)
    groups = whole("temporal_conv", "groups", groups)
    residual = flag("temporal_conv", "residual", residual)
    slope = None if negative_slope is None else number("temporal_conv", "negative_slope", negative_slope)
    dropout = number("temporal_conv", "dropout", dropout, least=0, below=1)
    _check(rows, weight, bias, groups, residual)
    seed = _seed(rows, dropout, seed, first_row)
    options = (dilation, groups, slope, residual, dropout, seed, form.gap)
    out, _ = apply(TemporalConv, rows, weight, bias, form.offsets, form.lengths, *options)
    return form.restore(out)
