"""topk_pool in plain PyTorch: the oracle, the fallback and the documentation."""

from __future__ import annotations

import torch
from torch import Tensor

from d2kernels.ops._rows import accumulation_dtype, rows, segment_sum
from d2kernels.ops.topk_pool.schema import counts


def _compare(scores: Tensor, threshold: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Which rows lie above, and which tie with, their sequence's threshold; NaN sorts above everything."""
    nan, nan_threshold = scores.isnan(), threshold.isnan()
    above = (scores > threshold) | (nan & ~nan_threshold)
    tied = (scores == threshold) | (nan & nan_threshold)
    return above & valid[:, None], tied & valid[:, None]


def _ordered(scores: Tensor, offsets: Tensor, lengths: Tensor) -> Tensor:
    """(total, C): each class's rows, the sequences' one after the other, by falling score and then by row."""
    sequence, _, valid = rows(offsets, lengths, scores.shape[0])
    key = sequence.masked_fill(~valid, lengths.shape[0])[:, None].expand_as(scores)
    by_score = scores.argsort(dim=0, descending=True, stable=True)
    return by_score.gather(0, key.gather(0, by_score).argsort(dim=0, stable=True))


def topk_indices_forward(scores: Tensor, offsets: Tensor, lengths: Tensor, k: Tensor, most: int) -> Tensor:
    n, (total, classes) = lengths.shape[0], scores.shape
    if n == 0 or total == 0 or most == 0:
        return lengths.new_full((n, classes, most), -1)
    place = torch.arange(most, device=scores.device)
    start = lengths.cumsum(0) - lengths
    at = (start[:, None] + place).clamp(max=total - 1)
    found = _ordered(scores, offsets, lengths)[at] - offsets[:-1, None, None]
    taken = place < torch.minimum(k, lengths)[:, None]
    return torch.where(taken[:, :, None], found, -1).transpose(1, 2).contiguous()


def _threshold(scores: Tensor, offsets: Tensor, lengths: Tensor, k: Tensor) -> Tensor:
    """(n, C): the k-th largest score of each sequence and class; 0 for an empty sequence."""
    n = lengths.shape[0]
    if n == 0 or scores.shape[0] == 0:
        return scores.new_zeros((n, scores.shape[1]))
    ordered = scores.gather(0, _ordered(scores, offsets, lengths))
    start = lengths.cumsum(0) - lengths
    kth = ordered[(start + k - 1).clamp(0, scores.shape[0] - 1)]
    return torch.where((lengths > 0)[:, None], kth, 0)


def topk_pool_forward(
    scores: Tensor,
    offsets: Tensor,
    lengths: Tensor,
    k: Tensor | None,
    each: int = 0,
    divisor: int = 1,
    ceil: bool = False,
    for_backward: bool = True,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    made = _forward(scores, offsets, lengths, counts(lengths, k, each, divisor, ceil))
    return made if for_backward else (made[0], None, None, None)


def _forward(scores: Tensor, offsets: Tensor, lengths: Tensor, k: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    threshold = _threshold(scores, offsets, lengths, k)
    sequence, _, valid = rows(offsets, lengths, scores.shape[0])
    dtype = accumulation_dtype(scores.dtype)
    if lengths.shape[0] == 0:
        empty = torch.zeros_like(threshold, dtype=torch.int32)
        return threshold.clone(), threshold, empty, empty.clone()
    above, tied = _compare(scores, threshold[sequence], valid)
    total = segment_sum(torch.where(above, scores, 0).to(dtype), offsets)
    n_above = segment_sum(above.to(torch.float64), offsets)
    n_tied = segment_sum(tied.to(torch.float64), offsets)
    kk = k[:, None].to(dtype)
    mean = (total + (kk - n_above.to(dtype)) * threshold.to(dtype)) / kk
    mean = torch.where((lengths > 0)[:, None], mean, 0)
    return mean.to(scores.dtype), threshold, n_above.int(), n_tied.int()


def topk_pool_backward(
    grad: Tensor,
    scores: Tensor,
    offsets: Tensor,
    lengths: Tensor,
    k: Tensor | None,
    threshold: Tensor,
    above: Tensor,
    tied: Tensor,
    each: int = 0,
    divisor: int = 1,
    ceil: bool = False,
) -> Tensor:
    k = counts(lengths, k, each, divisor, ceil)
    if lengths.shape[0] == 0:
        return torch.zeros_like(scores, memory_format=torch.contiguous_format)
    sequence, _, valid = rows(offsets, lengths, scores.shape[0])
    dtype = accumulation_dtype(scores.dtype)
    is_above, is_tied = _compare(scores, threshold[sequence], valid)
    kk = k[:, None].to(dtype)
    whole = grad.to(dtype) / kk
    share = whole * (kk - above) / tied.clamp(min=1)
    return (torch.where(is_above, whole[sequence], 0) + torch.where(is_tied, share[sequence], 0)).to(scores.dtype)


def topk_pool(
    scores: Tensor,
    offsets: Tensor,
    lengths: Tensor,
    k: Tensor | None,
    each: int = 0,
    divisor: int = 1,
    ceil: bool = False,
) -> Tensor:
    """(n, C) mean of the k largest scores of each sequence and class, differentiable; k, each and so on as schema.py.

    mean = (sum of the scores above the k-th largest + (k - how many those are) times the k-th largest) / k, where
    the ties at the k-th largest enter through their own mean, which has the same value and shares the gradient.
    """
    if lengths.shape[0] == 0:
        return scores.new_zeros((0, scores.shape[1]))
    k = counts(lengths, k, each, divisor, ceil)
    threshold = _threshold(scores.detach(), offsets, lengths, k)
    sequence, _, valid = rows(offsets, lengths, scores.shape[0])
    above, tied = _compare(scores.detach(), threshold[sequence], valid)
    up = scores.to(accumulation_dtype(scores.dtype))
    n_above, n_tied = (segment_sum(m.to(up.dtype), offsets) for m in (above, tied))
    of_above, of_tied = (segment_sum(torch.where(m, up, 0), offsets) for m in (above, tied))
    kk = k[:, None].to(up.dtype)
    return ((of_above + (kk - n_above) * of_tied / n_tied.clamp(min=1)) / kk).to(scores.dtype)
