"""Kernels of temporal_conv: a product over taps, its transpose over rows, and what the two share."""

from __future__ import annotations

import triton
import triton.language as tl

from d2kernels.ops._triton import INTERPRETED, bounds_of
from d2kernels.ops.temporal_conv.dropout import ROUNDS

ROUNDS_OF = tl.constexpr(ROUNDS)
WIDEN = tl.constexpr(INTERPRETED)  # the interpreter multiplies bfloat16's bits as whole numbers


@triton.jit
def _product(a, b, acc, PRECISION: tl.constexpr):
    if WIDEN:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, acc, input_precision=PRECISION)


@triton.jit
def _reach(offsets, lengths, n, total, rows, STEPS: tl.constexpr):
    """Rows of its own sequence before and after each row, −1 on gap rows; int32, cut at 2³⁰."""
    first, end = bounds_of(offsets, lengths, n, total, rows, STEPS)
    inside = end > 0
    before = tl.where(inside, tl.minimum(rows - first, 1 << 30), -1)
    after = tl.where(inside, tl.minimum(end - 1 - rows, 1 << 30), -1)
    return before.to(tl.int32), after.to(tl.int32)


@triton.jit
def _kept(seed, rows, first, CHANNELS: tl.constexpr, BLOCKS: tl.constexpr, LEAST: tl.constexpr,
          BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):  # fmt: skip
    """(BLOCK_M, BLOCK_N) of dropout.py's mask from channel `first` on; BLOCKS: `first` and BLOCK_N are fours."""
    number, before = tl.load(seed), tl.load(seed + 1)
    at = (rows + before)[:, None] * ((CHANNELS + 3) // 4)
    if BLOCKS:
        counter = at + (first // 4 + tl.arange(0, BLOCK_N // 4))[None, :]
        a, b, c, d = tl.randint4x(number, counter, ROUNDS_OF)
        a, b = (a.to(tl.uint32) >= LEAST).to(tl.int8), (b.to(tl.uint32) >= LEAST).to(tl.int8)
        c, d = (c.to(tl.uint32) >= LEAST).to(tl.int8), (d.to(tl.uint32) >= LEAST).to(tl.int8)
        return tl.join(tl.join(a, c), tl.join(b, d)).reshape(BLOCK_M, BLOCK_N) != 0
    else:
        channel = first + tl.arange(0, BLOCK_N)
        a, b, c, d = tl.randint4x(number, at + (channel // 4)[None, :], ROUNDS_OF)
        word = (channel % 4)[None, :]
        low = tl.where(word == 0, a.to(tl.uint32), b.to(tl.uint32))
        high = tl.where(word == 2, c.to(tl.uint32), d.to(tl.uint32))
        return tl.where(word < 2, low, high) >= LEAST


@triton.jit
def _half(x, UPPER: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """Columns of the lower or the upper half of x (BLOCK_M, BLOCK_N)."""
    low, high = x.reshape(BLOCK_M, 2, BLOCK_N // 2).permute(0, 2, 1).split()
    return high if UPPER else low


@triton.jit
def _finish(
    acc,
    bias,
    residual,
    out,
    sign,
    rows,
    valid,
    total,
    slope,
    seed,
    scale,
    group,
    first,
    GROUPS: tl.constexpr,
    C_OUT: tl.constexpr,
    RESIDUAL_STRIDE: tl.constexpr,
    BIAS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    RESIDUAL: tl.constexpr,
    SIGN: tl.constexpr,
    DROPOUT: tl.constexpr,
    LEAST: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Bias, activation, residual and dropout on a tile of sums, and its way out; `first`: its column in the group."""
    columns = first + tl.arange(0, BLOCK_N)
    place = group * C_OUT + columns
    exists = (columns < C_OUT)[None, :] & (rows < total)[:, None]
    if BIAS:
        acc += tl.load(bias + place, mask=columns < C_OUT, other=0).to(tl.float32)[None, :]
    if SIGN == 1:
        tl.store(sign + rows[:, None] * (GROUPS * C_OUT) + place[None, :], (acc > 0).to(tl.uint8), mask=exists)
    if SIGN == 2:
        bit = (acc > 0).to(tl.int32).reshape(BLOCK_M, BLOCK_N // 8, 8)
        packed = tl.sum(bit << tl.arange(0, 8)[None, None, :], 2)
        byte = first // 8 + tl.arange(0, BLOCK_N // 8)
        byte_at = sign + rows[:, None] * (GROUPS * C_OUT // 8) + (group * (C_OUT // 8) + byte)[None, :]
        tl.store(byte_at, packed.to(tl.uint8), mask=(byte < C_OUT // 8)[None, :] & (rows < total)[:, None])
    if ACTIVATION:
        acc = tl.where(acc > 0, acc, acc * slope)
    if RESIDUAL:
        more = residual + rows[:, None] * RESIDUAL_STRIDE + place[None, :]
        more = tl.load(more, mask=exists & valid[:, None], other=0).to(tl.float32)
    if DROPOUT != 0:
        blocks: tl.constexpr = C_OUT % 4 == 0 or GROUPS == 1
        kept = _kept(seed, rows, group * C_OUT + first, GROUPS * C_OUT, blocks, LEAST, BLOCK_M, BLOCK_N)
    if RESIDUAL:
        acc += tl.where(kept, more * scale, 0) if DROPOUT == 2 else more
    if DROPOUT == 1:
        acc = tl.where(kept, acc * scale, 0)
    acc = tl.where(valid[:, None], acc, 0)
    tl.store(out + rows[:, None] * (GROUPS * C_OUT) + place[None, :], acc.to(out.dtype.element_ty), mask=exists)


@triton.jit(do_not_specialize=["n", "total"])
def convolve_kernel(
    x,
    weight,
    bias,
    residual,
    out,
    sign,
    offsets,
    lengths,
    n,
    total,
    slope,
    seed,
    scale,
    GROUPS: tl.constexpr,
    C_IN: tl.constexpr,
    C_OUT: tl.constexpr,
    TAPS: tl.constexpr,
    DILATION: tl.constexpr,
    X_STRIDE: tl.constexpr,
    RESIDUAL_STRIDE: tl.constexpr,
    W_TAP: tl.constexpr,
    W_GROUP: tl.constexpr,
    W_OUT: tl.constexpr,
    W_IN: tl.constexpr,
    BACKWARD: tl.constexpr,
    BIAS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    RESIDUAL: tl.constexpr,
    SIGN: tl.constexpr,
    DROPOUT: tl.constexpr,
    LEAST: tl.constexpr,
    DESCRIPTOR: tl.constexpr,
    PRECISION: tl.constexpr,
    STEPS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
):
    """out[r] = activation(Σ_j x[r + (j − TAPS // 2) · DILATION] W_j + bias) + residual[r], channels C_* per group.

    BACKWARD takes taps in falling order. SIGN: 0 none, 1 a byte an element, 2 a bit. DROPOUT: 0 none, 1 of the result,
    2 of the residual alone, by words below LEAST. DESCRIPTOR: weight is a tensor descriptor of (TAPS · outer, inner)
    instead of a pointer.
    """
    tiles_m = tl.cdiv(total, BLOCK_M)
    tiles_n = tl.cdiv(C_OUT, BLOCK_N) * GROUPS
    wide = GROUP_M * tiles_n
    for tile in tl.range(tl.program_id(0), tiles_m * tiles_n, tl.num_programs(0)):
        # Tiles that run at the same time share rows and weights in the L2.
        start = tile // wide * GROUP_M
        high = tl.minimum(tiles_m - start, GROUP_M)
        tile_m = start + tile % wide % high
        tile_n = tile % wide // high
        group = tile_n // tl.cdiv(C_OUT, BLOCK_N)
        first = tile_n % tl.cdiv(C_OUT, BLOCK_N) * BLOCK_N
        origin = tile_m.to(tl.int64) * BLOCK_M
        local = tl.arange(0, BLOCK_M)
        rows = origin + local
        before, after = _reach(offsets, lengths, n, total, rows, STEPS)
        inner = tl.arange(0, BLOCK_K)
        columns = first + tl.arange(0, BLOCK_N)
        x_rows = x + group * C_IN + (local[:, None] * X_STRIDE + inner[None, :])
        acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        # A tile of gap rows, as a padded batch has, has nothing to multiply. Taps change fastest, so that a row comes
        # from device memory once.
        steps = tl.where(tl.max(before, 0) >= 0, TAPS * tl.cdiv(C_IN, BLOCK_K), 0)
        for step in range(steps):
            tap = step % TAPS
            at = step // TAPS * BLOCK_K
            shift = (tap - TAPS // 2) * DILATION
            inside = ((before + shift >= 0) & (after >= shift))[:, None]
            if C_IN % BLOCK_K:
                inside = inside & (at + inner < C_IN)[None, :]
            a = tl.load(x_rows + ((origin + shift) * X_STRIDE + at), mask=inside, other=0)
            j = TAPS - 1 - tap if BACKWARD else tap
            if DESCRIPTOR:
                if BACKWARD:
                    b = weight.load([(j * GROUPS + group) * C_IN + at, first])
                else:
                    b = weight.load([(j * GROUPS + group) * C_OUT + first, at]).T
            else:
                from_ = weight + j * W_TAP + group * W_GROUP
                b_at = from_ + (at + inner)[:, None] * W_IN + columns[None, :] * W_OUT
                known = (columns < C_OUT)[None, :]
                if C_IN % BLOCK_K:
                    known = known & (at + inner < C_IN)[:, None]
                b = tl.load(b_at, mask=known, other=0)
            acc = _product(a, b, acc, PRECISION)
        valid = before >= 0
        if BLOCK_N >= 128:
            # In quarters, whose addresses fit in registers beside the sums; in eighths where random numbers are, too.
            pieces: tl.constexpr = 8 if DROPOUT != 0 else 4
            for i in tl.static_range(pieces):
                piece = _half(acc, i * 2 >= pieces, BLOCK_M, BLOCK_N)
                piece = _half(piece, i * 4 // pieces % 2 == 1, BLOCK_M, BLOCK_N // 2)
                if pieces == 8:
                    piece = _half(piece, i % 2 == 1, BLOCK_M, BLOCK_N // 4)
                _finish(piece, bias, residual, out, sign, rows, valid, total, slope, seed, scale, group,
                        first + i * (BLOCK_N // pieces), GROUPS, C_OUT, RESIDUAL_STRIDE, BIAS, ACTIVATION, RESIDUAL,
                        SIGN, DROPOUT, LEAST, BLOCK_M, BLOCK_N // pieces)  # fmt: skip
        else:
            _finish(acc, bias, residual, out, sign, rows, valid, total, slope, seed, scale, group, first, GROUPS,
                    C_OUT, RESIDUAL_STRIDE, BIAS, ACTIVATION, RESIDUAL, SIGN, DROPOUT, LEAST, BLOCK_M,
                    BLOCK_N)  # fmt: skip


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
    STEPS: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """The gradient before the activation, its sum over each chunk of rows, and every row's reach.

    SIGN: 0 no activation, 1 by the sign of the output, 2 by packed bits. `inner` is not written where there is neither
    an activation nor dropout.
    """
    start = tl.program_id(0).to(tl.int64) * chunk
    columns = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    known = (columns < CHANNELS)[None, :]
    acc = tl.zeros((BLOCK_C,), tl.float32)
    for at in range(0, chunk, BLOCK_R):
        rows = start + at + tl.arange(0, BLOCK_R)
        before, after = _reach(offsets, lengths, n, total, rows, STEPS)
        valid = (before >= 0)[:, None]
        g = tl.load(grad + rows[:, None] * GRAD_STRIDE + columns[None, :], mask=valid & known, other=0).to(tl.float32)
        if DROPOUT:
            kept = _kept(seed, rows, tl.program_id(1) * BLOCK_C, CHANNELS, BLOCK_C >= 4, LEAST, BLOCK_R, BLOCK_C)
            g = tl.where(kept, g * scale, 0)
        if SIGN != 0 or DROPOUT:
            if SIGN == 1:
                value = tl.load(sign + rows[:, None] * CHANNELS + columns[None, :], mask=valid & known, other=0)
                passed = value.to(tl.float32) > 0
            elif SIGN == 2:
                byte_at = sign + rows[:, None] * ((CHANNELS + 7) // 8) + (columns // 8)[None, :]
                byte = tl.load(byte_at, mask=valid & known, other=0).to(tl.int32)
                passed = ((byte >> (columns % 8)[None, :]) & 1) != 0
            if SIGN != 0:
                g = tl.where(passed, g, g * slope)
            rounded = g.to(inner.dtype.element_ty)
            exists = (rows < total)[:, None] & known
            tl.store(inner + rows[:, None] * CHANNELS + columns[None, :], rounded, mask=exists)
            g = rounded.to(tl.float32)
        acc += tl.sum(g, 0)
        if tl.program_id(1) == 0:
            tl.store(before_of + rows, before, mask=rows < total)
            tl.store(after_of + rows, after, mask=rows < total)
    tl.store(sums + tl.program_id(0).to(tl.int64) * CHANNELS + columns, acc, mask=columns < CHANNELS)


@triton.jit
def _tap(x, x_at, rows, before, after, tap, at, columns, TAPS, DILATION, X_STRIDE, C_IN):
    """(rows, columns) of x at one tap, zero outside each row's sequence."""
    shift = (tap - TAPS // 2) * DILATION
    inside = (before + shift >= 0) & (after >= shift) & (before >= 0) & (tap < TAPS)
    mask = inside[:, None] & (columns < C_IN)[None, :]
    return tl.load(x_at + ((at + shift) * X_STRIDE), mask=mask, other=0)


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
    outputs = tile // tiles_n % tiles_m * BLOCK_M + tl.arange(0, BLOCK_M)
    inputs = tile % tiles_n * BLOCK_N + tl.arange(0, BLOCK_N)
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
        acc0 = _product(a, b, acc0, PRECISION)
        if TOGETHER == 3:
            b = _tap(x, x_at, rows, before, after, tap + 1, at, inputs, TAPS, DILATION, X_STRIDE, C_IN)
            acc1 = _product(a, b, acc1, PRECISION)
            b = _tap(x, x_at, rows, before, after, tap + 2, at, inputs, TAPS, DILATION, X_STRIDE, C_IN)
            acc2 = _product(a, b, acc2, PRECISION)
    at_group = group * C_OUT + outputs
    out += tl.program_id(1).to(tl.int64) * (GROUPS * C_OUT * C_IN * TAPS) + tap
    if PRECISION == "ieee" and x.dtype.element_ty == tl.float32:
        out_at = out + (at_group.to(tl.int64)[:, None] * C_IN + inputs[None, :]) * TAPS
        known = (outputs < C_OUT)[:, None] & (inputs < C_IN)[None, :]
    else:
        # Lanes run along a tile's first dimension: transposed, they store inputs, which lie next to each other. Fused
        # multiply-adds would take the sums' layout from here, and twice the registers.
        out_at = out + (at_group.to(tl.int64)[None, :] * C_IN + inputs[:, None]) * TAPS
        known = (inputs < C_IN)[:, None] & (outputs < C_OUT)[None, :]
        acc0 = tl.trans(acc0)
        if TOGETHER == 3:
            acc1, acc2 = tl.trans(acc1), tl.trans(acc2)
    tl.store(out_at, acc0.to(out.dtype.element_ty), mask=known)
    if TOGETHER == 3:
        tl.store(out_at + 1, acc1.to(out.dtype.element_ty), mask=known)
        tl.store(out_at + 2, acc2.to(out.dtype.element_ty), mask=known)


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


@triton.jit
def repack_kernel(weight, out, size, TAPS: tl.constexpr, BLOCK: tl.constexpr):
    """(TAPS, size) of (size, TAPS): every line is read from device memory once."""
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    for j in tl.static_range(TAPS):
        value = tl.load(weight + place * TAPS + j, mask=place < size)
        tl.store(out + j * size + place, value, mask=place < size)
