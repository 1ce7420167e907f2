"""What the methods share: T out of class activations, videos' scores, and their cross-entropy."""

from __future__ import annotations

import torch
from torch import Tensor

import d2kernels as d2k
from d2kernels.ops.losses.reference import kept_videos
from d2net.data.batch import Batch
from d2net.sections import LossConfig


def activated(logits: d2k.Ragged, classes: int, activation: str) -> d2k.Ragged:
    """T (total, classes) in (0, 1) of rows (total, at least classes): the sigmoid of each, or a softmax over all."""
    values = torch.sigmoid(logits.values) if activation == "sigmoid" else torch.softmax(logits.values, 1)
    return logits.with_values(values[:, :classes]).zero_gaps()


def _single(x: d2k.Ragged) -> d2k.Ragged:
    """Rows that are summed in float32 or better."""
    return x if x.dtype in (torch.float32, torch.float64) else x.with_values(x.values.to(torch.float32))


def pooled(logits: d2k.Ragged, config: LossConfig) -> Tensor:
    """(n, C): mean of each class's k largest activations, k = s / pool_divisor."""
    return d2k.topk_pool(_single(logits), divisor=config.pool_divisor, rounding=config.pool_rounding)


def kept(batch: Batch, config: LossConfig) -> Tensor:
    """(n,) bool: videos that are long enough and have a label."""
    return kept_videos(batch.lengths, batch.labels, config.min_snippets)


def mean_over(values: Tensor, counted: Tensor) -> Tensor:
    """The mean of values (n,) over the videos that are counted (n,), 0 without any."""
    return torch.where(counted, values, 0).sum() / counted.sum().clamp(min=1)


def cross_entropy(scores: Tensor, labels: Tensor, counted: Tensor) -> Tensor:
    """-Σ y log softmax(scores), the mean over the videos counted; y: labels (n, C) that sum to 1 in each video."""
    y = labels.to(scores.dtype)
    y = y / y.sum(1, keepdim=True).clamp(min=1)
    return mean_over(-(y * torch.log_softmax(scores, 1)).sum(1), counted)


def attended(x: d2k.Ragged, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Σ_t weights[t, a] x[t] (n, A, D) and Σ_t weights[t, a] (n, A) of each video; weights: (total, A), at least 0."""
    return d2k.attention_pool(_single(x), weights, threshold=-1.0)


def softmax_over_time(logits: d2k.Ragged) -> Tensor:
    """(total, C): exp(A) of each class, up to a factor of each video: what a softmax over its snippets divides."""
    rows = _single(logits)
    highest = d2k.topk_pool(rows.with_values(rows.values.detach()), k=1)
    return torch.exp((rows.values - highest[logits.sequence_index()]).clamp(max=0))
