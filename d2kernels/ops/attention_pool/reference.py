"""attention_pool in plain PyTorch: the oracle, the fallback and the documentation."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from d2kernels.ops._rows import accumulation_dtype, row_dots, rows, segment_sum, weighted_rows, weighted_sum
from d2kernels.ops.attention_pool.schema import with_column, with_column_backward


@lru_cache(maxsize=64)
def _rounded(threshold: float, dtype: torch.dtype) -> float:
    # Rounded on the host: backends differ in the precision they compare a tensor with a Python number at.
    return torch.tensor(threshold, dtype=dtype, device="cpu").item()


def _selected(
    attention: Tensor, offsets: Tensor, lengths: Tensor, threshold: Sequence[float], inclusive: bool
) -> tuple[Tensor, Tensor]:
    """(total, A) bool: rows whose attention passes its column's threshold; and the sequence of each row."""
    compare = torch.ge if inclusive else torch.gt
    limits = [_rounded(t, attention.dtype) for t in threshold]
    if len(set(limits)) == 1:
        passed = compare(attention, limits[0])
    else:
        passed = torch.stack([compare(c, t) for c, t in zip(attention.unbind(1), limits, strict=True)], 1)
    sequence, _, valid = rows(offsets, lengths, attention.shape[0])
    return passed & valid[:, None], sequence


@with_column
def attention_pool_forward(
    x: Tensor,
    attention: Tensor,
    offsets: Tensor,
    lengths: Tensor,
    threshold: Sequence[float],
    inclusive: bool,
    normalize: bool,
) -> tuple[Tensor, Tensor]:
    dtype = accumulation_dtype(torch.promote_types(x.dtype, attention.dtype))
    selected, _ = _selected(attention, offsets, lengths, threshold, inclusive)
    mass = segment_sum(torch.where(selected, attention, 0).double(), offsets).to(dtype)
    embedding = weighted_sum(x.to(dtype), attention.to(dtype), selected, offsets)
    if normalize:
        embedding = torch.where(mass[..., None] != 0, embedding / mass[..., None], 0)
    return embedding.to(x.dtype), mass


@with_column_backward
def attention_pool_backward(
    grad: Tensor,
    grad_mass: Tensor | None,
    mass: Tensor,
    x: Tensor,
    attention: Tensor,
    offsets: Tensor,
    lengths: Tensor,
    threshold: Sequence[float],
    inclusive: bool,
    normalize: bool,
    need_x: bool,
    need_attention: bool,
) -> tuple[Tensor, Tensor]:
    (n, columns), dtype = mass.shape, mass.dtype
    grad_x, grad_attention = x.new_zeros(0), attention.new_zeros(0)
    if n == 0:
        return (
            torch.zeros_like(x, memory_format=torch.contiguous_format) if need_x else grad_x,
            torch.zeros_like(attention, memory_format=torch.contiguous_format)
            if need_attention
            else grad_attention,
        )
    selected, sequence = _selected(attention, offsets, lengths, threshold, inclusive)
    grad = grad.to(dtype)
    if normalize:
        grad = torch.where(mass[..., None] != 0, grad / mass[..., None], 0)
    table = grad.reshape(n * columns, -1)
    index = sequence[:, None] * columns + torch.arange(columns, device=x.device)
    if need_x:
        # Rows that are not selected read a row of zeros, so that a NaN gradient stays with its own rows.
        with_zero = torch.cat([table, table.new_zeros(1, table.shape[1])])
        weight = torch.where(selected, attention, 0).to(dtype)
        grad_x = weighted_rows(with_zero, torch.where(selected, index, n * columns), weight).to(x.dtype)
    if need_attention:
        each = torch.where(selected, row_dots(x.to(dtype), table, index), 0)
        through_mass = torch.zeros_like(mass) if grad_mass is None else grad_mass.to(dtype)
        if normalize:
            spread = segment_sum((each * torch.where(selected, attention, 0)).double(), offsets).to(dtype)
            through_mass = through_mass - torch.where(mass != 0, spread / mass, 0)
        grad_attention = torch.where(selected, each + through_mass[sequence], 0).to(attention.dtype)
    return grad_x, grad_attention


@with_column
def attention_pool(
    x: Tensor,
    attention: Tensor,
    offsets: Tensor,
    lengths: Tensor,
    threshold: Sequence[float],
    inclusive: bool = False,
    normalize: bool = False,
) -> tuple[Tensor, Tensor]:
    """(n, A, D) sums of attention * x over the rows whose attention passes, (n, A) sums of the attention.

    Without the axis A where attention is (total,).
    """
    dtype = accumulation_dtype(torch.promote_types(x.dtype, attention.dtype))
    selected, _ = _selected(attention.detach(), offsets, lengths, threshold, inclusive)
    weight = torch.where(selected, attention, 0).to(dtype)
    mass = segment_sum(weight, offsets)
    products = weight[:, :, None] * torch.where(selected[:, :, None], x.to(dtype)[:, None, :], 0)
    embedding = segment_sum(products, offsets)
    if normalize:
        some = mass[..., None] != 0
        embedding = torch.where(some, embedding / torch.where(some, mass[..., None], 1), 0)
    return embedding.to(x.dtype), mass
