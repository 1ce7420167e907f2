"""Localization of whole videos in NumPy, as a careful user vectorises it, and with Python sets, as research code does.

Both implement the release decoder: runs of at least two snippets above each threshold, contrast of the inner mean with
the mean of the side means that exist, proposals under -0.4 dropped, NMS of IoU >= 0.3 within a class, and what scores
at least a tenth of the best of its video and class kept.
"""

from __future__ import annotations

import numpy as np

THRESHOLDS = np.arange(1, 20) / 40
MIN_LENGTH, MIN_SCORE, IOU, KEEP = 2, -0.4, 0.3, 0.1
Rows = list[tuple[int, int, int, int, float]]  # sequence, label, start, end, score

SETTINGS = {
    "thresholds": THRESHOLDS.tolist(),
    "min_length": MIN_LENGTH,
    "outer": "sides",
    "min_score": MIN_SCORE,
    "iou_threshold": IOU,
    "keep_ratio": KEEP,
    "keep_scope": "class",
}  # the same of d2kernels.localize


def as_columns(rows: Rows) -> tuple[np.ndarray, ...]:
    """Columns by sequence, falling score, label and start."""
    rows = sorted(rows, key=lambda r: (r[0], -r[4], r[1], r[2]))
    return tuple(np.array(column, np.float64) for column in zip(*rows, strict=True)) if rows else (np.zeros(0),) * 5


def numpy_class(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Start, end and score of one class of one video, scores (s,)."""
    s = len(scores)
    above = np.zeros((len(THRESHOLDS), s + 2), np.int8)
    above[:, 1:-1] = scores > THRESHOLDS[:, None].astype(scores.dtype)
    change = np.diff(above, axis=1)
    start, end = np.nonzero(change == 1)[1], np.nonzero(change == -1)[1]
    long = end - start >= MIN_LENGTH
    pairs = np.unique(np.stack([start[long], end[long]], 1), axis=0)
    start, end = pairs[:, 0], pairs[:, 1]
    total = np.concatenate([[0.0], np.cumsum(scores, dtype=np.float64)])
    margin = np.maximum(1, (end - start) // 4)
    left, right = np.maximum(start - margin, 0), np.minimum(end + margin, s)

    def mean(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (total[b] - total[a]) / np.maximum(b - a, 1)

    sides = (left < start).astype(np.int64) + (end < right)
    outer = (mean(left, start) + mean(end, right)) / np.maximum(sides, 1)
    score = mean(start, end) - outer
    kept = score >= MIN_SCORE
    start, end, score = start[kept], end[kept], score[kept]
    order = np.argsort(-score, kind="stable")
    start, end, score = start[order], end[order], score[order]
    alive, chosen = np.ones(len(start), bool), []
    for i in range(len(start)):
        if not alive[i]:
            continue
        chosen.append(i)
        overlap = np.clip(np.minimum(end[i], end) - np.maximum(start[i], start), 0, None)
        alive &= overlap < IOU * (end[i] - start[i] + end - start - overlap)
    start, end, score = start[chosen], end[chosen], score[chosen]
    best = score >= KEEP * score[0] if len(score) and score[0] > 0 else np.zeros(len(score), bool)
    return start[best], end[best], score[best]


def numpy_localize(videos: list[np.ndarray], class_mask: np.ndarray) -> tuple[np.ndarray, ...]:
    """videos: (s, C) each; class_mask: (n, C) bool. Columns sequence, label, start, end, score."""
    rows: Rows = []
    for v, scores in enumerate(videos):
        for c in np.flatnonzero(class_mask[v]):
            rows += [(v, c, *row) for row in zip(*numpy_class(scores[:, c]), strict=True)]
    return as_columns(rows)


def set_class(scores: np.ndarray) -> Rows:
    """One class of one video: (start, end, score) by loops over thresholds, runs and pairs of snippet sets."""
    found = []
    for threshold in THRESHOLDS.astype(scores.dtype):
        above = np.where(scores > threshold)[0]
        if len(above) == 0:
            continue
        for run in np.split(above, np.where(np.diff(above) != 1)[0] + 1):
            if len(run) < MIN_LENGTH:
                continue
            a, b = int(run[0]), int(run[-1]) + 1
            margin = max(1, (b - a) // 4)
            sides = [x for x in (scores[max(0, a - margin) : a], scores[b : b + margin]) if len(x)]
            outer = np.mean([np.mean(x, dtype=np.float64) for x in sides]) if sides else 0.0
            score = float(np.mean(scores[a:b], dtype=np.float64) - outer)
            if score >= MIN_SCORE:
                found.append((a, b, score))
    found.sort(key=lambda row: -row[2])
    kept: list[tuple[int, int, float]] = []
    while found:
        best, *found = found
        kept.append(best)
        of_best = set(range(best[0], best[1]))
        rest = []
        for row in found:
            snippets = set(range(row[0], row[1]))
            if len(of_best & snippets) / len(of_best | snippets) < IOU:
                rest.append(row)
        found = rest
    if not kept or kept[0][2] <= 0:
        return []
    return [row for row in kept if row[2] >= KEEP * kept[0][2]]


def set_localize(videos: list[np.ndarray], class_mask: np.ndarray) -> tuple[np.ndarray, ...]:
    """As numpy_localize, the way research code writes it."""
    rows: Rows = []
    for v, scores in enumerate(videos):
        for c in np.flatnonzero(class_mask[v]):
            rows += [(v, c, *row) for row in set_class(scores[:, c])]
    return as_columns(rows)
