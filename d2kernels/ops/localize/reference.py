"""localize in plain PyTorch: smoothing, upsampling, components, contrast scores, NMS, keep rule."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

import d2kernels as d2k
from d2kernels._arguments import LARGEST, listed
from d2kernels.ops._rows import rows
from d2kernels.ops.localize.capacity import NOT_A_NUMBER, padded
from d2kernels.ragged import Ragged


class Sums(NamedTuple):
    """Prefix sums of every sequence on its own, (total + n, C) float64, and where each sequence's begin."""

    values: Tensor
    start: Tensor


def prefix_sums(x: Ragged) -> Sums:
    """Row start[i] + t holds the sum of sequence i's first t rows; NaN counts as 0."""
    clean = torch.where(x.values.isnan(), 0, x.values).double()
    out = clean.new_zeros((int(x.lengths.sum()) + len(x), clean.shape[1]))
    at = x.lengths.cumsum(0) - x.lengths + torch.arange(len(x), device=x.device)
    # Sequence by sequence: one running sum would carry rounding from neighbour to neighbour.
    for first, s, to in zip(listed(x.offsets), listed(x.lengths), at.tolist(), strict=False):
        torch.cumsum(clean[first : first + s], 0, out=out[to + 1 : to + s + 1])
    return Sums(out, at)


def smoothed(x: Ragged, width: int) -> Ragged:
    """Moving average over `width` rows, odd, of those that exist."""
    if width == 1 or len(x) == 0:
        return x
    sums = prefix_sums(x)
    sequence, place, valid = rows(x.offsets, x.lengths, x.values.shape[0])
    low = (place - width // 2).clamp(min=0)
    high = torch.minimum(place + width // 2 + 1, x.lengths[sequence])
    low, high = torch.where(valid, low, 0), torch.where(valid, high, 0)
    base = sums.start[sequence]
    mean = (sums.values[base + high] - sums.values[base + low]) / (high - low).clamp(min=1)[:, None]
    return x.with_values(torch.where(valid[:, None], mean, 0).to(x.values.dtype))


def upsampled(x: Ragged, factor: int) -> Ragged:
    """Linear interpolation: row j of factor · s lies at (j + 0.5) / factor − 0.5, clamped to the sequence."""
    if factor == 1:
        return x
    lengths = x.lengths * factor
    offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    sequence, place, _ = rows(offsets, lengths, int(offsets[-1]))
    last = (x.lengths[sequence] - 1).double()
    at = torch.minimum(((place.double() + 0.5) / factor - 0.5).clamp(min=0), last)
    low = at.floor().long()
    high = torch.minimum(low + 1, x.lengths[sequence] - 1)
    weight = (at - low).to(x.values.dtype)[:, None]
    base = x.offsets[sequence]
    values = x.values[base + low] * (1 - weight) + x.values[base + high] * weight
    return Ragged(values, offsets, lengths)


def own_thresholds(x: Ragged, thresholds: Tensor, relative: str | None) -> Tensor:
    """(T,), or (n, C, T) scaled to each sequence and class's maximum or to its range."""
    if relative is None:
        return thresholds
    highest = d2k.topk_pool(x, k=1).double()[..., None]
    if relative == "max":
        return (thresholds * highest.clamp(min=0)).to(x.values.dtype)
    lowest = -d2k.topk_pool(x.with_values(-x.values), k=1).double()[..., None]
    return (lowest + thresholds * (highest - lowest)).to(x.values.dtype)


def contrast(sums: Sums, lengths: Tensor, found: Tensor, margin: float, pooled: bool) -> Tensor:
    """(m,) inner mean minus outer mean; the outer rows are max(1, ⌊width · margin⌋) on either side.

    Args:
        found: rows sequence, label, threshold, start, end.
        pooled: one mean over both sides' rows, else the mean of the means of the sides that exist.
    """
    sequence, label, _, start, end = found
    base = sums.start[sequence]

    def total(a: Tensor, b: Tensor) -> Tensor:
        return sums.values[base + b, label] - sums.values[base + a, label]

    width = end - start
    reach = torch.minimum((width.double() * margin).floor(), lengths[sequence].double()).long().clamp(min=1)
    low, high = (start - reach).clamp(min=0), torch.minimum(end + reach, lengths[sequence])
    left, right = start - low, high - end
    inner = total(start, end) / width
    if pooled:
        outer = (total(low, start) + total(end, high)) / (left + right).clamp(min=1)
    else:
        means = total(low, start) / left.clamp(min=1) + total(end, high) / right.clamp(min=1)
        outer = means / ((left > 0).long() + (right > 0).long()).clamp(min=1)
    return inner - outer


def localize_forward(
    activations: Tensor,
    offsets: Tensor,
    lengths: Tensor,
    thresholds: Tensor,
    class_mask: Tensor | None,
    margin: float,
    pooled: bool,
    min_score: float | None,
    min_length: int,
    iou_threshold: float,
    inclusive: bool,
    sigma: float | None,
    keep_ratio: float | None,
    keep_per_class: bool,
    upsample: int,
    smoothing: int,
    relative: str | None,
    class_score: Tensor | None,
    capacity: int | None,
) -> tuple[Tensor, ...]:
    classes, n = activations.shape[1], lengths.shape[0]
    x = upsampled(smoothed(Ragged._trusted(activations, offsets, lengths), smoothing), upsample)
    own, shortest = own_thresholds(x, thresholds, relative), min(min_length * upsample, LARGEST)
    found = torch.stack(d2k.connected_components(x, own, class_mask=class_mask, min_length=shortest))
    score = contrast(prefix_sums(x), x.lengths, found, margin, pooled)
    if min_score is not None:
        found, score = found[:, score >= min_score], score[score >= min_score]
    if class_score is not None:
        score = score + class_score.double()[found[0], found[1]]
    if score.isnan().any():
        raise ValueError(NOT_A_NUMBER)
    group = found[0] * classes + found[1]
    if sigma is None:
        kept = d2k.nms(found[3:].mT, score, iou_threshold, group, inclusive=inclusive)
        score = score[kept]
    else:
        kept, score = d2k.soft_nms(found[3:].mT, score, sigma, group, score_threshold=-float("inf"))
    found = found[:, kept]
    if keep_ratio is not None:
        scope = found[0] * classes + found[1] if keep_per_class else found[0]
        best = torch.full(
            (n * (classes if keep_per_class else 1),), -float("inf"), dtype=score.dtype, device=score.device
        )
        best = best.scatter_reduce(0, scope, score, "amax")[scope]
        keep = (best > 0) & (score >= keep_ratio * best)
        found, score = found[:, keep], score[keep]
    # By sequence, falling score, label, start: stable sorts from the last key to the first.
    order = found[3].argsort(stable=True)
    order = order[found[1][order].argsort(stable=True)]
    order = order[score[order].argsort(descending=True, stable=True)]
    order = order[found[0][order].argsort(stable=True)]
    sequence, label, _, start, end = found[:, order]
    count = torch.bincount(sequence, minlength=n)
    columns = sequence.clone(), label.clone(), start.double() / upsample, end.double() / upsample, score[order]
    return padded((*columns, count), capacity)
