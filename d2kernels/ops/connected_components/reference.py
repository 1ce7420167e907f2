"""connected_components in plain PyTorch: the oracle, the fallback and the documentation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from d2kernels.ops._capacity import padded
from d2kernels.ops._rows import rows


def connected_components(
    scores: Tensor,
    offsets: Tensor,
    lengths: Tensor,
    thresholds: Tensor,
    class_mask: Tensor | None,
    min_length: int,
    distinct: bool,
) -> Tensor:
    """(5, m): sequence, label, threshold, start, end of each run.

    A run is above in every row and neither in the row before nor in the row after. With `distinct` it is left out
    where both of these are at or below the threshold before as well: it is then a run at that threshold too.
    """
    n, (total, classes), levels = lengths.shape[0], scores.shape, thresholds.shape[-1]
    if n == 0 or scores.numel() == 0:
        return offsets.new_empty((5, 0))
    sequence, place, valid = rows(offsets, lengths, total)
    has_before, has_after = place > 0, place + 1 < lengths[sequence]
    x = scores.to(thresholds.dtype).t()
    look = valid.expand(classes, total)
    if class_mask is not None:
        look = look & class_mask[sequence].t()

    found, near = [], None
    for level in range(levels):
        threshold = thresholds[level] if thresholds.dim() == 1 else thresholds[..., level][sequence].t()
        above = (x > threshold) & look
        before = above.roll(1, 1) & has_before
        after = above.roll(-1, 1) & has_after
        label, first = (above & ~before).nonzero(as_tuple=True)
        last = (above & ~after).nonzero(as_tuple=True)[1]
        keep = last - first + 1 >= min_length
        if distinct and near is not None:
            keep &= near[0][label, first] | near[1][label, last]
        near = before, after
        label, first, last = label[keep], first[keep], last[keep]
        found.append(
            torch.stack([sequence[first], label, torch.full_like(label, level), place[first], place[last] + 1])
        )
    out = torch.cat(found, 1)
    return out[:, ((out[0] * classes + out[1]) * levels + out[2]).argsort(stable=True)]


def of_capacity(found: Tensor, capacity: int | None) -> tuple[Tensor, Tensor]:
    """The op's result from all columns (5, m): -1 beyond them, and their number."""
    return padded("connected_components", found, capacity, -1), found.new_full((), found.shape[1])


def connected_components_forward(*given: Any) -> tuple[Tensor, Tensor]:
    *options, capacity = given
    return of_capacity(connected_components(*options), capacity)
