"""Non-maximum suppression of segments in time, in groups. Does not import torch for NumPy arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from d2kernels._arguments import flag, number, whole
from d2kernels._dlpack import takes_dlpack
from d2kernels.ops._capacity import padded_array
from d2kernels.ops.nms.checks import ENDS, check_shapes, check_values

if TYPE_CHECKING:
    from torch import Tensor


def _arrays(op: str, segments: np.ndarray, scores: Any, groups: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    scores = np.asarray(scores)
    if segments.ndim != 2 or segments.shape[1] != 2:
        raise ValueError(f"{op}: segments must be (m, 2) starts and ends, got {segments.shape}")
    groups = np.zeros(len(segments), np.int64) if groups is None else np.asarray(groups)
    check_shapes(op, segments, scores, groups, scores.dtype.kind == "f", groups.dtype.kind in "iu")
    if segments.dtype.kind not in "fiu" or (segments.dtype == np.uint64 and (segments > np.int64(2**63 - 1)).any()):
        raise ValueError(f"{op}: segments must be integers that int64 holds, or floats, got {segments.dtype}")
    spans = np.ascontiguousarray(segments, np.float64 if segments.dtype.kind == "f" else np.int64)
    check_values(op, spans, scores)
    return spans, np.ascontiguousarray(scores, np.float64), np.ascontiguousarray(groups, np.int64)


def _with_ends_after(op: str, segments: np.ndarray) -> np.ndarray:
    ends = segments[:, 1] + 1
    if bool((ends < segments[:, 1]).any()):
        raise ValueError(f"{op}: {ENDS}")
    return np.ascontiguousarray(np.stack([segments[:, 0], ends], 1))


def _given(op: str, segments: Any, scores: Any, groups: Any, plus_one: bool) -> tuple[tuple[Any, Any, Any], Any]:
    """The checked problem, and what has nms and soft_nms of its kind. Segments of `plus_one` then end behind their last
    frame: their overlap is min(ends) - max(starts) + 1, on any backend."""
    if isinstance(segments, np.ndarray):
        from d2kernels._arrays import backend_for_arrays

        given, with_ends_after, of = _arrays(op, segments, scores, groups), _with_ends_after, backend_for_arrays("nms")
    else:
        from d2kernels.ops.nms import tensors as of

        given, with_ends_after = of.checked(op, segments, scores, groups), of.with_ends_after
    if flag(op, "plus_one", plus_one):
        given = (with_ends_after(op, given[0]), *given[1:])
    return given, of


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
    given, of = _given("nms", segments, scores, groups, plus_one)
    if capacity is not None:
        capacity = whole("nms", "capacity", capacity, 0)
    if isinstance(segments, np.ndarray):
        kept = of.nms_arrays(*given, iou_threshold, inclusive)
        return kept if capacity is None else (padded_array("nms", kept, capacity, -1), np.array(len(kept)))
    kept, count = of.nms(*given, iou_threshold, inclusive, capacity)
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
    given, of = _given("soft_nms", segments, scores, groups, plus_one)
    if capacity is not None:
        capacity = whole("soft_nms", "capacity", capacity, 0)
    if isinstance(segments, np.ndarray):
        kept, decayed = of.soft_nms_arrays(*given, sigma, score_threshold)
        decayed = decayed.astype(np.asarray(scores).dtype, copy=False)
        if capacity is None:
            return kept, decayed
        columns = (padded_array("soft_nms", c, capacity, v) for c, v in ((kept, -1), (decayed, 0)))
        return *columns, np.array(len(kept))
    found = of.soft_nms(*given, sigma, score_threshold, capacity)
    return found[:2] if capacity is None else found
