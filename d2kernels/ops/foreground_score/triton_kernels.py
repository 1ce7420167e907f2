"""Triton kernels of foreground_score: a row's cosine in one read, its gradient, and the reference's."""

from __future__ import annotations

import triton
import triton.language as tl

from d2kernels.ops._triton import bounds_of


@triton.jit
def sums_of(
    x, reference, inside, rows, width, x_stride, scale, reference_scale,
    SCALED: tl.constexpr, ACC: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Dot products with the reference (ROWS,), squared norms of the rows (ROWS,) and of the reference (1,)."""
    dots, squares = tl.zeros((ROWS,), ACC), tl.zeros((ROWS,), ACC)
    whole = tl.zeros((BLOCK,), ACC)
    for block in range(0, tl.cdiv(width, BLOCK)):
        at = block * BLOCK + tl.arange(0, BLOCK)
        r = tl.load(reference + at, mask=at < width, other=0.0).to(ACC)
        v = tl.load(x + rows[:, None] * x_stride + at[None, :], mask=inside[:, None] & (at < width)[None, :], other=0.0)
        v = v.to(ACC)
        if SCALED:
            r, v = r * reference_scale, v * scale[:, None]
        dots += tl.sum(v * r[None, :], 1)
        squares += tl.sum(v * v, 1)
        whole += r * r
    return dots, squares, tl.sum(whole[None, :], 1)


@triton.jit
def scale_of(squares, inside, EPS: tl.constexpr, ACC: tl.constexpr):
    """1, or the power of two by which rows are multiplied whose squares left the range of ACC."""
    wide: tl.constexpr = tl.float64 == ACC
    # Squares past `high` are summed again by 1 / down; below `low` likewise, but where eps replaces such norms anyway.
    high = tl.full(squares.shape, 2.0**800 if wide else 2.0**100, ACC)
    down = tl.full(squares.shape, 2.0**-600 if wide else 2.0**-90, ACC)
    low = tl.full(squares.shape, 2.0**-800 if wide else 2.0**-80, ACC)
    up = tl.full(squares.shape, 2.0**600 if wide else 2.0**90, ACC)
    one = tl.full(squares.shape, 1.0, ACC)
    scale = tl.where(squares > high, down, one)
    negligible: tl.constexpr = 2.0**-400 if wide else 2.0**-40
    if negligible > EPS:
        scale = tl.where((squares < low) & inside, up, scale)
    return scale


@triton.jit
def cosines(
    x, reference, inside, rows, width, x_stride,
    EPS: tl.constexpr, ACC: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Of rows: cosine with the reference, scale, and norm times scale, raw and at least eps, (ROWS,) each.

    And the reference's scale and its norm times that, at least eps, (1,). Rows that are not inside are not read.
    """
    none, one = tl.full((ROWS,), 1.0, ACC), tl.full((1,), 1.0, ACC)
    dots, squares, whole = sums_of(
        x, reference, inside, rows, width, x_stride, none, one, False, ACC, ROWS, BLOCK
    )  # fmt: skip
    scale, reference_scale = scale_of(squares, inside, EPS, ACC), scale_of(whole, whole >= 0, EPS, ACC)
    # Rare: the rows come from the cache a second time.
    if tl.max((scale != 1).to(tl.int32), 0) + tl.max((reference_scale != 1).to(tl.int32), 0) > 0:
        dots, squares, whole = sums_of(
            x, reference, inside, rows, width, x_stride, scale, reference_scale, True, ACC, ROWS, BLOCK
        )  # fmt: skip
    least = tl.full((1,), EPS, ACC)  # a bare constant would be rounded to float32
    norm = tl.sqrt(squares)
    floor, reference_floor = tl.maximum(norm, least * scale), tl.maximum(tl.sqrt(whole), least * reference_scale)
    return dots / (reference_floor * floor), scale, norm, floor, reference_scale, reference_floor


@triton.jit(do_not_specialize=["n", "total"])
def score(
    x, reference, offsets, lengths, out, n, total, width, x_stride,
    EPS: tl.constexpr, ACC: tl.constexpr, STEPS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    first, end = bounds_of(offsets, lengths, n, total, rows, STEPS)
    cosine, _, _, _, _, _ = cosines(x, reference, first < end, rows, width, x_stride, EPS, ACC, ROWS, BLOCK)
    value = tl.where(first < end, 0.5 * (1 - cosine), 0.0)
    tl.store(out + rows, value.to(out.dtype.element_ty), mask=rows < total)


@triton.jit(do_not_specialize=["n", "total"])
def differentiate(
    grad, x, reference, offsets, lengths, grad_x, along, scales, back, n, total, width, x_stride,
    NEED_X: tl.constexpr, EPS: tl.constexpr, ACC: tl.constexpr, STEPS: tl.constexpr, ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """grad_x, and of each row back, and along · scales: the factor of x in the reference's gradient; (total,) each."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    first, end = bounds_of(offsets, lengths, n, total, rows, STEPS)
    inside = first < end
    cosine, scale, norm, floor, reference_scale, reference_floor = cosines(
        x, reference, inside, rows, width, x_stride, EPS, ACC, ROWS, BLOCK
    )
    half = -0.5 * tl.load(grad + rows, mask=inside, other=0.0).to(ACC)
    slope = half / floor
    tl.store(along + rows, slope, mask=rows < total)
    tl.store(scales + rows, scale, mask=rows < total)
    tl.store(back + rows, tl.where(inside, half * cosine, 0.0), mask=rows < total)
    if NEED_X:
        slope *= scale
        # eps replaces a small norm but is not differentiated; the norm's own gradient at 0 is 0.
        radial = tl.where(norm != 0, -slope * cosine / tl.where(norm != 0, norm, 1.0), 0.0)
        for block in range(0, tl.cdiv(width, BLOCK)):
            at = block * BLOCK + tl.arange(0, BLOCK)
            unit = tl.load(reference + at, mask=at < width, other=0.0).to(ACC) * reference_scale / reference_floor
            read = inside[:, None] & (at < width)[None, :]
            v = tl.load(x + rows[:, None] * x_stride + at[None, :], mask=read, other=0.0).to(ACC)
            made = slope[:, None] * unit[None, :] + radial[:, None] * (v * scale[:, None])
            made = tl.where(inside[:, None], made, 0.0).to(grad_x.dtype.element_ty)
            live = (rows < total)[:, None] & (at < width)[None, :]
            tl.store(grad_x + rows[:, None] * width + at[None, :], made, mask=live)


@triton.jit(do_not_specialize=["n", "total", "rows_per_split"])
def weighted_parts(
    x, along, scales, offsets, lengths, parts, n, total, width, x_stride, rows_per_split,
    ACC: tl.constexpr, STEPS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """parts (splits, width): Σ of along[t] scales[t] x[t] over each split's rows."""
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
        scale = tl.load(scales + rows, mask=inside, other=0.0)
        read = inside[:, None] & (at < width)[None, :]
        v = tl.load(x + rows[:, None] * x_stride + at[None, :], mask=read, other=0.0).to(ACC)
        sums += tl.sum(weight[:, None] * (v * scale[:, None]), 0)
    tl.store(parts + split * width + at, sums, mask=at < width)
