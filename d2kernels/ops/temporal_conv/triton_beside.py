"""Kernels beside temporal_conv's products: the gradient before the activation, and weights by tap."""

from __future__ import annotations

import triton
import triton.language as tl

from d2kernels.ops.temporal_conv.triton_tiles import kept_of, reach


@triton.jit(do_not_specialize=["n", "total", "chunk"])
def gradient_kernel(
    grad,
    sign,
    inner,
    sums,
    before_of,
    after_of,
    offsets,
    lengths,
    n,
    total,
    chunk,
    slope,
    seed,
    scale,
    CHANNELS: tl.constexpr,
    GRAD_STRIDE: tl.constexpr,
    SIGN: tl.constexpr,
    DROPOUT: tl.constexpr,
    LEAST: tl.constexpr,
    WRITE: tl.constexpr,
    REACH: tl.constexpr,
    STEPS: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """The gradient before the activation, its sum over each chunk of rows, and every row's reach.

    SIGN: 0 no activation, 1 by packed bits. `inner`, zero on gap rows, is written where
    WRITE, `before_of` and `after_of` where REACH.
    """
    start = tl.program_id(0).to(tl.int64) * chunk
    columns = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    known = (columns < CHANNELS)[None, :]
    acc = tl.zeros((BLOCK_C,), tl.float32)
    for at in range(0, chunk, BLOCK_R):
        rows = start + at + tl.arange(0, BLOCK_R)
        before, after = reach(offsets, lengths, n, total, rows, STEPS)
        valid = (before >= 0)[:, None]
        g = tl.load(grad + rows[:, None] * GRAD_STRIDE + columns[None, :], mask=valid & known, other=0).to(tl.float32)
        if DROPOUT:
            kept = kept_of(seed, rows, tl.program_id(1) * BLOCK_C, CHANNELS, BLOCK_C >= 4, LEAST, BLOCK_R, BLOCK_C)
            g = tl.where(kept, g * scale, 0)
        if SIGN == 1:
            byte_at = sign + rows[:, None] * ((CHANNELS + 7) // 8) + (columns // 8)[None, :]
            byte = tl.load(byte_at, mask=valid & known, other=0).to(tl.int32)
            g = tl.where(((byte >> (columns % 8)[None, :]) & 1) != 0, g, g * slope)
        if WRITE:
            rounded = g.to(inner.dtype.element_ty)
            exists = (rows < total)[:, None] & known
            tl.store(inner + rows[:, None] * CHANNELS + columns[None, :], rounded, mask=exists)
            g = rounded.to(tl.float32)
        acc += tl.sum(g, 0)
        if REACH and tl.program_id(1) == 0:
            tl.store(before_of + rows, before, mask=rows < total)
            tl.store(after_of + rows, after, mask=rows < total)
    tl.store(sums + tl.program_id(0).to(tl.int64) * CHANNELS + columns, acc, mask=columns < CHANNELS)


@triton.jit
def repack_kernel(
    weight,
    out,
    OUTER: tl.constexpr,
    INNER: tl.constexpr,
    TAPS: tl.constexpr,
    W_GROUP: tl.constexpr,
    W_OUTER: tl.constexpr,
    W_INNER: tl.constexpr,
    W_TAP: tl.constexpr,
    OUT_OUTER: tl.constexpr,
    OUT_INNER: tl.constexpr,
    OUT_TAP: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_I: tl.constexpr,
):
    """out[j, o, c] = weight[o, c, j] of each group, by the strides of both: read in lines, written in lines."""
    tiles: tl.constexpr = (INNER + BLOCK_I - 1) // BLOCK_I
    group = tl.program_id(1).to(tl.int64)
    outer = (tl.program_id(0) // tiles * BLOCK_O + tl.arange(0, BLOCK_O)).to(tl.int64)[:, None, None]
    inner = (tl.program_id(0) % tiles * BLOCK_I + tl.arange(0, BLOCK_I)).to(tl.int64)[None, :, None]
    tap = tl.arange(0, WIDTH)[None, None, :]
    known = (outer < OUTER) & (inner < INNER) & (tap < TAPS)
    value = tl.load(weight + group * W_GROUP + outer * W_OUTER + inner * W_INNER + tap * W_TAP, mask=known)
    at = out + group * (OUTER * INNER) + outer * OUT_OUTER + inner * OUT_INNER + tap * OUT_TAP
    tl.store(at, value, mask=known)


@triton.jit(do_not_specialize=["total"])
def transpose_kernel(
    x,
    out,
    total,
    stride,
    CHANNELS: tl.constexpr,
    X_STRIDE: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """out[c, r] = x[r, c], rows of out `stride` apart."""
    rows = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    columns = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    mask = (rows < total)[:, None] & (columns < CHANNELS)[None, :]
    value = tl.load(x + rows[:, None] * X_STRIDE + columns[None, :], mask=mask)
    tl.store(out + columns.to(tl.int64)[:, None] * stride + rows[None, :], tl.trans(value), mask=tl.trans(mask))
