"""nms and soft_nms through csrc: CPU tensors, and NumPy arrays without torch."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from d2kernels import _native

if TYPE_CHECKING:
    from torch import Tensor


def why_not(device: str, dtype: object = None) -> str | None:
    """Why this device is not served, or None."""
    return None if device == "cpu" else "nms has no CUDA kernel"


def _module() -> ModuleType:
    module, reason = _native.extension()
    if module is None:
        raise ImportError(reason)
    return module


def nms_forward(segments: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float, inclusive: bool) -> Tensor:
    spans, values, groups = segments.double().contiguous(), scores.double().contiguous(), groups.contiguous()
    kept = groups.new_empty(values.shape[0])
    size = _module().nms_cpu(
        spans.data_ptr(), values.data_ptr(), groups.data_ptr(), len(kept), iou_threshold, inclusive, kept.data_ptr()
    )
    return kept[:size].clone()


def soft_nms_forward(
    segments: Tensor, scores: Tensor, groups: Tensor, sigma: float, score_threshold: float
) -> tuple[Tensor, Tensor]:
    spans, values, groups = segments.double().contiguous(), scores.double().contiguous(), groups.contiguous()
    kept, decayed = groups.new_empty(values.shape[0]), values.new_empty(values.shape[0])
    size = _module().soft_nms_cpu(
        spans.data_ptr(),
        values.data_ptr(),
        groups.data_ptr(),
        len(kept),
        sigma,
        score_threshold,
        kept.data_ptr(),
        decayed.data_ptr(),
    )
    return kept[:size].clone(), decayed[:size].to(scores.dtype, copy=True)


def _addresses(segments: np.ndarray, scores: np.ndarray, groups: np.ndarray) -> tuple[int, int, int, int]:
    return segments.ctypes.data, scores.ctypes.data, groups.ctypes.data, len(scores)


def nms_arrays(
    segments: np.ndarray, scores: np.ndarray, groups: np.ndarray, iou_threshold: float, inclusive: bool
) -> np.ndarray:
    """The same on contiguous float64 and int64 arrays."""
    kept = np.empty(len(scores), np.int64)
    size = _module().nms_cpu(*_addresses(segments, scores, groups), iou_threshold, inclusive, kept.ctypes.data)
    return kept[:size].copy()


def soft_nms_arrays(
    segments: np.ndarray, scores: np.ndarray, groups: np.ndarray, sigma: float, score_threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """The same on contiguous float64 and int64 arrays."""
    kept, decayed = np.empty(len(scores), np.int64), np.empty(len(scores))
    size = _module().soft_nms_cpu(
        *_addresses(segments, scores, groups), sigma, score_threshold, kept.ctypes.data, decayed.ctypes.data
    )
    return kept[:size].copy(), decayed[:size].copy()
