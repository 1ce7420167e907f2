"""BaS-Net's losses of videos."""

from __future__ import annotations

import torch
from torch import Tensor

import d2kernels as d2k
from d2kernels.ops._rows import segment_sum
from d2net.methods.pooling import mean_over

CLAMP = 100.0  # of a log, as F.binary_cross_entropy bounds it


def branch_loss(scores: Tensor, labels: Tensor, background: bool, counted: Tensor) -> Tensor:
    """Binary cross-entropy of p = softmax(scores) over the classes and the background, the mean over both and videos.

    Args:
        scores: (n, C + 1), the background last; labels: (n, C) bool.
        background: whether every video has it, as the base branch says, or none, as the suppression branch does.
        counted: (n,) bool.
    """
    last = torch.full_like(scores[:, :1], float(background))
    y = torch.cat([labels.to(scores.dtype), last], 1)
    y = y / y.sum(1, keepdim=True).clamp(min=1)
    log_p = torch.log_softmax(scores, 1)
    # log(1 - p), without the cancellation of p near 1.
    log_rest = torch.log1p(-log_p.exp().clamp(max=1 - 1e-6))
    entries = y * log_p.clamp(min=-CLAMP) + (1 - y) * log_rest
    return mean_over(-entries.mean(1), counted)


def norm_loss(x: d2k.Ragged, weights: Tensor, counted: Tensor) -> Tensor:
    """Σ_t |W[t]| of a video, the mean over videos; weights: (total, 1), x: any Ragged of the same rows."""
    rows = torch.where(x.row_mask()[:, None], weights.float().abs(), 0)
    return mean_over(segment_sum(rows, x.offsets)[:, 0], counted)
