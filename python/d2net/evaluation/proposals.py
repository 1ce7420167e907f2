"""Class-agnostic proposal quality: average recall at a number of proposals (AR@AN)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from d2net.evaluation.in_parts import by_videos
from d2net.evaluation.matching import Spans, by_falling_score, overlaps

IOU = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))


def average_recall(
    detections: Spans, truth: Spans, *, most: int = 100, iou: Sequence[float] = IOU
) -> np.ndarray:
    """Share of the instances that one of a video's N best-scored proposals covers, for N = 1 .. most.

    Classes play no part; ties in score keep input order; one proposal may cover several instances. An
    instance with end <= start is never covered. (ActivityNet's own curve averages over N as a share of each
    video's proposals.)

    Returns:
        (most,) recall averaged over the IoU thresholds (IoU >= t); 0 without instances.
    """
    return covered(detections, truth, most=most, iou=iou) / max(len(truth) * len(iou), 1)


def covered(detections: Spans, truth: Spans, *, most: int = 100, iou: Sequence[float] = IOU) -> np.ndarray:
    """(most,) instances that are covered, a whole number, summed over the thresholds."""
    recalled = np.zeros(most)
    for found, wanted in by_videos(detections, truth):
        recalled += _recalled(found.without_labels(), wanted.without_labels(), most, iou)
    return recalled


def _recalled(detections: Spans, truth: Spans, most: int, iou: Sequence[float]) -> np.ndarray:
    """(most,) instances that are covered, summed over the thresholds."""
    by_video = by_falling_score(detections)
    by_video = by_video[np.argsort(detections.video[by_video], kind="stable")]
    ordered = detections[by_video]
    rank = np.arange(len(ordered)) - np.searchsorted(ordered.video, ordered.video)
    ordered, rank = ordered[rank < most], rank[rank < most]
    pairs = overlaps(ordered, truth, min(iou))
    recalled = np.zeros(most)
    for t in iou:
        near = pairs.iou >= t
        first = np.full(len(truth), most)
        np.minimum.at(first, pairs.j[near], rank[pairs.i[near]])
        recalled += np.cumsum(np.bincount(first, minlength=most + 1)[:most])
    return recalled
