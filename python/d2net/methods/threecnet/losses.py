"""3C-Net's center and count losses."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

import d2kernels as d2k
from d2net.methods.pooling import attended, mean_over, softmax_over_time


class Center(NamedTuple):
    """The loss, 0-d, and the centers (C, D) after the step, without gradient."""

    loss: Tensor
    centers: Tensor


def class_features(x: d2k.Ragged, logits: d2k.Ragged) -> Tensor:
    """(n, C, D): each class's features, the mean of X under its softmax over time where that is not below average.

    Args:
        x: X (total, D) of a stream; logits: its T-CAM (total, C).
    """
    weights = softmax_over_time(logits)
    average = (attended(logits.with_values(weights.detach()[:, :1]), weights.detach())[1] / x.lengths[:, None]).to(
        weights.dtype
    )
    # A hair's breadth, so that equal attention is not below its own average.
    passes = weights.detach() >= average[x.sequence_index()] * (1 - 1e-5)
    sums, mass = attended(x, torch.where(passes, weights, 0))
    return sums / mass[:, :, None].clamp(min=torch.finfo(mass.dtype).tiny)


def center_loss(features: Tensor, labels: Tensor, counted: Tensor, centers: Tensor, rate: float) -> Center:
    """Σ over a video's classes of |f(c) - center|², the mean over videos; centers move by η Σ (f - center) / (1 + N).

    Args:
        features: (n, C, D); labels: (n, C) bool; counted: (n,) bool.
        centers: (C, D); rate: η; N is how many videos of the batch have the class.
    """
    own = (labels & counted[:, None])[:, :, None]
    apart = torch.where(own, features - centers, 0)
    loss = mean_over(apart.square().sum((1, 2)), counted)
    with torch.no_grad():
        moved = centers + rate * apart.sum(0) / (1 + own.sum(0))
    return Center(loss, moved)


def count_loss(logits: d2k.Ragged, counts: Tensor, absent_weight: float, counted: Tensor) -> Tensor:
    """|m̂ - m| / m summed over the classes that occur m times, and |m̂| over those that do not, the mean over videos.

    m̂ is the sum over time of the final T-CAM under its own softmax over time.

    Args:
        logits: C_F (total, C).
        counts: (n, C), 0 of absent classes, NaN where unknown: such classes are left out, and videos without a count.
        absent_weight: of the absent classes; counted: (n,) bool.
    """
    weights = softmax_over_time(logits)
    rows = logits.with_values(logits.values * weights).zero_gaps()
    sums = attended(rows, torch.ones_like(weights[:, :1]))[0][:, 0]
    mass = attended(rows.with_values(torch.ones_like(weights[:, :1])), weights)[0][..., 0]
    predicted = sums / mass.clamp(min=torch.finfo(mass.dtype).tiny)
    present = counts > 0
    m = torch.where(present, counts, 1)
    of_present = torch.where(present, (predicted - m).abs() / m, 0).sum(1)
    of_absent = torch.where(counts == 0, predicted.abs(), 0).sum(1)
    known = counts.isfinite().all(1) | present.any(1)
    return mean_over(of_present + absent_weight * of_absent, counted & known)
