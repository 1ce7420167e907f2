"""The running background reference x_ref of Eq. 8."""

from __future__ import annotations

import torch
from torch import Tensor

import d2kernels as d2k
from d2kernels.ops.attention_pool import AttentionPool
from d2kernels.ops.losses.reference import kept_videos
from d2net.sections import LossConfig


@torch.no_grad()
def updated_reference(
    reference: Tensor, x: d2k.Ragged, attention: Tensor, pooled: AttentionPool, labels: Tensor, config: LossConfig
) -> Tensor:
    """momentum · x_ref + (1 - momentum) · the mean over the videos that have background; unchanged without any.

    Args:
        reference: (D,).
        x: rows (total, D); attention: λ (total,); pooled: of foreground and background.
        labels: (n, C) bool.
    """
    if config.reference_source == "lowest":
        place = d2k.lowest_attention(x.with_values(attention))
        row = (x.offsets[:-1] + place).clamp(min=0, max=max(x.values.shape[0] - 1, 0))
        source = x.values[row]
    else:
        source = pooled.embedding[:, 1]
    keep = kept_videos(x.lengths, labels, config.min_snippets)
    return mixed_reference(reference, source, pooled.mass, keep, config.reference_momentum)


@torch.no_grad()
def mixed_reference(reference: Tensor, source: Tensor, mass: Tensor, keep: Tensor, momentum: float) -> Tensor:
    """As `updated_reference`, from each video's candidate: source (n, D); mass: (n, 2); keep: (n,) bool."""
    has = (mass[:, 1] > 0) & keep
    counted = torch.where(has[:, None], source, 0)
    n = has.sum()
    mean = (counted.sum(0) / n.clamp(min=1)).to(reference.dtype)
    mixed = momentum * reference + (1 - momentum) * mean
    return torch.where(n > 0, mixed, reference)
