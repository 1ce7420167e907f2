"""Triton kernels of temporal_conv: convolution and its way back, weight gradients, column sums.

Rows are time-major and packed. A tap is the same tile of rows, shifted; what falls outside a row's own sequence is
masked where it is loaded, so that padding is neither read nor computed and gap rows may hold anything.
"""

from __future__ import annotations

import triton
import triton.language as tl

from d2kernels.ops._triton import bounds_of


@triton.jit
def through_activation(grad, sign, slope):
    """The gradient before LeakyReLU; sign says where it passed its input unchanged."""
    return tl.where(sign != 0, grad, (grad.to(tl.float32) * slope).to(grad.dtype))


@triton.jit
def row_bounds(offsets, lengths, first, end, n, total, STEPS: tl.constexpr, ROWS: tl.constexpr):
    """first, end (total,) int64: the bounds of each row's sequence, both 0 on gap rows."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    low, high = bounds_of(offsets, lengths, n, total, rows, STEPS)
    tl.store(first + rows, low, mask=rows < total)
    tl.store(end + rows, high, mask=rows < total)


@triton.jit
def finish(
    accumulator, rows, outs, live, bias, added, out, sign_out, group, groups, total, c_out, added_stride, slope,
    BACK: tl.constexpr, ACTIVATION: tl.constexpr, BIAS: tl.constexpr, ADD: tl.constexpr, SIGN: tl.constexpr,
):  # fmt: skip
    """Bias, activation, what is added, and zero gap rows, on the way to device memory."""
    columns = group * c_out + outs
    mask = (rows < total)[:, None] & (outs < c_out)[None, :]
    place = rows[:, None] * (groups * c_out) + columns[None, :]
    if BIAS:
        accumulator += tl.load(bias + columns, mask=outs < c_out, other=0.0).to(tl.float32)[None, :]
    if ACTIVATION and not BACK:
        passed = accumulator > 0
        if SIGN:
            tl.store(sign_out + place, passed.to(tl.uint8), mask=mask)
        accumulator = tl.where(passed, accumulator, accumulator * slope)
    if ADD:
        of_added = rows[:, None] * added_stride + columns[None, :]
        # Rounded before adding, as in two operations.
        rounded = accumulator.to(out.dtype.element_ty).to(tl.float32)
        accumulator = rounded + tl.load(added + of_added, mask=mask & live[:, None], other=0.0).to(tl.float32)
    tl.store(out + place, tl.where(live[:, None], accumulator, 0.0).to(out.dtype.element_ty), mask=mask)


@triton.jit
def convolve(
    x, weight, bias, sign_in, added, out, sign_out, offsets, lengths,
    n, total, c_in, c_out, x_stride, added_stride, dilation, slope,
    KERNEL: tl.constexpr,
    BACK: tl.constexpr,
    ACTIVATION: tl.constexpr,
    BIAS: tl.constexpr,
    ADD: tl.constexpr,
    SIGN: tl.constexpr,
    EVEN: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
    STEPS: tl.constexpr,
    HALVES: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    BLOCK_IN: tl.constexpr,
    BAND: tl.constexpr,
):  # fmt: skip
    """out[t] = Σ_j W_j x[t + (j − ⌊k/2⌋)·dilation] (+ bias, LeakyReLU, + added); BACK: the gradient's way back.

    x (total, groups · c_in), weight (k, groups · co, ci) packed, where forward co = c_out and ci = c_in, and BACK the
    other way round, with taps mirrored and x through the activation's gradient first. c_in, c_out: of one group.
    """
    row_tiles, out_tiles = tl.cdiv(total, BLOCK_ROWS), tl.cdiv(c_out, BLOCK_OUT)
    group, tile = tl.program_id(1), tl.program_id(0)
    # Bands of row tiles share the weights that they read.
    band = tile // (BAND * out_tiles)
    in_band = tl.minimum(row_tiles - band * BAND, BAND)
    row_tile = band * BAND + tile % (BAND * out_tiles) % in_band
    out_tile = tile % (BAND * out_tiles) // in_band

    rows = row_tile.to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    outs = out_tile * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    ins = tl.arange(0, BLOCK_IN)
    first, end = bounds_of(offsets, lengths, n, total, rows, STEPS)
    groups = tl.num_programs(1)
    in_steps = tl.cdiv(c_in, BLOCK_IN)
    accumulator = tl.zeros((BLOCK_ROWS, BLOCK_OUT), tl.float32)
    for step in range(0, in_steps * KERNEL):
        tap, channel = step % KERNEL, step // KERNEL * BLOCK_IN + ins
        shift = (tap - KERNEL // 2) * dilation
        source = rows - shift if BACK else rows + shift
        inside = ((source >= first) & (source < end))[:, None]
        wanted = (outs < c_out)[None, :]
        if not EVEN:
            inside = inside & (channel < c_in)[None, :]
            wanted = wanted & (channel < c_in)[:, None]
        place = source[:, None] * x_stride + (group * c_in + channel)[None, :]
        a = tl.load(x + place, mask=inside, other=0.0)
        if BACK and ACTIVATION:
            at = source[:, None] * (groups * c_in) + (group * c_in + channel)[None, :]
            a = through_activation(a, tl.load(sign_in + at, mask=inside, other=0), slope)
        if BACK:  # (k, groups · c_in, c_out)
            of_weight = ((tap * groups + group) * c_in + channel[:, None]) * c_out + outs[None, :]
        else:  # (k, groups · c_out, c_in)
            of_weight = ((tap * groups + group) * c_out + outs[None, :]) * c_in + channel[:, None]
        b = tl.load(weight + of_weight, mask=wanted, other=0.0)
        if UPCAST:
            a, b = a.to(tl.float32), b.to(tl.float32)
        accumulator = tl.dot(a, b, accumulator, input_precision=PRECISION)

    live = first < end
    if HALVES:  # half the outputs at a time need half the registers
        left, right = tl.split(tl.permute(tl.reshape(accumulator, (BLOCK_ROWS, 2, BLOCK_OUT // 2)), (0, 2, 1)))
        start = out_tile * BLOCK_OUT + tl.arange(0, BLOCK_OUT // 2)
        finish(
            left, rows, start, live, bias, added, out, sign_out, group, groups, total, c_out, added_stride, slope,
            BACK, ACTIVATION, BIAS, ADD, SIGN,
        )  # fmt: skip
        finish(
            right, rows, start + BLOCK_OUT // 2, live, bias, added, out, sign_out, group, groups, total, c_out,
            added_stride, slope, BACK, ACTIVATION, BIAS, ADD, SIGN,
        )  # fmt: skip
    else:
        finish(
            accumulator, rows, outs, live, bias, added, out, sign_out, group, groups, total, c_out, added_stride,
            slope, BACK, ACTIVATION, BIAS, ADD, SIGN,
        )  # fmt: skip


@triton.jit
def weight_parts(
    grad, x, sign, first, end, parts,
    total, c_in, c_out, grad_stride, x_stride, dilation, slope, rows_per_split,
    KERNEL: tl.constexpr,
    ACTIVATION: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    BLOCK_IN: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
):  # fmt: skip
    """parts (splits, k, groups · c_out, c_in): Σ of grad[t, o] x[t + shift, i] over each split's rows."""
    in_tiles = tl.cdiv(c_in, BLOCK_IN)
    tile, split = tl.program_id(0), tl.program_id(2).to(tl.int64)
    group, tap = tl.program_id(1) // KERNEL, tl.program_id(1) % KERNEL
    groups = tl.num_programs(1) // KERNEL
    outs = tile // in_tiles * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    ins = tile % in_tiles * BLOCK_IN + tl.arange(0, BLOCK_IN)
    shift = (tap - KERNEL // 2) * dilation
    begin = split * rows_per_split
    stop = tl.minimum(begin + rows_per_split, total)
    accumulator = tl.zeros((BLOCK_OUT, BLOCK_IN), tl.float32)
    for start in range(begin, stop, BLOCK_ROWS):
        rows = start + tl.arange(0, BLOCK_ROWS)
        here = rows < stop
        low = tl.load(first + rows, mask=here, other=0)
        high = tl.load(end + rows, mask=here, other=0)
        source = rows + shift
        inside = (source >= low) & (source < high) & (low < high)
        wanted = inside[:, None] & (outs < c_out)[None, :]
        g = tl.load(grad + rows[:, None] * grad_stride + (group * c_out + outs)[None, :], mask=wanted, other=0.0)
        if ACTIVATION:
            at = rows[:, None] * (groups * c_out) + (group * c_out + outs)[None, :]
            g = through_activation(g, tl.load(sign + at, mask=wanted, other=0), slope)
        read = inside[:, None] & (ins < c_in)[None, :]
        b = tl.load(x + source[:, None] * x_stride + (group * c_in + ins)[None, :], mask=read, other=0.0)
        if UPCAST:
            g, b = g.to(tl.float32), b.to(tl.float32)
        accumulator = tl.dot(tl.trans(g), b, accumulator, input_precision=PRECISION)
    place = (((split * KERNEL + tap) * groups + group) * c_out + outs)[:, None] * c_in + ins[None, :]
    tl.store(parts + place, accumulator, mask=(outs < c_out)[:, None] & (ins < c_in)[None, :])


@triton.jit
def add_parts(parts, out, splits, outputs, c_in, KERNEL: tl.constexpr, BLOCK: tl.constexpr):
    """out (outputs, c_in, k) = Σ over the splits, in order, of parts (splits, k, outputs, c_in)."""
    tap = tl.program_id(1)
    size = outputs.to(tl.int64) * c_in
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for split in range(0, splits):
        total += tl.load(parts + (split * KERNEL + tap) * size + at, mask=at < size, other=0.0)
    tl.store(out + at * KERNEL + tap, total.to(out.dtype.element_ty), mask=at < size)


@triton.jit
def column_parts(
    grad, sign, first, end, parts, total, columns, grad_stride, slope, rows_per_split,
    ACTIVATION: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """parts (splits, columns): Σ of grad over each split's rows, through the activation's gradient."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    split = tl.program_id(1).to(tl.int64)
    begin = split * rows_per_split
    stop = tl.minimum(begin + rows_per_split, total)
    sums = tl.zeros((BLOCK,), tl.float32)
    for start in range(begin, stop, BLOCK_ROWS):
        rows = start + tl.arange(0, BLOCK_ROWS)
        here = rows < stop
        live = tl.load(first + rows, mask=here, other=0) < tl.load(end + rows, mask=here, other=0)
        mask = live[:, None] & (at < columns)[None, :]
        g = tl.load(grad + rows[:, None] * grad_stride + at[None, :], mask=mask, other=0.0)
        if ACTIVATION:
            g = through_activation(g, tl.load(sign + rows[:, None] * columns + at[None, :], mask=mask, other=0), slope)
        sums += tl.sum(g.to(tl.float32), 0)
    tl.store(parts + split * columns + at, sums, mask=at < columns)
