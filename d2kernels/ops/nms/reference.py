"""nms and soft_nms in plain PyTorch: every group takes its best remaining segment at once, round after round."""

from __future__ import annotations

import torch
from torch import Tensor

from d2kernels.ops._capacity import padded


def of_capacity(kept: Tensor, capacity: int | None) -> tuple[Tensor, Tensor]:
    """The result of nms from all indices: -1 beyond them, and their number."""
    return padded("nms", kept, capacity, -1), kept.new_full((), kept.shape[0])


def of_capacity_soft(kept: Tensor, decayed: Tensor, capacity: int | None) -> tuple[Tensor, Tensor, Tensor]:
    columns = padded("soft_nms", kept, capacity, -1), padded("soft_nms", decayed, capacity, 0)
    return (*columns, kept.new_full((), kept.shape[0]))


def times(segments: Tensor) -> Tensor:
    """Floats as float64, integers as int64: nanoseconds since 1970 have more bits than a float64 holds."""
    return segments.double() if segments.is_floating_point() else segments.long()


def _between(start: Tensor, end: Tensor) -> Tensor:
    """end - start, at least 0, in float64; integers are subtracted before they are converted."""
    if start.is_floating_point():
        return (end - start).clamp(min=0)
    apart = (end - start).double()
    # What lies further apart than int64 holds has wrapped to the other sign.
    return torch.where(end > start, torch.where(apart < 0, apart + 2.0**64, apart), 0)


def _iou(a: Tensor, b: Tensor) -> Tensor:
    """(m,) overlap of rows of (m, 2) segments, float64; two empty segments overlap by 0."""
    both = _between(torch.maximum(a[:, 0], b[:, 0]), torch.minimum(a[:, 1], b[:, 1]))
    union = _between(a[:, 0], a[:, 1]) + _between(b[:, 0], b[:, 1]) - both
    return torch.where(union > 0, both / torch.where(union > 0, union, 1), 0)


def of_one(scores: Tensor, groups: Tensor | None) -> Tensor:
    """(m,) groups; None are all of one group."""
    return torch.zeros(scores.shape, dtype=torch.int64, device=scores.device) if groups is None else groups


def clusters(segments: Tensor, groups: Tensor) -> Tensor:
    """(m,) finer groups: a group's segments that are connected by overlaps. Others cannot suppress each other."""
    # Ranks in place of times: with offsets that part the groups, times of very different size would round together.
    times = segments.reshape(-1).sort().values
    place = torch.searchsorted(times, segments.contiguous())
    order = place[:, 0].argsort(stable=True)
    order = order[groups[order].argsort(stable=True)]
    g, (start, end) = groups[order], place[order].unbind(1)
    new = torch.zeros_like(g, dtype=torch.bool)
    new[1:] = g[1:] != g[:-1]
    # One running maximum serves all groups: each lies above the ends of those before it.
    offset = new.cumsum(0) * times.shape[0]
    reach = torch.cummax(end + offset, 0).values
    new[1:] |= (start + offset)[1:] >= reach[:-1]
    cluster = torch.empty_like(groups)
    cluster[order] = new.cumsum(0)
    return cluster


def _leaders(groups: Tensor) -> tuple[Tensor, Tensor]:
    """Of sorted groups: which rows are the first of theirs, and for each row the position of that first."""
    first = torch.ones_like(groups, dtype=torch.bool)
    first[1:] = groups[1:] != groups[:-1]
    return first, first.nonzero()[:, 0][first.cumsum(0) - 1]


def nms(segments: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float, inclusive: bool) -> Tensor:
    """(kept,) indices."""
    if scores.shape[0] == 0:
        return torch.empty_like(groups)
    segments = times(segments)
    by_score = scores.double().argsort(descending=True, stable=True)
    if iou_threshold > 0 or not inclusive:
        groups = clusters(segments, groups)
    left = by_score[groups[by_score].argsort(stable=True)]
    kept = []
    while left.shape[0]:
        first, leader = _leaders(groups[left])
        kept.append(left[first])
        iou = _iou(segments[left], segments[left[leader]])
        removed = iou >= iou_threshold if inclusive else iou > iou_threshold
        left = left[~(first | removed)]
    chosen = torch.zeros_like(scores, dtype=torch.bool)
    chosen[torch.cat(kept)] = True
    return by_score[chosen[by_score]]


def soft_nms(
    segments: Tensor, scores: Tensor, groups: Tensor, sigma: float, score_threshold: float
) -> tuple[Tensor, Tensor]:
    """(kept,) indices and decayed scores."""
    if scores.shape[0] == 0:
        return torch.empty_like(groups), scores.clone()
    segments, current = times(segments), scores.double().clone()
    groups = clusters(segments, groups)
    left = torch.arange(scores.shape[0], device=scores.device)
    final = torch.full_like(current, float("-inf"))
    taken = torch.zeros_like(current, dtype=torch.bool)
    while True:
        left = left[current[left] > score_threshold]
        if not left.shape[0]:
            break
        left = left[current[left].argsort(descending=True, stable=True)]
        left = left[groups[left].argsort(stable=True)]
        first, leader = _leaders(groups[left])
        best = left[first]
        taken[best], final[best] = True, current[best]
        iou = _iou(segments[left], segments[left[leader]])
        # A negative score would rise under decay; it is left as it is.
        decayed = current[left] * torch.where(current[left] > 0, (-iou.square() / sigma).exp(), 1)
        current[left] = torch.where(first, current[left], decayed)
        left = left[~first].sort().values
    order = final.argsort(descending=True, stable=True)
    order = order[taken[order]]
    return order, final[order].to(scores.dtype)


def nms_forward(
    segments: Tensor, scores: Tensor, groups: Tensor | None, iou_threshold: float, inclusive: bool, capacity: int | None
) -> tuple[Tensor, Tensor]:
    return of_capacity(nms(segments, scores, of_one(scores, groups), iou_threshold, inclusive), capacity)


def soft_nms_forward(
    segments: Tensor, scores: Tensor, groups: Tensor | None, sigma: float, score_threshold: float, capacity: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    kept, decayed = soft_nms(segments, scores, of_one(scores, groups), sigma, score_threshold)
    return of_capacity_soft(kept, decayed, capacity)
