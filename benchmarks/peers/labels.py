"""Connected components by SciPy's or CuPy's ndimage.label, one threshold at a time, and by NumPy differences."""

from __future__ import annotations

import importlib.util

import numpy as np


def scipy_missing() -> str | None:
    return None if importlib.util.find_spec("scipy") else "SciPy is not installed"


def numpy_runs(videos: list[np.ndarray], thresholds: np.ndarray) -> np.ndarray:
    """Rows (sequence, label, threshold, start, end) of every run, by np.diff."""
    found = []
    for v, scores in enumerate(videos):
        for c in range(scores.shape[1]):
            above = np.zeros((len(thresholds), len(scores) + 2), np.int8)
            above[:, 1:-1] = scores[:, c] > thresholds[:, None]
            change = np.diff(above, axis=1)
            level, start = np.nonzero(change == 1)
            end = np.nonzero(change == -1)[1]
            found.append(np.stack([np.full(len(start), v), np.full(len(start), c), level, start, end], 1))
    return np.concatenate(found)


def ndimage_runs(videos: list, thresholds, xp, label) -> np.ndarray:
    """The same through `label` of scipy.ndimage or cupyx.scipy.ndimage, with NumPy or CuPy as xp."""
    found = []
    along = xp.zeros((3, 3, 3), int)  # neighbours in time alone
    along[1, :, 1] = 1
    for v, scores in enumerate(videos):
        above = scores.T[:, :, None] > thresholds  # (C, s, levels)
        marks, count = label(above, structure=along)
        if not count:
            continue
        padded = xp.pad(marks, ((0, 0), (1, 1), (0, 0)))
        start = xp.argwhere((padded[:, 1:] != 0) & (padded[:, :-1] == 0))
        end = xp.argwhere((padded[:, 1:] == 0) & (padded[:, :-1] != 0))
        start, end = (rows[xp.lexsort(xp.stack([rows[:, 1], rows[:, 2], rows[:, 0]]))] for rows in (start, end))
        found.append(xp.stack([xp.full(count, v), start[:, 0], start[:, 2], start[:, 1], end[:, 1]], 1))
    return xp.concatenate(found)
