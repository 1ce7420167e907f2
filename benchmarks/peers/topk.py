"""Top-k mean by torch.topk on a padded batch, and by np.partition on each sequence."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def padded(scores: Tensor, mask: Tensor, k: Tensor, most: int) -> Tensor:
    """(n, C) mean of each sequence's k largest of (n, s, C); `most` is the largest k."""
    top = scores.masked_fill(~mask[..., None], float("-inf")).topk(most, dim=1).values
    counted = torch.arange(most, device=k.device) < k[:, None]
    return torch.where(counted[..., None], top, 0).sum(1) / k[:, None]


def partition(scores: list[np.ndarray], k: list[int]) -> np.ndarray:
    """The same of a list of (s, C) arrays."""
    return np.stack(
        [np.partition(x, len(x) - m, axis=0)[len(x) - m :].mean(0) for x, m in zip(scores, k, strict=True)]
    )
