"""Row bookkeeping that the reference backends share; no host synchronisation, shapes known in advance."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


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
    sequence = torch.bucketize(row, offsets[1:], right=True).clamp_(max=n - 1)
    place = row - offsets[sequence]
    return Rows(sequence, place, (place >= 0) & (place < lengths[sequence]))


def segment_sum(x: Tensor, offsets: Tensor, total: Tensor | None = None) -> Tensor:
    """Sums rows (total, ...) over each [offsets[i], offsets[i+1]) in row order; gap rows must be zero. (n, ...)."""
    if offsets.shape[0] == 1 or x.shape[0] == 0:
        return x.new_zeros((offsets.shape[0] - 1, *x.shape[1:]))
    return torch.segment_reduce(x, "sum", offsets=offsets, axis=0, unsafe=True, initial=0)


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 stays, everything else sums in float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32
