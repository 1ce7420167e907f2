"""Row bookkeeping that the reference backends share; no host synchronisation, shapes known in advance."""

from __future__ import annotations

from functools import lru_cache, reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

_CHUNK = 256  # rows added one by one before chunks are added: bounds the rounding error of long sequences
_ALIGNMENT = 64  # bytes; BLAS dot products round differently at other addresses


class Rows(NamedTuple):
    """Per row: its sequence (a valid index even for gap rows), its place in it, whether it belongs to one."""

    sequence: Tensor
    place: Tensor
    valid: Tensor


def rows(offsets: Tensor, lengths: Tensor, total: int) -> Rows:
    """Which sequence each of `total` rows belongs to; each result is (total,)."""
    n = lengths.shape[0]
    row = torch.arange(total, device=offsets.device)
    if n == 0:
        return Rows(torch.zeros_like(row), row, torch.zeros_like(row, dtype=torch.bool))
    sequence = torch.bucketize(row, offsets[1:], right=True).clamp(max=n - 1)
    place = row - offsets[sequence]
    return Rows(sequence, place, (place >= 0) & (place < lengths[sequence]))


def _inside(offsets: Tensor, total: int) -> Tensor:
    """Offsets that are unchecked where they are compiled or on a device, made rising and within the rows."""
    return offsets.clamp(0, total).cummax(0).values


class _SegmentSum(torch.autograd.Function):
    """torch's own segment_reduce has one derivative only, and none of forward mode."""

    @staticmethod
    def forward(x: Tensor, inside: Tensor) -> Tensor:
        return torch.segment_reduce(x, "sum", offsets=inside, axis=0, unsafe=True, initial=0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.total = inputs[0].shape[0]
        ctx.save_for_backward(inputs[1])
        ctx.save_for_forward(inputs[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (inside,) = ctx.saved_tensors
        sequence, _, valid = rows(inside, inside.diff(), ctx.total)
        return torch.where(valid.view(-1, *[1] * (grad.dim() - 1)), grad[sequence], 0), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        return _SegmentSum.forward(tangent, *ctx.saved_tensors)


def segment_sum(x: Tensor, offsets: Tensor) -> Tensor:
    """(n, ...): rows (total, ...) summed in order over [offsets[i], offsets[i+1]); gap rows must be zero."""
    if offsets.shape[0] == 1 or x.shape[0] == 0:
        return x.new_zeros((offsets.shape[0] - 1, *x.shape[1:]))
    inside = _inside(offsets, x.shape[0])
    if torch.compiler.is_compiling():
        return _SegmentSum.forward(x, inside)
    return _SegmentSum.apply(x, inside)


def _chunks(offsets: Tensor, total: int) -> tuple[Tensor, Tensor]:
    """First row of each chunk (K,), K a bound known in advance, and first chunk of each sequence (n,)."""
    inside = _inside(offsets, total)
    count = (inside.diff() + (_CHUNK - 1)) // _CHUNK
    end = count.cumsum(0)
    chunk = torch.arange(total // _CHUNK + count.shape[0], device=offsets.device)
    sequence = torch.bucketize(chunk, end, right=True).clamp(max=count.shape[0] - 1)
    row = inside[sequence] + (chunk - (end - count)[sequence]) * _CHUNK
    return torch.minimum(row, inside[sequence + 1]), end - count


def weighted_sum(x: Tensor, weight: Tensor, selected: Tensor, offsets: Tensor) -> Tensor:
    """Sums weight[t, a] * x[t] over each sequence's selected rows, in a fixed order.

    Rows that are not selected are never read, so what they hold cannot leak.

    Args:
        x: (total, D) in the dtype to sum in.
        weight: (total, A), same dtype.
        selected: (total, A) bool, False on gap rows.
        offsets: (n + 1,).

    Returns:
        (n, A, D).
    """
    n, (total, columns) = offsets.shape[0] - 1, weight.shape
    if n == 0 or x.numel() == 0 or columns == 0:
        return x.new_zeros((n, columns, x.shape[1]))
    entries = total * columns
    chosen = selected.t().reshape(-1)
    before = torch.zeros(entries + 1, dtype=torch.int64, device=x.device)
    torch.cumsum(chosen, 0, out=before[1:])
    # Chosen entries move to the front, column by column; the slots left over form a last bag that is dropped.
    slot = torch.where(chosen, before[:-1], entries)
    entry = torch.zeros_like(before).scatter_(0, slot, torch.arange(entries, device=x.device))[:-1]
    chunk, first = _chunks(offsets, total)
    column = torch.arange(columns, device=x.device)[:, None]
    bags = torch.cat([before[(column * total + chunk).reshape(-1)], before[-1:]])
    weights = weight.t().reshape(-1)[entry]
    partial = F.embedding_bag(entry % total, x.contiguous(), bags, mode="sum", per_sample_weights=weights)[
        :-1
    ]
    bags = (column * chunk.shape[0] + first).reshape(-1)
    whole = F.embedding_bag(torch.arange(len(partial), device=x.device), partial, bags, mode="sum")
    return whole.view(columns, n, -1).transpose(0, 1).contiguous()


def weighted_rows(table: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """(total, D): Σ over a of weight[t, a] table[index[t, a]]; table (m, D), index and weight (total, A)."""
    if index.numel() == 0 or table.shape[1] == 0:
        return table.new_zeros((index.shape[0], table.shape[1]))
    return F.embedding_bag(index.contiguous(), table, mode="sum", per_sample_weights=weight.contiguous())


def _aligned(x: Tensor) -> Tensor:
    short = -x.shape[1] % (_ALIGNMENT // x.element_size())
    if short:
        return F.pad(x, (0, short))
    x = x.contiguous()
    return x if x.data_ptr() % _ALIGNMENT == 0 else x.clone()


def row_dots(x: Tensor, table: Tensor, index: Tensor) -> Tensor:
    """(total, A): x[t] · table[index[t, a]], in bits that do not depend on t; x (total, D), table (m, D)."""
    total, columns = index.shape
    if index.numel() == 0 or x.shape[1] == 0:
        return x.new_zeros((total, columns))
    row = torch.arange(total, device=x.device).repeat_interleave(columns, output_size=index.numel())
    bags = torch.arange(table.shape[0], device=x.device)
    # The one torch kernel that takes dot products of gathered rows without writing the gathered rows out.
    dots = torch.ops.aten._embedding_bag_per_sample_weights_backward(
        _aligned(table), _aligned(x), row, bags, index.reshape(-1).contiguous(), 0
    )
    return dots.view(total, columns)


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 stays, everything else sums in float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


@lru_cache(maxsize=64)
def common_dtype(*dtypes: torch.dtype) -> torch.dtype:
    """float64 where one of them is, else float32: what rows of these are summed in."""
    return accumulation_dtype(reduce(torch.promote_types, dtypes))
