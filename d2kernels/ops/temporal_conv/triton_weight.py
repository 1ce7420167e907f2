"""Kernels of temporal_conv's weight gradient: the transpose of its products, over rows."""

from __future__ import annotations

import triton
import triton.language as tl

from d2kernels.ops.temporal_conv.triton_tiles import product, reach


@triton.jit
def _tap(x, x_at, rows, before, after, tap, at, columns, TAPS, DILATION, X_STRIDE, C_IN):
    """(rows, columns) of x at one tap, zero outside each row's sequence."""
    shift = (tap - TAPS // 2) * DILATION
    inside = (before + shift >= 0) & (after >= shift) & (before >= 0)
    # Triton 3.9's interpreter makes whole numbers of a condition without a shape that meets one of rows.
    known = columns < tl.where(tap < TAPS, C_IN, 0)
    mask = inside[:, None] & known[None, :]
    return tl.load(x_at + ((at + shift) * X_STRIDE), mask=mask, other=0)


@triton.jit
def _store(acc, out, group, output, input_, C_IN: tl.constexpr, C_OUT: tl.constexpr, TAPS: tl.constexpr,
           FUSED: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):  # fmt: skip
    """A tile of one tap's sums to out[group, o, c, tap]; FUSED: they come from fused multiply-adds."""
    # One address, and places in the tile that are constants: addresses of their own would take more than the sums.
    out += ((group * C_OUT + output).to(tl.int64) * C_IN + input_) * TAPS
    o, c = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N)
    if FUSED:
        at = (o[:, None] * C_IN + c[None, :]) * TAPS
        known = (output + o < C_OUT)[:, None] & (input_ + c < C_IN)[None, :]
    else:
        # Lanes run along a tile's first dimension: transposed, they store inputs, which lie next to each other. Fused
        # multiply-adds would take the sums' layout from here, and twice the registers.
        at = (o[None, :] * C_IN + c[:, None]) * TAPS
        known = (input_ + c < C_IN)[:, None] & (output + o < C_OUT)[None, :]
        acc = tl.trans(acc)
    if C_IN % BLOCK_N or C_OUT % BLOCK_M:
        tl.store(out + at, acc.to(out.dtype.element_ty), mask=known)
    else:
        tl.store(out + at, acc.to(out.dtype.element_ty))


@triton.jit(do_not_specialize=["total", "split"])
def weight_gradient_kernel(
    inner,
    x,
    out,
    before_of,
    after_of,
    total,
    split,
    GROUPS: tl.constexpr,
    C_IN: tl.constexpr,
    C_OUT: tl.constexpr,
    TAPS: tl.constexpr,
    DILATION: tl.constexpr,
    INNER_STRIDE: tl.constexpr,
    X_STRIDE: tl.constexpr,
    TOGETHER: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """out[s, o, c, j] = Σ_r inner[r, o] x[r + (j − TAPS // 2) · DILATION, c] over the rows of split s.

    TOGETHER taps, 1 or 3, share each load of `inner`. Channels C_* per group.
    """
    tiles_n: tl.constexpr = (C_IN + BLOCK_N - 1) // BLOCK_N
    tiles_m: tl.constexpr = (C_OUT + BLOCK_M - 1) // BLOCK_M
    tile = tl.program_id(0)
    tap = tile // (tiles_m * tiles_n * GROUPS) * TOGETHER
    group = tile // (tiles_m * tiles_n) % GROUPS
    output, input_ = tile // tiles_n % tiles_m * BLOCK_M, tile % tiles_n * BLOCK_N
    outputs, inputs = output + tl.arange(0, BLOCK_M), input_ + tl.arange(0, BLOCK_N)
    start = tl.program_id(1).to(tl.int64) * split
    local = tl.arange(0, BLOCK_K)
    a_at = inner + local[:, None] * INNER_STRIDE + (group * C_OUT + outputs)[None, :]
    x_at = x + local[:, None] * X_STRIDE + (group * C_IN + inputs)[None, :]
    acc0 = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    if TOGETHER == 3:
        acc1 = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        acc2 = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for step in range(0, split, BLOCK_K):
        at = start + step
        rows = at + local
        exists = rows < total
        before = tl.load(before_of + rows, mask=exists, other=-1)
        after = tl.load(after_of + rows, mask=exists, other=-1)
        mask = (before >= 0)[:, None] & (outputs < C_OUT)[None, :]
        a = tl.trans(tl.load(a_at + at * INNER_STRIDE, mask=mask, other=0))
        b = _tap(x, x_at, rows, before, after, tap, at, inputs, TAPS, DILATION, X_STRIDE, C_IN)
        acc0 = product(a, b, acc0, PRECISION)
        if TOGETHER == 3:
            b = _tap(x, x_at, rows, before, after, tap + 1, at, inputs, TAPS, DILATION, X_STRIDE, C_IN)
            acc1 = product(a, b, acc1, PRECISION)
            b = _tap(x, x_at, rows, before, after, tap + 2, at, inputs, TAPS, DILATION, X_STRIDE, C_IN)
            acc2 = product(a, b, acc2, PRECISION)
    out += tl.program_id(1).to(tl.int64) * (GROUPS * C_OUT * C_IN * TAPS) + tap
    fused: tl.constexpr = PRECISION == "ieee" and x.dtype.element_ty == tl.float32
    _store(acc0, out, group, output, input_, C_IN, C_OUT, TAPS, fused, BLOCK_M, BLOCK_N)
    if TOGETHER == 3:
        _store(acc1, out + 1, group, output, input_, C_IN, C_OUT, TAPS, fused, BLOCK_M, BLOCK_N)
        _store(acc2, out + 2, group, output, input_, C_IN, C_OUT, TAPS, fused, BLOCK_M, BLOCK_N)


@triton.jit
def _tile_of(GROUPS: tl.constexpr, C_IN: tl.constexpr, C_OUT: tl.constexpr, TAPS: tl.constexpr, BLOCK_M: tl.constexpr,
             BLOCK_N: tl.constexpr):  # fmt: skip
    """Tap, group, first output and first input of a program; those at the same time share rows, and lines of `out`."""
    tiles_n: tl.constexpr = (C_IN + BLOCK_N - 1) // BLOCK_N
    tiles_m: tl.constexpr = (C_OUT + BLOCK_M - 1) // BLOCK_M
    tile = tl.program_id(0) // TAPS
    output, input_ = tile // tiles_n % tiles_m * BLOCK_M, tile % tiles_n * BLOCK_N
    return tl.program_id(0) % TAPS, tile // (tiles_m * tiles_n), output, input_


@triton.jit(do_not_specialize=["total", "split"])
def plain_weight_kernel(
    inner,
    x,
    out,
    broken,
    total,
    split,
    GROUPS: tl.constexpr,
    C_IN: tl.constexpr,
    C_OUT: tl.constexpr,
    TAPS: tl.constexpr,
    DILATION: tl.constexpr,
    TRANSPOSED: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """`weight_gradient_kernel` of one tap a program, where the gap rows of inner and x are zero and wide enough.

    Both are tensor descriptors, of (channels, rows) where TRANSPOSED. broken (programs,): whether a sum is NaN, as an
    infinite row makes it beside a gap row's zero: `mend_weight_kernel` takes those.
    """
    tap, group, output, input_ = _tile_of(GROUPS, C_IN, C_OUT, TAPS, BLOCK_M, BLOCK_N)
    shift = (tap - TAPS // 2) * DILATION
    start = tl.program_id(1) * split
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for at in range(start, tl.minimum(start + split, total), BLOCK_K):
        if TRANSPOSED:
            a = inner.load([group * C_OUT + output, at])
            b = x.load([group * C_IN + input_, at + shift]).T
        else:
            a = inner.load([at, group * C_OUT + output]).T
            b = x.load([at + shift, group * C_IN + input_])
        acc = product(a, b, acc, PRECISION)
    nan = tl.max(tl.max((acc != acc).to(tl.int32), 1), 0)
    tl.store(broken + tl.program_id(1) * tl.num_programs(0) + tl.program_id(0), nan)
    out += tl.program_id(1).to(tl.int64) * (GROUPS * C_OUT * C_IN * TAPS) + tap
    _store(acc, out, group, output, input_, C_IN, C_OUT, TAPS, False, BLOCK_M, BLOCK_N)


@triton.jit(do_not_specialize=["n", "total", "split"])
def mend_weight_kernel(
    inner,
    x,
    out,
    broken,
    offsets,
    lengths,
    n,
    total,
    split,
    GROUPS: tl.constexpr,
    C_IN: tl.constexpr,
    C_OUT: tl.constexpr,
    TAPS: tl.constexpr,
    DILATION: tl.constexpr,
    INNER_STRIDE: tl.constexpr,
    X_STRIDE: tl.constexpr,
    PRECISION: tl.constexpr,
    STEPS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """The tiles of `plain_weight_kernel` that are broken, again by masks; its grid."""
    if tl.load(broken + tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)) != 0:
        tap, group, output, input_ = _tile_of(GROUPS, C_IN, C_OUT, TAPS, BLOCK_M, BLOCK_N)
        outputs, inputs = output + tl.arange(0, BLOCK_M), input_ + tl.arange(0, BLOCK_N)
        start = tl.program_id(1).to(tl.int64) * split
        local = tl.arange(0, BLOCK_K)
        a_at = inner + local[:, None] * INNER_STRIDE + (group * C_OUT + outputs)[None, :]
        x_at = x + local[:, None] * X_STRIDE + (group * C_IN + inputs)[None, :]
        acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        for at in tl.range(start, tl.minimum(start + split, total), BLOCK_K, num_stages=1):
            before, after = reach(offsets, lengths, n, total, at + local, STEPS)
            mask = (before >= 0)[:, None] & (outputs < C_OUT)[None, :]
            a = tl.load(a_at + at * INNER_STRIDE, mask=mask, other=0)
            b = _tap(x, x_at, at + local, before, after, tap, at, inputs, TAPS, DILATION, X_STRIDE, C_IN)
            acc = product(tl.trans(a), b, acc, PRECISION)
        out += tl.program_id(1).to(tl.int64) * (GROUPS * C_OUT * C_IN * TAPS) + tap
        _store(acc, out, group, output, input_, C_IN, C_OUT, TAPS, False, BLOCK_M, BLOCK_N)


@triton.jit(do_not_specialize=["parts", "size"])
def sum_kernel(part, out, parts, size, BLOCK_P: tl.constexpr, BLOCK_S: tl.constexpr):
    """out[i] = Σ_p part[p, i], in one order."""
    place = tl.program_id(0).to(tl.int64) * BLOCK_S + tl.arange(0, BLOCK_S)
    acc = tl.zeros((BLOCK_S,), tl.float32)
    for first in range(0, parts, BLOCK_P):
        p = first + tl.arange(0, BLOCK_P)
        mask = (p < parts)[:, None] & (place < size)[None, :]
        acc += tl.sum(tl.load(part + p.to(tl.int64)[:, None] * size + place[None, :], mask=mask, other=0), 0)
    tl.store(out + place, acc.to(out.dtype.element_ty), mask=place < size)
