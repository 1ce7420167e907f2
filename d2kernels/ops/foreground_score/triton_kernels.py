"""Triton kernels of foreground_score: a row's cosine in one read, its gradient, and the reference's."""

from __future__ import annotations

import triton
import triton.language as tl

from d2kernels.ops._triton import bounds_of


@triton.jit
def cosines(
    x, reference, inside, rows, width, x_stride,
    EPS: tl.constexpr, ACC: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Cosine and norm (ROWS,) of rows with the reference, and its norm; rows that are not inside are not read."""
    dots, squares = tl.zeros((ROWS,), ACC), tl.zeros((ROWS,), ACC)
    least = tl.full((1,), EPS, ACC)  # a bare constant would be rounded to float32
    whole = tl.zeros((BLOCK,), ACC)
    for block in range(0, tl.cdiv(width, BLOCK)):
        at = block * BLOCK + tl.arange(0, BLOCK)
        r = tl.load(reference + at, mask=at < width, other=0.0).to(ACC)
        v = tl.load(x + rows[:, None] * x_stride + at[None, :], mask=inside[:, None] & (at < width)[None, :], other=0.0)
        v = v.to(ACC)
        dots += tl.sum(v * r[None, :], 1)
        squares += tl.sum(v * v, 1)
        whole += r * r
    reference_norm, norm = tl.sqrt(tl.sum(whole, 0)), tl.sqrt(squares)
    return dots / (tl.maximum(reference_norm, least) * tl.maximum(norm, least)), norm, reference_norm


@triton.jit
def score(
    x, reference, offsets, lengths, out, n, total, width, x_stride,
    EPS: tl.constexpr, ACC: tl.constexpr, STEPS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    first, end = bounds_of(offsets, lengths, n, total, rows, STEPS)
    cosine, _, _ = cosines(x, reference, first < end, rows, width, x_stride, EPS, ACC, ROWS, BLOCK)
    value = tl.where(first < end, 0.5 * (1 - cosine), 0.0)
    tl.store(out + rows, value.to(out.dtype.element_ty), mask=rows < total)


@triton.jit
def differentiate(
    grad, x, reference, offsets, lengths, grad_x, along, back, n, total, width, x_stride,
    NEED_X: tl.constexpr, EPS: tl.constexpr, ACC: tl.constexpr, STEPS: tl.constexpr, ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """grad_x, and of each row along (total,), the factor of x in the reference's gradient, and back (total,)."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    first, end = bounds_of(offsets, lengths, n, total, rows, STEPS)
    inside = first < end
    cosine, norm, reference_norm = cosines(x, reference, inside, rows, width, x_stride, EPS, ACC, ROWS, BLOCK)
    least = tl.full((1,), EPS, ACC)
    half = -0.5 * tl.load(grad + rows, mask=inside, other=0.0).to(ACC)
    slope = half / tl.maximum(norm, least)
    tl.store(along + rows, slope, mask=rows < total)
    tl.store(back + rows, tl.where(inside, half * cosine, 0.0), mask=rows < total)
    if NEED_X:
        # eps replaces a small norm but is not differentiated; the norm's own gradient at 0 is 0.
        radial = tl.where(norm != 0, -slope * cosine / tl.where(norm != 0, norm, 1.0), 0.0)
        for block in range(0, tl.cdiv(width, BLOCK)):
            at = block * BLOCK + tl.arange(0, BLOCK)
            unit = tl.load(reference + at, mask=at < width, other=0.0).to(ACC) / tl.maximum(reference_norm, least)
            read = inside[:, None] & (at < width)[None, :]
            v = tl.load(x + rows[:, None] * x_stride + at[None, :], mask=read, other=0.0).to(ACC)
            made = slope[:, None] * unit[None, :] + radial[:, None] * v
            made = tl.where(inside[:, None], made, 0.0).to(grad_x.dtype.element_ty)
            live = (rows < total)[:, None] & (at < width)[None, :]
            tl.store(grad_x + rows[:, None] * width + at[None, :], made, mask=live)


@triton.jit
def weighted_parts(
    x, along, offsets, lengths, parts, n, total, width, x_stride, rows_per_split,
    ACC: tl.constexpr, STEPS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """parts (splits, width): Σ of along[t] x[t] over each split's rows."""
    split = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    begin = split * rows_per_split
    stop = tl.minimum(begin + rows_per_split, total)
    sums = tl.zeros((BLOCK,), ACC)
    for start in range(begin, stop, ROWS):
        rows = start + tl.arange(0, ROWS)
        first, end = bounds_of(offsets, lengths, n, total, rows, STEPS)
        inside = (first < end) & (rows < stop)
        weight = tl.load(along + rows, mask=inside, other=0.0)
        read = inside[:, None] & (at < width)[None, :]
        v = tl.load(x + rows[:, None] * x_stride + at[None, :], mask=read, other=0.0).to(ACC)
        sums += tl.sum(weight[:, None] * v, 0)
    tl.store(parts + split * width + at, sums, mask=at < width)
