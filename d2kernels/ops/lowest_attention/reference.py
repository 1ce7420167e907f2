"""lowest_attention in plain PyTorch: the oracle, the fallback and the documentation."""

from __future__ import annotations

import torch
from torch import Tensor

from d2kernels.ops._rows import rows


def lowest_attention_forward(attention: Tensor, offsets: Tensor, lengths: Tensor) -> Tensor:
    """(n,): the smallest place in the sequence of a row that equals its sequence's minimum; NaN is lowest."""
    n, total = lengths.shape[0], attention.shape[0]
    sequence, place, valid = rows(offsets, lengths, total)
    bucket = torch.where(valid, sequence, n)
    lowest = attention.new_full((n + 1,), float("inf")).scatter_reduce_(0, bucket, attention, "amin")[bucket]
    first = ((attention == lowest) | (attention.isnan() & lowest.isnan())) & valid
    found = lengths.new_full((n + 1,), total)
    found.scatter_reduce_(0, bucket, torch.where(first, place, total), "amin")
    return torch.where(found < total, found, -1)[:n]


lowest_attention = lowest_attention_forward
