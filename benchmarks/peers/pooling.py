"""Attention pooling and foreground scores by padded torch ops, torch.segment_reduce and jagged nested tensors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def selected(attention: Tensor, threshold: float) -> Tensor:
    return torch.where(attention > threshold, attention, 0)


def padded(x: Tensor, attention: Tensor, mask: Tensor, threshold: float = 0.5) -> tuple[Tensor, Tensor]:
    """(n, 2, D) foreground and background sums and their masses, of (n, s, D) and λ (n, s)."""
    both = torch.stack([attention, 1 - attention], 1)
    weights = selected(both, threshold) * mask[:, None]
    return torch.bmm(weights, x), weights.sum(2)


def segment_reduce(x: Tensor, attention: Tensor, lengths: Tensor, threshold: float = 0.5) -> tuple[Tensor, Tensor]:
    """The same of packed rows (total, D) and λ (total,)."""
    weights = selected(torch.stack([attention, 1 - attention], 1), threshold)
    rows = weights[:, :, None] * x[:, None]
    return (
        torch.segment_reduce(rows, "sum", lengths=lengths, axis=0, unsafe=True),
        torch.segment_reduce(weights, "sum", lengths=lengths, axis=0, unsafe=True),
    )


def nested(x: Tensor, attention: Tensor, offsets: Tensor, threshold: float = 0.5) -> tuple[Tensor, Tensor]:
    """The same with torch's jagged layout."""
    weights = selected(torch.stack([attention, 1 - attention], 1), threshold)
    rows = torch.nested.nested_tensor_from_jagged((weights[:, :, None] * x[:, None]).flatten(1), offsets)
    mass = torch.nested.nested_tensor_from_jagged(weights, offsets)
    return rows.sum(1).unflatten(1, (2, -1)), mass.sum(1)


def padded_foreground(x: Tensor, mask: Tensor, reference: Tensor) -> Tensor:
    """λ' (n, s) of a padded batch."""
    return (1 - F.cosine_similarity(x, reference, dim=-1)) / 2 * mask


def padded_lowest(attention: Tensor, mask: Tensor) -> Tensor:
    return attention.masked_fill(~mask, float("inf")).argmin(1)
