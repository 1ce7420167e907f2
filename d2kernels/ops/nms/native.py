"""nms and soft_nms through csrc: tensors, and NumPy arrays without torch."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from d2kernels import _kernels, _native
from d2kernels.ops._capacity import check_count

if TYPE_CHECKING:
    from torch import Tensor

_WHOLE, _FLOAT64 = -1, 1  # csrc/bindings/nms.cpp and dtype.h


def _module() -> ModuleType:
    module, reason = _native.extension()
    if module is None:
        raise ImportError(reason)
    return module


def _cut(segments: Tensor, cluster: Tensor, order: Tensor) -> tuple[tuple[Any, ...], list[Tensor]]:
    """The clusters for csrc, in `order`, and the tensors behind them. Nothing here waits for the device."""
    import torch

    from d2kernels.ops.nms.reference import times

    m = len(order)
    spans, ids = times(segments)[order], cluster[order]
    new = torch.ones_like(ids, dtype=torch.bool)
    new[1:] = ids[1:] != ids[:-1]
    number = new.cumsum(0)
    # The rows that begin no cluster are written to a last place that is dropped.
    first = ids.new_full((m + 2,), m)
    first.scatter_(0, (number - 1).where(new, m + 1), ids.new_ones(m).cumsum(0) - 1)
    last = number[-1:].contiguous()
    whole = not spans.is_floating_point()
    return (spans.data_ptr(), whole, first.data_ptr(), last.data_ptr(), m), [spans, first, last]


def _packed(
    op: str, chosen: Tensor, columns: tuple[Tensor, ...], padding: tuple[int, ...], capacity: int | None
) -> tuple[list[Tensor], Tensor]:
    """The chosen rows of each column, and their number. With `capacity` nothing waits for the device."""
    if capacity is None:
        place = chosen.nonzero()[:, 0]
        return [column[place] for column in columns], place.new_full((), len(place))
    count = chosen.sum()
    check_count(op, count, capacity)
    # What is not chosen, or has no room, goes to a last place that is dropped.
    to = (chosen.cumsum(0) - 1).where(chosen, capacity).clamp(max=capacity)
    made = [column.new_full((capacity + 1,), value) for column, value in zip(columns, padding, strict=True)]
    return [full.scatter_(0, to, column)[:capacity] for full, column in zip(made, columns, strict=True)], count


def _on_device(scores: Tensor) -> tuple[int, int]:
    return _native.device_and_stream(scores.device)


def nms_by_clusters(
    run: Callable[..., None],
    segments: Tensor,
    scores: Tensor,
    groups: Tensor,
    iou_threshold: float,
    inclusive: bool,
    capacity: int | None,
    *where: int,
) -> tuple[Tensor, Tensor]:
    """nms on the tensors' device; run is nms_cuda, or on the CPU nms_as_block_cpu."""
    import torch

    from d2kernels.ops.nms.reference import clusters, times

    by_score = scores.argsort(descending=True, stable=True)
    cluster = clusters(times(segments), groups) if iou_threshold > 0 or not inclusive else groups
    order = by_score[cluster[by_score].argsort(stable=True)]
    cut, kept = _cut(segments, cluster, order)
    left, chosen = (torch.empty_like(order, dtype=t) for t in (torch.uint8, torch.bool))
    run(cut, iou_threshold, inclusive, left.data_ptr(), *where)
    del kept
    chosen[order] = left != 0
    columns, count = _packed("nms", chosen[by_score], (by_score,), (-1,), capacity)
    return columns[0], count


def soft_nms_by_clusters(
    run: Callable[..., None],
    segments: Tensor,
    scores: Tensor,
    groups: Tensor,
    sigma: float,
    score_threshold: float,
    capacity: int | None,
    *where: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """soft_nms on the tensors' device; run is soft_nms_cuda, or on the CPU soft_nms_as_block_cpu."""
    import torch

    from d2kernels.ops.nms.reference import clusters, times

    cluster = clusters(times(segments), groups)
    order = cluster.argsort(stable=True)
    cut, kept = _cut(segments, cluster, order)
    decayed, taken = scores.double()[order], torch.empty_like(order, dtype=torch.uint8)
    run(cut, sigma, score_threshold, decayed.data_ptr(), taken.data_ptr(), *where)
    del kept
    final = torch.empty_like(decayed)
    final[order] = decayed.where(taken != 0, -float("inf"))
    by_score = final.argsort(descending=True, stable=True)
    columns, falling = (by_score, final[by_score].to(scores.dtype)), final[by_score]
    found, count = _packed("soft_nms", falling > -float("inf"), columns, (-1, 0), capacity)
    return found[0], found[1], count


def _floats(x: Tensor) -> tuple[Tensor, int]:
    """x, of a dtype that csrc knows, and its number there."""
    try:
        return x, _native.dtype_number(x.dtype)
    except ValueError:  # of 8 bits
        return x.double(), _FLOAT64


def _problem(segments: Tensor, scores: Tensor, groups: Tensor | None) -> tuple[Any, ...]:
    """The problem for csrc on the CPU."""
    times = _floats(segments) if segments.is_floating_point() else (segments.long(), _WHOLE)
    return *times, *_floats(scores), groups


def _first(column: Tensor, size: int) -> Tensor:
    """The first rows in memory of their own."""
    return column if size == column.shape[0] else column[:size].clone()


def nms_forward(
    segments: Tensor, scores: Tensor, groups: Tensor | None, iou_threshold: float, inclusive: bool, capacity: int | None
) -> tuple[Tensor, Tensor]:
    import torch

    reference, m = _kernels.module("nms", "reference"), scores.shape[0]
    if scores.is_cuda:
        groups = reference.of_one(scores, groups)
        if m == 0:
            return reference.of_capacity(groups, capacity)
        module = _module()
        size = module.nms_workspace_cuda(m)
        workspace = groups.new_empty(-(-size // 8)) if size else None  # whole words
        where = (workspace.data_ptr() if workspace is not None else 0, *_on_device(scores))
        return nms_by_clusters(module.nms_cuda, segments, scores, groups, iou_threshold, inclusive, capacity, *where)
    kept = scores.new_empty(m, dtype=torch.int64)
    size = _module().nms_cpu(_problem(segments, scores, groups), iou_threshold, inclusive, kept)
    return reference.of_capacity(_first(kept, size), capacity)


def soft_nms_forward(
    segments: Tensor, scores: Tensor, groups: Tensor | None, sigma: float, score_threshold: float, capacity: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    import torch

    reference, m = _kernels.module("nms", "reference"), scores.shape[0]
    if scores.is_cuda:
        groups = reference.of_one(scores, groups)
        if m == 0:
            return reference.of_capacity_soft(groups, scores.clone(), capacity)
        where = (sigma, score_threshold, capacity, *_on_device(scores))
        return soft_nms_by_clusters(_module().soft_nms_cuda, segments, scores, groups, *where)
    kept, decayed = scores.new_empty(m, dtype=torch.int64), scores.new_empty(m, dtype=torch.float64)
    size = _module().soft_nms_cpu(_problem(segments, scores, groups), sigma, score_threshold, kept, decayed)
    columns = _first(kept, size), _native.cast(_first(decayed, size), scores.dtype)
    return reference.of_capacity_soft(*columns, capacity)


def _of_arrays(segments: np.ndarray, scores: np.ndarray, groups: np.ndarray) -> tuple[Any, ...]:
    kind = _WHOLE if segments.dtype == np.int64 else _FLOAT64
    column = scores.ctypes.data, len(scores), 1, 1, 1
    return segments.ctypes.data, kind, column, _FLOAT64, groups.ctypes.data


def nms_arrays(
    segments: np.ndarray, scores: np.ndarray, groups: np.ndarray, iou_threshold: float, inclusive: bool
) -> np.ndarray:
    """The same on contiguous arrays: segments float64 or int64, scores float64, groups int64."""
    kept = np.empty(len(scores), np.int64)
    size = _module().nms_cpu(_of_arrays(segments, scores, groups), iou_threshold, inclusive, kept.ctypes.data)
    return kept[:size].copy()


def soft_nms_arrays(
    segments: np.ndarray, scores: np.ndarray, groups: np.ndarray, sigma: float, score_threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """The same on contiguous arrays: segments float64 or int64, scores float64, groups int64."""
    kept, decayed = np.empty(len(scores), np.int64), np.empty(len(scores))
    problem = _of_arrays(segments, scores, groups)
    size = _module().soft_nms_cpu(problem, sigma, score_threshold, kept.ctypes.data, decayed.ctypes.data)
    return kept[:size].copy(), decayed[:size].copy()
