"""The reference backend on NumPy arrays, for the ops that take them: as each op's native.py has it, by torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from d2kernels.ops.connected_components.reference import connected_components
from d2kernels.ops.localize.reference import localize_forward
from d2kernels.ops.nms.reference import nms, soft_nms


def _tensors(*arrays: np.ndarray | None) -> list[Any]:
    # torch takes no negative strides and no arrays that must not be written.
    return [None if a is None else torch.from_numpy(np.require(a, requirements=["C", "W"])) for a in arrays]


def nms_arrays(
    segments: np.ndarray, scores: np.ndarray, groups: np.ndarray, iou_threshold: float, inclusive: bool
) -> np.ndarray:
    return nms(*[*_tensors(segments, scores, groups), iou_threshold, inclusive]).numpy()


def soft_nms_arrays(
    segments: np.ndarray, scores: np.ndarray, groups: np.ndarray, sigma: float, score_threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    kept, decayed = soft_nms(*[*_tensors(segments, scores, groups), sigma, score_threshold])
    return kept.numpy(), decayed.numpy()


def connected_components_arrays(
    scores: np.ndarray,
    offsets: np.ndarray,
    lengths: np.ndarray,
    thresholds: np.ndarray,
    class_mask: np.ndarray | None,
    min_length: int,
    distinct: bool,
) -> np.ndarray:
    given = [*_tensors(scores, offsets, lengths, thresholds, class_mask), min_length, distinct]
    return connected_components(*given).numpy()


def localize_arrays(
    activations: np.ndarray,
    offsets: np.ndarray,
    lengths: np.ndarray,
    thresholds: np.ndarray,
    class_mask: np.ndarray | None,
    rules: tuple[Any, ...],
    class_score: np.ndarray | None,
) -> tuple[np.ndarray, ...]:
    given = [*_tensors(activations, offsets, lengths, thresholds, class_mask), *rules, *_tensors(class_score), None]
    return tuple(column.numpy() for column in localize_forward(*given))
