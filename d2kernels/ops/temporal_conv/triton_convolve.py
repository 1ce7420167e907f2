"""Kernels of temporal_conv's products over taps: by pointers and masks, and of plain tiles where gap rows suffice."""

from __future__ import annotations

import triton
import triton.language as tl

from d2kernels.ops._triton import bounds_of
from d2kernels.ops.temporal_conv.triton_tiles import finish_tile, product, reach, tile_of


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
    ACROSS: tl.constexpr,
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

    BACKWARD takes taps in falling order; ACROSS: weights lie along the outputs, not along the inputs. SIGN: 0 none, 1 a
    bit an element, 2 a byte. DROPOUT: 0 none, 1 of the result, 2 of the residual alone, by words below LEAST.
    DESCRIPTOR: weight is a tensor descriptor of (TAPS · outer, inner) instead of a pointer.
    """
    tiles_m = tl.cdiv(total, BLOCK_M)
    tiles_n: tl.constexpr = (C_OUT + BLOCK_N - 1) // BLOCK_N * GROUPS
    for tile in tl.range(tl.program_id(0), tiles_m * tiles_n, tl.num_programs(0)):
        tile_m, group, first = tile_of(tile, tiles_m, GROUPS, C_OUT, BLOCK_N, GROUP_M)
        origin = tile_m.to(tl.int64) * BLOCK_M
        local = tl.arange(0, BLOCK_M)
        rows = origin + local
        before, after = reach(offsets, lengths, n, total, rows, STEPS)
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
                if ACROSS:
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
            acc = product(a, b, acc, PRECISION)
        finish_tile(acc, bias, residual, out, sign, rows, before >= 0, total, slope, seed, scale, group, first, GROUPS,
                    C_OUT, RESIDUAL_STRIDE, BIAS, ACTIVATION, RESIDUAL, SIGN, DROPOUT, LEAST, BLOCK_M,
                    BLOCK_N)  # fmt: skip


@triton.jit(do_not_specialize=["n", "total"])
def plain_kernel(
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
    RESIDUAL_STRIDE: tl.constexpr,
    BACKWARD: tl.constexpr,
    ACROSS: tl.constexpr,
    BIAS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    RESIDUAL: tl.constexpr,
    SIGN: tl.constexpr,
    DROPOUT: tl.constexpr,
    LEAST: tl.constexpr,
    PRECISION: tl.constexpr,
    STEPS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
    FLATTEN: tl.constexpr,
):
    """`convolve_kernel` where x has a zero row wherever a tap leaves its sequence: x and weight are tensor descriptors.

    No mask and no reach in the products; what they make of gap rows becomes zero on its way out. C_IN is whole BLOCK_K.
    """
    tiles_m = tl.cdiv(total, BLOCK_M)
    tiles_n: tl.constexpr = (C_OUT + BLOCK_N - 1) // BLOCK_N * GROUPS
    # Flattened, the next tile's first copies are under way while a tile is finished.
    for tile in tl.range(tl.program_id(0), tiles_m * tiles_n, tl.num_programs(0), flatten=FLATTEN):
        tile_m, group, first = tile_of(tile, tiles_m, GROUPS, C_OUT, BLOCK_N, GROUP_M)
        origin = tile_m * BLOCK_M
        acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        for step in range(TAPS * (C_IN // BLOCK_K)):
            tap = step % TAPS
            at = step // TAPS * BLOCK_K
            a = x.load([origin + (tap - TAPS // 2) * DILATION, group * C_IN + at])
            j = TAPS - 1 - tap if BACKWARD else tap
            if ACROSS:
                b = weight.load([(j * GROUPS + group) * C_IN + at, first])
            else:
                b = weight.load([(j * GROUPS + group) * C_OUT + first, at]).T
            acc = product(a, b, acc, PRECISION)
        rows = origin.to(tl.int64) + tl.arange(0, BLOCK_M)
        _, end = bounds_of(offsets, lengths, n, total, rows, STEPS)
        finish_tile(acc, bias, residual, out, sign, rows, end > 0, total, slope, seed, scale, group, first, GROUPS,
                    C_OUT, RESIDUAL_STRIDE, BIAS, ACTIVATION, RESIDUAL, SIGN, DROPOUT, LEAST, BLOCK_M,
                    BLOCK_N)  # fmt: skip
