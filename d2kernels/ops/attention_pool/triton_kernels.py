"""Triton kernels of attention_pool, for one or two columns of attention at a time: foreground and background.

Rows are read once; those that neither column selects are not read at all.
"""

from __future__ import annotations

import triton
import triton.language as tl

from d2kernels.ops._triton import INTERPRETED, bounds_of, chunk_of, sequence_of

FAN = 32  # chunks that one program adds; it squared, that the last one of a sequence does
FAN_OF = tl.constexpr(FAN)
IN_TURN = tl.constexpr(INTERPRETED)  # which has no loads under way, and much to do for each


@triton.jit
def passes(attention, level, INCLUSIVE: tl.constexpr):
    if INCLUSIVE:
        return attention >= level
    return attention > level


@triton.jit(do_not_specialize=["n", "total"])
def pool_chunks(
    x, attention, levels, offsets, lengths, parts, masses, n, total, width, x_stride, columns, column,
    INCLUSIVE: tl.constexpr, TWO: tl.constexpr, ACC: tl.constexpr, STEPS: tl.constexpr, CHUNK: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """parts (slots, 2, width), masses (slots, 2) float64: sums over each chunk of the columns `column` and the next."""
    slot = tl.program_id(0).to(tl.int64)
    _, begin, stop = chunk_of(offsets, lengths, n, total, slot, CHUNK, STEPS)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    level0, level1 = tl.load(levels + column), tl.load(levels + column + (1 if TWO else 0))
    sum0, sum1 = tl.zeros((BLOCK,), ACC), tl.zeros((BLOCK,), ACC)
    mass0, mass1 = tl.zeros((ROWS,), tl.float64), tl.zeros((ROWS,), tl.float64)
    for start in range(begin, stop, ROWS):
        rows = start + tl.arange(0, ROWS)
        here = rows < stop
        a0 = tl.load(attention + rows * columns + column, mask=here, other=0.0).to(ACC)
        on0 = passes(a0, level0, INCLUSIVE) & here
        read = on0
        if TWO:
            a1 = tl.load(attention + rows * columns + column + 1, mask=here, other=0.0).to(ACC)
            on1 = passes(a1, level1, INCLUSIVE) & here
            read = on0 | on1
        mask = read[:, None] & (at < width)[None, :]
        values = tl.load(x + rows[:, None] * x_stride + at[None, :], mask=mask, other=0.0).to(ACC)
        sum0 += tl.sum(tl.where(on0[:, None], a0[:, None] * values, 0.0), 0)
        mass0 += tl.where(on0, a0, 0.0).to(tl.float64)
        if TWO:
            sum1 += tl.sum(tl.where(on1[:, None], a1[:, None] * values, 0.0), 0)
            mass1 += tl.where(on1, a1, 0.0).to(tl.float64)
    tl.store(parts + slot * 2 * width + at, sum0, mask=at < width)
    if tl.program_id(1) == 0:
        tl.store(masses + slot * 2, tl.sum(mass0, 0))
    if TWO:
        tl.store(parts + (slot * 2 + 1) * width + at, sum1, mask=at < width)
        if tl.program_id(1) == 0:
            tl.store(masses + slot * 2 + 1, tl.sum(mass1, 0))


@triton.jit
def _sum_of(parts, slot, count, at, width):
    """Up to FAN_OF rows of parts from `slot` on, added one after another, so that no layout has a say in the order."""
    sums = tl.zeros(at.shape, parts.dtype.element_ty)
    if IN_TURN:
        for i in range(0, tl.minimum(count, FAN_OF)):
            sums += tl.load(parts + (slot + i) * width + at, mask=at < width, other=0.0)
    else:
        # All loads are under way before the first is added.
        for i in tl.static_range(FAN_OF):
            sums += tl.load(parts + (slot + i) * width + at, mask=(at < width) & (i < count), other=0.0)
    return sums


@triton.jit(do_not_specialize=["n", "total", "chunk"])
def fold_chunks(parts, out, offsets, lengths, n, total, chunk, width, STEPS: tl.constexpr, BLOCK: tl.constexpr):
    """out (slots, width): sums of FAN_OF chunks of `chunk` rows of a sequence, parts (slots, width) holding theirs."""
    slot = tl.program_id(0).to(tl.int64)
    sequence, begin, stop = chunk_of(offsets, lengths, n, total, slot, chunk.to(tl.int64) * FAN_OF, STEPS)
    first = tl.minimum(tl.maximum(tl.load(offsets + sequence), 0), total)
    child = first // chunk + sequence + (begin - first) // chunk
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    count = tl.cdiv(tl.maximum(stop - begin, 0), chunk)
    tl.store(out + slot * width + at, _sum_of(parts, child, count, at, width), mask=at < width)


@triton.jit
def _sequence_sum(parts, slot, count, at, width):
    """A sequence's chunks, FAN_OF² at most, as `fold_chunks` would have added them."""
    sums = tl.zeros(at.shape, parts.dtype.element_ty)
    for done in range(0, count, FAN_OF):
        sums += _sum_of(parts, slot + done, count - done, at, width)
    return sums


@triton.jit(do_not_specialize=["total", "chunk"])
def add_chunks(
    parts, masses, offsets, lengths, embedding, mass, total, chunk, width, columns, column, PARTS: tl.constexpr,
    NORMALIZE: tl.constexpr, ACC: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """embedding (n, columns, width) and mass (n, columns) from chunks of PARTS columns of attention each."""
    sequence, which = tl.program_id(0).to(tl.int64), tl.program_id(2)
    first = tl.minimum(tl.maximum(tl.load(offsets + sequence), 0), total)
    end = tl.minimum(first + tl.maximum(tl.load(lengths + sequence), 0), total)
    slot, count = first // chunk + sequence, tl.cdiv(end - first, chunk)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    # Of one row's PARTS · width values, those of `which`.
    here = tl.where(at < width, which * width + at, PARTS * width)
    sums = _sequence_sum(parts, slot, count, here, PARTS * width)
    all_of_it = _sequence_sum(masses, slot, count, which + tl.arange(0, 1), PARTS).to(ACC)
    if NORMALIZE:
        sums = tl.where(all_of_it != 0, sums / tl.where(all_of_it != 0, all_of_it, 1.0), 0.0)
    place = sequence * columns + column + which
    tl.store(embedding + place * width + at, sums.to(embedding.dtype.element_ty), mask=at < width)
    if tl.program_id(1) == 0:
        tl.store(mass + place + tl.arange(0, 1), all_of_it)


@triton.jit(do_not_specialize=["n", "total"])
def spread(
    grad, mass, x, attention, levels, offsets, lengths, grad_x, each, n, total, width, x_stride, columns,
    COLUMNS: tl.constexpr, INCLUSIVE: tl.constexpr, NORMALIZE: tl.constexpr, NEED_X: tl.constexpr,
    NEED_ATTENTION: tl.constexpr, ACC: tl.constexpr, STEPS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """grad_x, and each (total, columns): the gradient of each attention through the embedding alone."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    first, end = bounds_of(offsets, lengths, n, total, rows, STEPS)
    inside = first < end
    sequence = sequence_of(offsets, n, total, rows, STEPS)
    for block in range(0, tl.cdiv(width, BLOCK) if NEED_X else 1):
        at = block * BLOCK + tl.arange(0, BLOCK)
        total_x = tl.zeros((ROWS, BLOCK), ACC)
        for a in tl.static_range(COLUMNS):
            weight = tl.load(attention + rows * columns + a, mask=inside, other=0.0).to(ACC)
            on = passes(weight, tl.load(levels + a), INCLUSIVE) & inside
            if NORMALIZE:
                m = tl.load(mass + sequence * columns + a, mask=on, other=0.0)
                scale = tl.where(m != 0, 1 / tl.where(m != 0, m, 1.0), 0.0)
                on = on & (m != 0)
            else:
                scale = tl.full((ROWS,), 1.0, ACC)
            if NEED_X:
                mask = on[:, None] & (at < width)[None, :]
                of_grad = (sequence * columns + a)[:, None] * width + at[None, :]
                g = tl.load(grad + of_grad, mask=mask, other=0.0).to(ACC)
                total_x += tl.where(on[:, None], (weight * scale)[:, None] * g, 0.0)
        if NEED_X:
            live = (rows < total)[:, None] & (at < width)[None, :]
            tl.store(grad_x + rows[:, None] * width + at[None, :], total_x.to(grad_x.dtype.element_ty), mask=live)
    if NEED_ATTENTION:
        for a in tl.static_range(COLUMNS):
            weight = tl.load(attention + rows * columns + a, mask=inside, other=0.0).to(ACC)
            on = passes(weight, tl.load(levels + a), INCLUSIVE) & inside
            dots = tl.zeros((ROWS,), ACC)
            for block in range(0, tl.cdiv(width, BLOCK)):
                at = block * BLOCK + tl.arange(0, BLOCK)
                mask = on[:, None] & (at < width)[None, :]
                of_grad = (sequence * columns + a)[:, None] * width + at[None, :]
                g = tl.load(grad + of_grad, mask=mask, other=0.0).to(ACC)
                v = tl.load(x + rows[:, None] * x_stride + at[None, :], mask=mask, other=0.0).to(ACC)
                dots += tl.sum(g * v, 1)
            if NORMALIZE:
                m = tl.load(mass + sequence * columns + a, mask=on, other=0.0)
                dots = tl.where(m != 0, dots / tl.where(m != 0, m, 1.0), 0.0)
            tl.store(each + rows * columns + a, dots, mask=rows < total)


@triton.jit(do_not_specialize=["n", "total"])
def weighted_chunks(
    each, attention, levels, offsets, lengths, parts, n, total, columns,
    INCLUSIVE: tl.constexpr, ACC: tl.constexpr, STEPS: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """parts (slots, columns) float64: Σ each · attention over the selected rows of each chunk."""
    slot, a = tl.program_id(0).to(tl.int64), tl.program_id(1)
    _, begin, stop = chunk_of(offsets, lengths, n, total, slot, CHUNK, STEPS)
    rows = begin + tl.arange(0, CHUNK)
    weight = tl.load(attention + rows * columns + a, mask=rows < stop, other=0.0).to(ACC)
    on = passes(weight, tl.load(levels + a), INCLUSIVE) & (rows < stop)
    dots = tl.load(each + rows * columns + a, mask=on, other=0.0)
    tl.store(parts + slot * columns + a, tl.sum(tl.where(on, dots * weight, 0.0).to(tl.float64), 0))


@triton.jit(do_not_specialize=["total", "chunk"])
def through_sums(
    parts, grad_mass, mass, offsets, lengths, through, total, chunk, columns,
    ACC: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """through (n, columns): the gradient of each sequence's mass, normalised embeddings' part in it subtracted."""
    sequence = tl.program_id(0).to(tl.int64)
    first = tl.minimum(tl.maximum(tl.load(offsets + sequence), 0), total)
    end = tl.minimum(first + tl.maximum(tl.load(lengths + sequence), 0), total)
    at = tl.arange(0, BLOCK)
    sums = _sequence_sum(parts, first // chunk + sequence, tl.cdiv(end - first, chunk), at, columns).to(ACC)
    place, there = sequence * columns + at, at < columns
    m = tl.load(mass + place, mask=there, other=0.0)
    part = tl.where(m != 0, sums / tl.where(m != 0, m, 1.0), 0.0)
    tl.store(through + place, tl.load(grad_mass + place, mask=there, other=0.0) - part, mask=there)


@triton.jit(do_not_specialize=["n", "total"])
def add_through(
    each, attention, levels, through, offsets, lengths, grad_attention, n, total, columns,
    INCLUSIVE: tl.constexpr, ACC: tl.constexpr, STEPS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """grad_attention = each + through of its sequence on the selected rows, 0 on all others."""
    rows, a = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS), tl.program_id(1)
    first, end = bounds_of(offsets, lengths, n, total, rows, STEPS)
    inside = first < end
    sequence = sequence_of(offsets, n, total, rows, STEPS)
    weight = tl.load(attention + rows * columns + a, mask=inside, other=0.0).to(ACC)
    on = passes(weight, tl.load(levels + a), INCLUSIVE) & inside
    dots = tl.load(each + rows * columns + a, mask=on, other=0.0)
    more = tl.load(through + sequence * columns + a, mask=on, other=0.0)
    made = tl.where(on, dots + more, 0.0).to(grad_attention.dtype.element_ty)
    tl.store(grad_attention + rows * columns + a, made, mask=rows < total)
