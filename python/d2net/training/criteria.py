"""What a run's activations on its training videos say of it, by video-level labels alone: for choosing among restarts.

Each is a mean over the videos' own labels; T (s, C) are class activations. docs/features.md tells which of them went
with localization, and where.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

TINY = 1e-9


def total_variation(t: np.ndarray) -> np.ndarray:
    """(C,) Σ |T[i + 1] − T[i]| / Σ T: how much the activations flicker for their size."""
    return np.abs(np.diff(t, axis=0)).sum(0) / np.maximum(t.sum(0), TINY)


def top_mean(t: np.ndarray, divisor: int) -> np.ndarray:
    """(C,) mean of the ⌈s / divisor⌉ largest T."""
    return np.sort(t, axis=0)[::-1][: -(-len(t) // divisor)].mean(0)


def contrast(t: np.ndarray, divisor: int) -> np.ndarray:
    """(C,) mean of the ⌈s / divisor⌉ largest T minus the mean of the others; 0 where there are no others."""
    k = -(-len(t) // divisor)
    ordered = np.sort(t, axis=0)[::-1]
    return ordered[:k].mean(0) - ordered[k:].mean(0) if k < len(t) else np.zeros(t.shape[1])


def entropy(t: np.ndarray) -> np.ndarray:
    """(C,) mean entropy of T as a probability, in nats: how undecided the activations are."""
    p = np.clip(t, TINY, 1 - TINY)
    return -(p * np.log(p) + (1 - p) * np.log(1 - p)).mean(0)


def correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(C,) Pearson's, of each class's column; 0 where one does not change."""
    a, b = a - a.mean(0), b - b.mean(0)
    return (a * b).sum(0) / np.maximum(np.sqrt((a * a).sum(0) * (b * b).sum(0)), TINY)


def separation(p: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(C,) mean p over the videos that have the class minus the mean over the others; NaN without both.

    Args:
        p: (n, C) video-level scores; labels: (n, C) bool.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        has = (p * labels).sum(0) / labels.sum(0)
        lacks = (p * ~labels).sum(0) / (~labels).sum(0)
    return has - lacks


# Whether more of it is better.
CRITERIA = {"separation": True, "contrast": True, "agreement": True, "total_variation": False, "entropy": False}


def of_runs(runs: Sequence[Mapping[str, np.ndarray]], labels: np.ndarray, divisor: int) -> list[dict[str, float]]:
    """Every criterion of each run.

    agreement is the mean correlation of a run's activations with the mean of the other runs', 0 of a single run.

    Args:
        runs: T by video, the same videos in the same order; labels: (n, C); divisor: of the loss's top-k.
    """
    sums: list[dict[str, list[float]]] = [{name: [] for name in CRITERIA} for _ in runs]
    pooled: list[list[np.ndarray]] = [[] for _ in runs]
    labels = labels.astype(bool)
    for own, *of_video in zip(labels, *(run.values() for run in runs), strict=True):
        total = np.sum(of_video, axis=0, dtype=np.float64)
        for found, p, t in zip(sums, pooled, of_video, strict=True):
            t = np.asarray(t, np.float64)
            p.append(top_mean(t, divisor))
            if not own.any():
                continue
            others = (total - t) / max(len(runs) - 1, 1)
            values = {
                "contrast": contrast(t, divisor),
                "agreement": correlation(t, others),
                "total_variation": total_variation(t),
                "entropy": entropy(t),
            }
            for name, value in values.items():
                found[name].append(float(value[own].mean()))
    for found, p in zip(sums, pooled, strict=True):
        of_class = separation(np.array(p), labels)
        found["separation"] = of_class[np.isfinite(of_class)].tolist()
    return [{name: float(np.mean(v)) if v else 0.0 for name, v in found.items()} for found in sums]
