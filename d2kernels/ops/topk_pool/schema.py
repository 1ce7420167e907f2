"""Schema and fake kernels of topk_pool."""

from __future__ import annotations

import torch
from torch import Tensor

from d2kernels.ops._library import define


def _fake(scores: Tensor, offsets: Tensor, lengths: Tensor, k: Tensor) -> tuple[Tensor, ...]:
    shape = (lengths.shape[0], scores.shape[1])
    count = scores.new_empty(shape, dtype=torch.int32)
    return scores.new_empty(shape), scores.new_empty(shape), count, torch.empty_like(count)


topk_pool = define(
    "topk_pool",
    "topk_pool",
    "(Tensor scores, Tensor offsets, Tensor lengths, Tensor k)"
    " -> (Tensor mean, Tensor threshold, Tensor above, Tensor tied)",
    _fake,
)
topk_indices = define(
    "topk_pool",
    "topk_indices",
    "(Tensor scores, Tensor offsets, Tensor lengths, Tensor k, int most) -> Tensor",
    lambda scores, offsets, lengths, k, most: lengths.new_empty((lengths.shape[0], scores.shape[1], most)),
)
topk_pool_backward = define(
    "topk_pool",
    "topk_pool_backward",
    "(Tensor grad, Tensor scores, Tensor offsets, Tensor lengths, Tensor k,"
    " Tensor threshold, Tensor above, Tensor tied) -> Tensor",
    lambda grad, scores, *_: torch.empty_like(scores, memory_format=torch.contiguous_format),
)
