"""Classification mAP of the video-level scores p."""

from __future__ import annotations

import numpy as np

from d2net.evaluation.matching import average_precision


def classification_ap(p: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """AP of each class over the videos: the mean, over its videos, of the precision at each, by falling p.

    All points, not interpolated (as the W-TALC family); ties in input order.

    Args:
        p: (n, C) scores.
        labels: (n, C), nonzero where the video has the class.

    Returns:
        (C,) fractions, NaN for a class without a video.

    Raises:
        ValueError: shapes that differ, or a score that is not finite.
    """
    p, positive = np.asarray(p, np.float64), np.asarray(labels) != 0
    if p.ndim != 2 or p.shape != positive.shape:
        raise ValueError(
            f"classification_ap: p and labels must be (n, C) alike, got {p.shape} and {positive.shape}"
        )
    if not np.isfinite(p).all():
        video, c = np.argwhere(~np.isfinite(p))[0]
        raise ValueError(
            f"classification_ap: p must be finite, got {p[video, c]} for video {video}, class {c}"
        )
    ap = np.full(p.shape[1], np.nan)
    for c in np.flatnonzero(positive.any(0)):
        hits = positive[np.argsort(-p[:, c], kind="stable"), c]
        ap[c] = average_precision(hits, int(hits.sum()), interpolate=False)
    return ap


def classification_map(p: np.ndarray, labels: np.ndarray) -> float:
    """The mean of `classification_ap` over the classes that have a video; 0 where none has."""
    ap = classification_ap(p, labels)
    return float(np.nanmean(ap)) if np.isfinite(ap).any() else 0.0
