"""Triton kernels of attention_pool, for one or two columns of attention at a time: foreground and background.

Rows are read once; those that neither column selects are not read at all.
"""

from __future__ import annotations

import triton
import triton.language as tl

from d2kernels.ops._triton import bounds_of, chunk_of, sequence_of


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


@triton.jit(do_not_specialize=["total"])
def add_chunks(
    parts, masses, offsets, lengths, embedding, mass, total, width, columns, column,
    NORMALIZE: tl.constexpr, ACC: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """embedding (n, columns, width) and mass (n, columns): each sequence's chunks, added in order."""
    sequence, which = tl.program_id(0).to(tl.int64), tl.program_id(2)
    first = tl.minimum(tl.maximum(tl.load(offsets + sequence), 0), total)
    end = tl.minimum(first + tl.maximum(tl.load(lengths + sequence), 0), total)
    slot = first // CHUNK + sequence
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    sums, weight = tl.zeros((BLOCK,), ACC), tl.zeros((1,), tl.float64)
    for chunk in range(0, tl.cdiv(end - first, CHUNK)):
        here = (slot + chunk) * 2 + which
        sums += tl.load(parts + here * width + at, mask=at < width, other=0.0)
        weight += tl.load(masses + here + tl.arange(0, 1))
    all_of_it = weight.to(ACC)
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


@triton.jit(do_not_specialize=["total"])
def through_mass(
    each, attention, levels, grad_mass, mass, offsets, lengths, grad_attention, total, columns,
    INCLUSIVE: tl.constexpr, NORMALIZE: tl.constexpr, ACC: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """grad_attention = each + the mass's gradient − (normalised) Σ each · attention / mass, on the selected rows."""
    sequence, a = tl.program_id(0).to(tl.int64), tl.program_id(1)
    first = tl.minimum(tl.maximum(tl.load(offsets + sequence), 0), total)
    end = tl.minimum(first + tl.maximum(tl.load(lengths + sequence), 0), total)
    level = tl.load(levels + a)
    place = sequence * columns + a
    through = tl.load(grad_mass + place)
    if NORMALIZE:
        sums = tl.zeros((ROWS,), tl.float64)
        for start in range(first, end, ROWS):
            rows = start + tl.arange(0, ROWS)
            weight = tl.load(attention + rows * columns + a, mask=rows < end, other=0.0).to(ACC)
            on = passes(weight, level, INCLUSIVE) & (rows < end)
            dots = tl.load(each + rows * columns + a, mask=on, other=0.0)
            sums += tl.where(on, dots * weight, 0.0).to(tl.float64)
        m = tl.load(mass + place)
        through -= tl.where(m != 0, tl.sum(sums, 0).to(ACC) / tl.where(m != 0, m, 1.0), 0.0)
    for start in range(first, end, ROWS):
        rows = start + tl.arange(0, ROWS)
        weight = tl.load(attention + rows * columns + a, mask=rows < end, other=0.0).to(ACC)
        on = passes(weight, level, INCLUSIVE) & (rows < end)
        dots = tl.load(each + rows * columns + a, mask=on, other=0.0)
        made = tl.where(on, dots + through, 0.0).to(grad_attention.dtype.element_ty)
        tl.store(grad_attention + rows * columns + a, made, mask=rows < end)
