"""1-D NMS by other means: torchvision's 2-D one on unit-height boxes, Numba, and Python sets."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor


@cache
def torchvision_missing() -> str | None:
    try:
        import torchvision
    except ImportError:
        return "torchvision is not installed"
    except RuntimeError as error:
        return f"torchvision does not match this torch: {str(error).splitlines()[0]}"
    return None if hasattr(torchvision, "ops") else "torchvision has no ops"


def boxes(segments: Tensor) -> Tensor:
    """(m, 2) segments as (m, 4) boxes of height 1."""
    low, high = torch.zeros_like(segments[:, :1]), torch.ones_like(segments[:, :1])
    return torch.cat([segments[:, :1], low, segments[:, 1:], high], 1)


def torchvision_nms(segments: Tensor, scores: Tensor, iou_threshold: float, groups: Tensor) -> Tensor:
    """Removes IoU > threshold; groups by shifted coordinates, as batched_nms does."""
    from torchvision.ops import batched_nms

    return batched_nms(boxes(segments), scores, groups, iou_threshold)


@cache
def _numba_kernel():
    import numba

    @numba.njit
    def run(start, end, group, threshold):
        alive = np.ones(len(start), np.bool_)
        for i in range(len(start)):
            if not alive[i]:
                continue
            for j in range(i + 1, len(start)):
                if alive[j] and group[i] == group[j]:
                    overlap = max(0.0, min(end[i], end[j]) - max(start[i], start[j]))
                    if overlap > threshold * (end[i] - start[i] + end[j] - start[j] - overlap):
                        alive[j] = False
        return alive

    return run


def numba_nms(segments: np.ndarray, scores: np.ndarray, iou_threshold: float, groups: np.ndarray) -> np.ndarray:
    order = np.argsort(-scores, kind="stable")
    alive = _numba_kernel()(segments[order, 0], segments[order, 1], groups[order], iou_threshold)
    return order[alive]


def set_nms(segments: np.ndarray, scores: np.ndarray, iou_threshold: float, groups: np.ndarray) -> np.ndarray:
    """On whole snippets, every pair's intersection and union as sets."""
    left = np.argsort(-scores, kind="stable").tolist()
    kept = []
    while left:
        best, *left = left
        kept.append(best)
        mine = set(range(int(segments[best, 0]), int(segments[best, 1])))
        rest = []
        for i in left:
            if groups[i] == groups[best]:
                other = set(range(int(segments[i, 0]), int(segments[i, 1])))
                if len(mine & other) > iou_threshold * len(mine | other):
                    continue
            rest.append(i)
        left = rest
    return np.array(kept, np.int64)
