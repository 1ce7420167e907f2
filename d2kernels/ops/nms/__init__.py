"""Non-maximum suppression of segments in time, in groups."""

from __future__ import annotations

import torch
from torch import Tensor

from d2kernels.ops.nms import schema


def _check(op: str, segments: Tensor, scores: Tensor, groups: Tensor | None) -> Tensor:
    if not isinstance(segments, Tensor) or segments.dim() != 2 or segments.shape[1] != 2:
        got = tuple(segments.shape) if isinstance(segments, Tensor) else type(segments).__name__
        raise ValueError(f"{op}: segments must be (m, 2) starts and ends, got {got}")
    m = segments.shape[0]
    if scores.shape != (m,) or not scores.is_floating_point():
        raise ValueError(f"{op}: scores must be float ({m},), got {scores.dtype} {tuple(scores.shape)}")
    if groups is None:
        groups = torch.zeros(m, dtype=torch.int64, device=scores.device)
    if groups.shape != (m,) or groups.is_floating_point():
        raise ValueError(f"{op}: groups must be integers ({m},), got {groups.dtype} {tuple(groups.shape)}")
    if not segments.device == scores.device == groups.device:
        raise ValueError(
            f"{op}: segments, scores and groups must be on one device, got {segments.device}, {scores.device} "
            f"and {groups.device}"
        )
    if scores.device.type == "cpu" and not torch.compiler.is_compiling() and m:
        if bool(scores.isnan().any()):
            raise ValueError(f"{op}: scores[{int(scores.isnan().nonzero()[0])}] is NaN")
        bad = ~(segments[:, 0] <= segments[:, 1])
        if bool(bad.any()):
            i = int(bad.nonzero()[0])
            raise ValueError(f"{op}: segments[{i}] = {segments[i].tolist()} ends before it starts")
    return groups.long()


def nms(
    segments: Tensor, scores: Tensor, iou_threshold: float, groups: Tensor | None = None, *, inclusive: bool = True
) -> Tensor:
    """Keeps each group's best segment, removes those that overlap it, and so on with what is left.

    Args:
        segments: (m, 2) [start, end), integers or floats.
        scores: (m,) float; ties keep their order.
        iou_threshold: overlap (intersection over union, in float64) from which a segment is removed.
        groups: (m,) integers, or None for one group; segments of other groups never meet.
        inclusive: removes at IoU >= iou_threshold, else at > only.

    Returns:
        (kept,) int64 indices by falling score, as torchvision's nms.

    Raises:
        ValueError: shapes, dtypes or values that do not fit.
    """
    groups = _check("nms", segments, scores, groups)
    if not 0 <= iou_threshold <= 1:
        raise ValueError(f"nms: iou_threshold must be in [0, 1], got {iou_threshold}")
    return schema.nms(segments, scores.detach(), groups, float(iou_threshold), bool(inclusive))


def soft_nms(
    segments: Tensor, scores: Tensor, sigma: float, groups: Tensor | None = None, *, score_threshold: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Gaussian soft-NMS: overlapping segments lose score, by exp(-IoU² / sigma), instead of going.

    Args:
        segments, scores, groups: as `nms`. Only positive scores decay.
        sigma: width of the decay, above 0.
        score_threshold: segments whose score is or falls to at most this are dropped.

    Returns:
        (kept,) int64 indices and their decayed scores, by falling decayed score.

    Raises:
        ValueError: shapes, dtypes or values that do not fit.
    """
    groups = _check("soft_nms", segments, scores, groups)
    if not sigma > 0:
        raise ValueError(f"soft_nms: sigma must be above 0, got {sigma}")
    return schema.soft_nms(segments, scores.detach(), groups, float(sigma), float(score_threshold))
