"""Non-maximum suppression of segments in time, in groups. Does not import torch for NumPy arrays."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from d2kernels._arguments import FEW, flag, number, whole
from d2kernels._dlpack import takes_dlpack
from d2kernels.ops._capacity import padded_array

if TYPE_CHECKING:
    from torch import Tensor


def _check_shapes(op: str, segments: Any, scores: Any, groups: Any, floats: bool, integers: bool) -> None:
    """Shapes and kinds, which tensors and arrays share."""
    m = segments.shape[0]
    if tuple(scores.shape) != (m,) or not floats:
        raise ValueError(f"{op}: scores must be float ({m},), got {scores.dtype} {tuple(scores.shape)}")
    if tuple(groups.shape) != (m,) or not integers:
        raise ValueError(f"{op}: groups must be integers ({m},), got {groups.dtype} {tuple(groups.shape)}")


def _check_values(op: str, segments: Any, scores: Any) -> None:
    few = len(scores) <= FEW
    if few and all([s == s for s in scores.tolist()]) and all([a <= b for a, b in segments.tolist()]):
        return
    wrong = scores != scores
    if bool(wrong.any()):
        raise ValueError(f"{op}: scores[{int(wrong.nonzero()[0][0])}] is NaN")
    bad = ~(segments[:, 0] <= segments[:, 1])
    if bool(bad.any()):
        i = int(bad.nonzero()[0][0])
        raise ValueError(f"{op}: segments[{i}] = {segments[i].tolist()} ends before it starts")


def _tensors(op: str, segments: Any, scores: Tensor, groups: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    import torch

    from d2kernels.ops._library import constant, is_integer

    for name, x in (("scores", scores), ("groups", groups)):
        if not isinstance(x, torch.Tensor) and not (x is None and name == "groups"):
            raise TypeError(f"{op}: {name} must be a tensor as segments, got {type(x).__name__}")
    if not isinstance(segments, torch.Tensor) or segments.dim() != 2 or segments.shape[1] != 2:
        got = tuple(segments.shape) if isinstance(segments, torch.Tensor) else type(segments).__name__
        raise ValueError(f"{op}: segments must be (m, 2) starts and ends, got {got}")
    if groups is None:
        groups = torch.zeros(segments.shape[0], dtype=torch.int64, device=scores.device)
    if not (is_integer(segments) or segments.is_floating_point()):
        raise ValueError(f"{op}: segments must be integers that int64 holds, or floats, got {segments.dtype}")
    _check_shapes(op, segments, scores, groups, scores.is_floating_point(), is_integer(groups))
    on_cpu = segments.is_cpu and scores.is_cpu
    if on_cpu and not torch.compiler.is_compiling() and len(scores):
        _check_values(op, segments, scores)
    return constant(segments, scores, groups.long())


def _arrays(op: str, segments: np.ndarray, scores: Any, groups: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    scores = np.asarray(scores)
    if segments.ndim != 2 or segments.shape[1] != 2:
        raise ValueError(f"{op}: segments must be (m, 2) starts and ends, got {segments.shape}")
    groups = np.zeros(len(segments), np.int64) if groups is None else np.asarray(groups)
    _check_shapes(op, segments, scores, groups, scores.dtype.kind == "f", groups.dtype.kind in "iu")
    if segments.dtype.kind not in "fiu" or (segments.dtype == np.uint64 and (segments > np.int64(2**63 - 1)).any()):
        raise ValueError(f"{op}: segments must be integers that int64 holds, or floats, got {segments.dtype}")
    spans = np.ascontiguousarray(segments, np.float64 if segments.dtype.kind == "f" else np.int64)
    _check_values(op, spans, scores)
    return spans, np.ascontiguousarray(scores, np.float64), np.ascontiguousarray(groups, np.int64)


def _with_ends_after(op: str, segments: Any) -> Any:
    """Segments that end behind their last frame: their overlap is min(ends) - max(starts) + 1, on any backend."""
    numpy = isinstance(segments, np.ndarray)
    if not numpy:
        from d2kernels.ops.nms.reference import times

        segments = times(segments)
    ends = segments[:, 1] + 1
    if (numpy or segments.device.type == "cpu") and bool((ends < segments[:, 1]).any()):
        raise ValueError(f"{op}: plus_one needs ends below 2**63 - 1, which is one of them")
    if numpy:
        return np.ascontiguousarray(np.stack([segments[:, 0], ends], 1))
    import torch

    return torch.stack([segments[:, 0], ends], 1)


def _backend() -> ModuleType:
    from d2kernels._arrays import backend_for_arrays

    return backend_for_arrays("nms")


@takes_dlpack
def nms(
    segments: Tensor | np.ndarray,
    scores: Tensor | np.ndarray,
    iou_threshold: float,
    groups: Tensor | np.ndarray | None = None,
    *,
    inclusive: bool = True,
    plus_one: bool = False,
    capacity: int | None = None,
) -> Any:
    """Keeps each group's best segment, removes those that overlap it, and so on with what is left.

    Args:
        segments: (m, 2) [start, end), floats or integers, which are subtracted exactly. NumPy arrays give NumPy arrays,
            without importing torch where there are compiled parts.
        scores: (m,) float; ties keep their order.
        iou_threshold: overlap (intersection over union, in float64) from which a segment is removed.
        groups: (m,) integers, or None for one group; segments of other groups never meet.
        inclusive: removes at IoU >= iou_threshold, else at > only.
        plus_one: ends are inclusive, the last frame of a segment and not what comes after it, so that lengths are
            end - start + 1, as in Fast R-CNN's NMS and the code of BaS-Net and CoLA.
        capacity: fixed size of the result, -1 beyond the indices. On a GPU nothing is waited for then: `count` tells
            all that are kept, the first of which there is room for are given, and `D2K_CHECK=1` waits and raises.

    Returns:
        (kept,) int64 indices by falling score, as torchvision's nms. On a GPU their number costs one synchronisation;
        the reference backend waits for the device in every round. With `capacity`, (indices (capacity,), count ()).

    Raises:
        ValueError: shapes, dtypes or values that do not fit; a capacity that is too small, naming the one that is
            needed.
    """
    iou_threshold = number("nms", "iou_threshold", iou_threshold, least=0, most=1)
    inclusive = flag("nms", "inclusive", inclusive)
    numpy = isinstance(segments, np.ndarray)
    given: Any = (_arrays if numpy else _tensors)("nms", segments, scores, groups)  # type: ignore[arg-type]
    if flag("nms", "plus_one", plus_one):
        given = (_with_ends_after("nms", given[0]), *given[1:])
    if capacity is not None:
        capacity = whole("nms", "capacity", capacity, 0)
    if numpy:
        kept = _backend().nms_arrays(*given, iou_threshold, inclusive)
        return kept if capacity is None else (padded_array("nms", kept, capacity, -1), np.array(len(kept)))
    from d2kernels.ops.nms import schema

    kept, count = schema.nms(*given, iou_threshold, inclusive, capacity)
    return kept if capacity is None else (kept, count)


@takes_dlpack
def soft_nms(
    segments: Tensor | np.ndarray,
    scores: Tensor | np.ndarray,
    sigma: float,
    groups: Tensor | np.ndarray | None = None,
    *,
    score_threshold: float = 0.0,
    plus_one: bool = False,
    capacity: int | None = None,
) -> Any:
    """Gaussian soft-NMS: overlapping segments lose score, by exp(-IoU² / sigma), instead of going.

    Args:
        segments, scores, groups, plus_one: as `nms`. Only positive scores decay.
        capacity: as `nms`, with score 0 beyond the indices.
        sigma: width of the decay, above 0.
        score_threshold: segments whose score is or falls to at most this are dropped.

    Returns:
        (kept,) int64 indices and their decayed scores, by falling decayed score; without gradient. Waits for a GPU as
        `nms` does. With `capacity`, (indices, scores, count).

    Raises:
        ValueError: shapes, dtypes or values that do not fit.
    """
    sigma = number("soft_nms", "sigma", sigma, above=0, finite=False)
    score_threshold = number("soft_nms", "score_threshold", score_threshold, finite=False)
    numpy = isinstance(segments, np.ndarray)
    given: Any = (_arrays if numpy else _tensors)("soft_nms", segments, scores, groups)  # type: ignore[arg-type]
    if flag("soft_nms", "plus_one", plus_one):
        given = (_with_ends_after("soft_nms", given[0]), *given[1:])
    if capacity is not None:
        capacity = whole("soft_nms", "capacity", capacity, 0)
    if numpy:
        kept, decayed = _backend().soft_nms_arrays(*given, sigma, score_threshold)
        decayed = decayed.astype(np.asarray(scores).dtype, copy=False)
        if capacity is None:
            return kept, decayed
        columns = (padded_array("soft_nms", c, capacity, v) for c, v in ((kept, -1), (decayed, 0)))
        return *columns, np.array(len(kept))
    from d2kernels.ops.nms import schema

    found = schema.soft_nms(*given, sigma, score_threshold, capacity)
    return found[:2] if capacity is None else found
