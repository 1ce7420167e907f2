"""connected_components through csrc: CPU and CUDA tensors, and NumPy arrays without torch."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from d2kernels import _kernels, _native
from d2kernels._arrays import strided
from d2kernels.ops._capacity import check_count

if TYPE_CHECKING:
    from torch import Tensor


def _module() -> ModuleType:
    module, reason = _native.extension()
    if module is None:
        raise ImportError(reason)
    return module


def connected_components_forward(
    scores: Tensor,
    offsets: Tensor,
    lengths: Tensor,
    thresholds: Tensor,
    class_mask: Tensor | None,
    min_length: int,
    distinct: bool,
    capacity: int | None,
) -> tuple[Tensor, Tensor]:
    import torch

    module, n, levels = _module(), lengths.shape[0], thresholds.shape[-1]
    scores = _native.cast(scores, thresholds.dtype)
    # Here, as csrc would copy them in both calls.
    offsets, lengths, thresholds = offsets.contiguous(), lengths.contiguous(), thresholds.contiguous()
    class_mask = None if class_mask is None else class_mask.contiguous()
    sequences = offsets, lengths, n
    rules = thresholds, levels, thresholds.dim() == 3, class_mask, min_length, distinct
    problem = (scores.dtype is torch.float64, scores, *sequences, *rules)
    if scores.is_cpu:
        positions = offsets.new_empty(n * scores.shape[1] * levels + 1)
        threads = torch.get_num_threads()
        size = module.connected_components_count_cpu(problem, positions, threads)
        out = offsets.new_empty(5, size)
        module.connected_components_fill_cpu(problem, positions, out, size, threads)
        return _kernels.module("connected_components", "reference").of_capacity(out, capacity)
    device, stream = _native.device_and_stream(scores.device)
    size, places = module.connected_components_workspace_cuda(problem)
    workspace, positions = scores.new_empty(size, dtype=torch.uint8), offsets.new_empty(places + 1)
    memory = positions.data_ptr(), workspace.data_ptr()
    module.connected_components_count_cuda(problem, *memory, device, stream)
    count = positions[-1].clone()
    if capacity is None:
        out = offsets.new_empty((5, int(count)))  # the op's one synchronisation
    else:
        check_count("connected_components", count, capacity)
        out = offsets.new_full((5, capacity), -1)
    module.connected_components_fill_cuda(problem, *memory, out.data_ptr(), out.shape[1], device, stream)
    return out, count


def connected_components_arrays(
    scores: np.ndarray,
    offsets: np.ndarray,
    lengths: np.ndarray,
    thresholds: np.ndarray,
    class_mask: np.ndarray | None,
    min_length: int,
    distinct: bool,
) -> np.ndarray:
    """The same on NumPy arrays, checked and contiguous but for scores."""
    module = _module()
    scores, strides = strided(scores)
    problem = (
        scores.itemsize == 8,
        (scores.ctypes.data, *scores.shape, *strides),
        offsets.ctypes.data,
        lengths.ctypes.data,
        len(lengths),
        thresholds.ctypes.data,
        thresholds.shape[-1],
        thresholds.ndim == 3,
        0 if class_mask is None else class_mask.ctypes.data,
        min_length,
        distinct,
    )
    positions = np.empty(len(lengths) * scores.shape[1] * thresholds.shape[-1] + 1, np.int64)
    size = module.connected_components_count_cpu(problem, positions.ctypes.data, 0)
    out = np.empty((5, size), np.int64)
    module.connected_components_fill_cpu(problem, positions.ctypes.data, out.ctypes.data, out.shape[1], 0)
    return out
