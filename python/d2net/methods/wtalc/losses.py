"""The co-activity similarity loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

import d2kernels as d2k
from d2net.methods.pooling import attended, softmax_over_time


def similarity_loss(x: d2k.Ragged, logits: d2k.Ragged, labels: Tensor, counted: Tensor, margin: float) -> Tensor:
    """L_CAS: in videos of a class, what its high attention sees is alike, and unlike what its low attention sees.

    With H the class's softmax attention times X, and L that of (1 - attention) / (s - 1), each pair m, n of videos that
    share class j gives ½ [max(0, d(H_m, H_n) - d(H_m, L_n) + δ) + max(0, d(H_m, H_n) - d(L_m, H_n) + δ)], d being
    1 - cosine; then the mean over a class's pairs, and over the classes that have one.

    Args:
        x: X (total, D); logits: A (total, C).
        labels: (n, C) bool; counted: (n,) bool, videos that take part; margin: δ.

    Returns:
        0-d; 0 without a pair.
    """
    weights = softmax_over_time(logits)
    sums, mass = attended(x, torch.cat([weights, torch.ones_like(weights[:, :1])], 1))
    high = sums[:, :-1] / mass[:, :-1, None].clamp(min=torch.finfo(mass.dtype).tiny)
    # A video of one snippet has no low attention: L is 0, which is at distance 1 from everything.
    low = (sums[:, -1:] - high) / (mass[:, -1:, None] - 1).clamp(min=1)
    low = torch.where((x.lengths > 1)[:, None, None], low, 0)
    high, low = (F.normalize(v, dim=2, eps=1e-8).transpose(0, 1) for v in (high, low))
    # Σ over ordered pairs of max(0, cos(H_m, L_n) - cos(H_m, H_n) + δ): both halves of every pair.
    hinge = F.relu(high @ low.transpose(1, 2) - high @ high.transpose(1, 2) + margin)
    own = (labels & counted[:, None]).t()
    pairs = own[:, :, None] & own[:, None] & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    count = pairs.sum((1, 2))
    of_class = torch.where(pairs, hinge, 0).sum((1, 2)) / count.clamp(min=1)
    return of_class.sum() / (count > 0).sum().clamp(min=1)
