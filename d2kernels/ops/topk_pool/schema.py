"""Schema and fake kernels of topk_pool.

How many of a sequence count: k (n,), or where that is None `each`, or where that is 0 its length / divisor, rounded up
with `ceil`; clipped to [1, length]. What the backward needs is empty without `for_backward`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from d2kernels.ops._library import define


def _fake(
    scores: Tensor,
    offsets: Tensor,
    lengths: Tensor,
    k: Tensor | None,
    each: int = 0,
    divisor: int = 1,
    ceil: bool = False,
    for_backward: bool = True,
) -> tuple[Tensor, ...]:
    shape = (lengths.shape[0], scores.shape[1])
    kept = shape if for_backward else (0,)
    count = scores.new_empty(kept, dtype=torch.int32)
    return scores.new_empty(shape), scores.new_empty(kept), count, torch.empty_like(count)


def counts(lengths: Tensor, k: Tensor | None, each: int = 0, divisor: int = 1, ceil: bool = False) -> Tensor:
    """(n,) int64 in [1, length]; 1 for an empty sequence, whose result is 0."""
    if k is not None:
        return torch.minimum(k.long(), lengths).clamp(min=1)
    if each:
        return lengths.clamp(1, each)
    whole = torch.div(lengths + (divisor - 1 if ceil else 0), divisor, rounding_mode="floor")
    return whole.clamp_(min=1)  # a length by a divisor is no more than the length


topk_pool = define(
    "topk_pool",
    "topk_pool",
    "(Tensor scores, Tensor offsets, Tensor lengths, Tensor? k, int each=0, int divisor=1, bool ceil=False,"
    " bool for_backward=True) -> (Tensor mean, Tensor threshold, Tensor above, Tensor tied)",
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
    "(Tensor grad, Tensor scores, Tensor offsets, Tensor lengths, Tensor? k, Tensor threshold, Tensor above,"
    " Tensor tied, int each=0, int divisor=1, bool ceil=False) -> Tensor",
    lambda grad, scores, *_: torch.empty_like(scores, memory_format=torch.contiguous_format),
)
