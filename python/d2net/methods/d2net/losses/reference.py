"""The running background reference x_ref of Eq. 8."""

from __future__ import annotations

import torch
from torch import Tensor

import d2kernels as d2k
from d2net.config import LossConfig
from d2net.methods.d2net.losses.discriminative import Embeddings


@torch.no_grad()
def updated_reference(reference: Tensor, x: d2k.Ragged, attention: Tensor, e: Embeddings, config: LossConfig) -> Tensor:
    """momentum · x_ref + (1 - momentum) · the mean over the videos that have background; unchanged without any.

    Args:
        reference: (D,).
        x: rows (total, D); attention: λ (total,).
    """
    if config.reference_source == "lowest":
        place = d2k.lowest_attention(x.with_values(attention))
        row = (x.offsets[:-1] + place).clamp(min=0, max=max(x.values.shape[0] - 1, 0))
        source = x.values[row]
    else:
        source = e.background
    counted = torch.where(e.has_background[:, None], source, 0)
    n = e.has_background.sum()
    mean = (counted.sum(0) / n.clamp(min=1)).to(reference.dtype)
    mixed = config.reference_momentum * reference + (1 - config.reference_momentum) * mean
    return torch.where(n > 0, mixed, reference)
