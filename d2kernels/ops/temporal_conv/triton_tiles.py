"""What the kernels of temporal_conv share: products, dropout's words, and a tile of sums on its way out."""

from __future__ import annotations

import triton
import triton.language as tl

from d2kernels.ops._triton import INTERPRETED, bounds_of
from d2kernels.ops.temporal_conv.dropout import ROUNDS

ROUNDS_OF = tl.constexpr(ROUNDS)
WIDEN = tl.constexpr(INTERPRETED)  # the interpreter multiplies bfloat16's bits as whole numbers


@triton.jit
def product(a, b, acc, PRECISION: tl.constexpr):
    if WIDEN:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, acc, input_precision=PRECISION)


@triton.jit
def reach(offsets, lengths, n, total, rows, STEPS: tl.constexpr):
    """Rows of its own sequence before and after each row, −1 on gap rows; int32, cut at 2³⁰."""
    first, end = bounds_of(offsets, lengths, n, total, rows, STEPS)
    inside = end > 0
    before = tl.where(inside, tl.minimum(rows - first, 1 << 30), -1)
    after = tl.where(inside, tl.minimum(end - 1 - rows, 1 << 30), -1)
    return before.to(tl.int32), after.to(tl.int32)


@triton.jit
def kept_of(seed, rows, first, CHANNELS: tl.constexpr, BLOCKS: tl.constexpr, LEAST: tl.constexpr,
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
def half(x, UPPER: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """Columns of the lower or the upper half of x (BLOCK_M, BLOCK_N)."""
    low, high = x.reshape(BLOCK_M, 2, BLOCK_N // 2).permute(0, 2, 1).split()
    return high if UPPER else low


@triton.jit
def finish(
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
        # Words where they fit: a quarter of the exchanges between lanes that bytes take.
        wide: tl.constexpr = 32 if C_OUT % 32 == 0 and BLOCK_N % 32 == 0 else 8
        bit = (acc > 0).to(tl.int32).reshape(BLOCK_M, BLOCK_N // wide, wide)
        packed = tl.sum(bit << tl.arange(0, wide)[None, None, :], 2)
        place_of = first // wide + tl.arange(0, BLOCK_N // wide)
        at = rows[:, None] * (GROUPS * C_OUT // wide) + (group * (C_OUT // wide) + place_of)[None, :]
        there = (place_of < C_OUT // wide)[None, :] & (rows < total)[:, None]
        if wide == 32:
            tl.store(sign.to(tl.pointer_type(tl.int32)) + at, packed, mask=there)
        else:
            tl.store(sign + at, packed.to(tl.uint8), mask=there)
    if SIGN == 2:
        tl.store(sign + rows[:, None] * (GROUPS * C_OUT) + place[None, :], (acc > 0).to(tl.uint8), mask=exists)
    if ACTIVATION:
        acc = tl.where(acc > 0, acc, acc * slope)
    if RESIDUAL:
        more = residual + rows[:, None] * RESIDUAL_STRIDE + place[None, :]
        more = tl.load(more, mask=exists & valid[:, None], other=0).to(tl.float32)
    if DROPOUT != 0:
        blocks: tl.constexpr = C_OUT % 4 == 0 or GROUPS == 1
        kept = kept_of(seed, rows, group * C_OUT + first, GROUPS * C_OUT, blocks, LEAST, BLOCK_M, BLOCK_N)
    if RESIDUAL:
        acc += tl.where(kept, more * scale, 0) if DROPOUT == 2 else more
    if DROPOUT == 1:
        acc = tl.where(kept, acc * scale, 0)
    acc = tl.where(valid[:, None], acc, 0)
    tl.store(out + rows[:, None] * (GROUPS * C_OUT) + place[None, :], acc.to(out.dtype.element_ty), mask=exists)


@triton.jit
def finish_tile(
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
    """`finish` in quarters, whose addresses fit in registers beside the sums; in eighths where random numbers are."""
    if BLOCK_N >= 128:
        pieces: tl.constexpr = 8 if DROPOUT != 0 else 4
        for i in tl.static_range(pieces):
            piece = half(acc, i * 2 >= pieces, BLOCK_M, BLOCK_N)
            piece = half(piece, i * 4 // pieces % 2 == 1, BLOCK_M, BLOCK_N // 2)
            if pieces == 8:
                piece = half(piece, i % 2 == 1, BLOCK_M, BLOCK_N // 4)
            finish(piece, bias, residual, out, sign, rows, valid, total, slope, seed, scale, group,
                   first + i * (BLOCK_N // pieces), GROUPS, C_OUT, RESIDUAL_STRIDE, BIAS, ACTIVATION, RESIDUAL,
                   SIGN, DROPOUT, LEAST, BLOCK_M, BLOCK_N // pieces)  # fmt: skip
    else:
        finish(acc, bias, residual, out, sign, rows, valid, total, slope, seed, scale, group, first, GROUPS, C_OUT,
               RESIDUAL_STRIDE, BIAS, ACTIVATION, RESIDUAL, SIGN, DROPOUT, LEAST, BLOCK_M, BLOCK_N)  # fmt: skip


@triton.jit
def tile_of(tile, tiles_m, GROUPS: tl.constexpr, C_OUT: tl.constexpr, BLOCK_N: tl.constexpr, GROUP_M: tl.constexpr):
    """Tile of rows, group and first column of a tile; those that run at the same time share rows and weights."""
    across: tl.constexpr = (C_OUT + BLOCK_N - 1) // BLOCK_N
    wide: tl.constexpr = GROUP_M * across * GROUPS
    start = tile // wide * GROUP_M
    high = tl.minimum(tiles_m - start, GROUP_M)
    tile_n = tile % wide // high
    return start + tile % wide % high, tile_n // across, tile_n % across * BLOCK_N
