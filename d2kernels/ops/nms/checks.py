"""What nms refuses, of tensors and arrays alike. Does not import torch."""

from __future__ import annotations

from typing import Any

from d2kernels._arguments import FEW, listed

ENDS = "plus_one needs ends below 2**63 - 1, which is one of them"


def check_shapes(op: str, segments: Any, scores: Any, groups: Any, floats: bool, integers: bool) -> None:
    """Shapes and kinds, which tensors and arrays share."""
    m = segments.shape[0]
    if scores.shape != (m,) or not floats:
        raise ValueError(f"{op}: scores must be float ({m},), got {scores.dtype} {tuple(scores.shape)}")
    if groups is not None and (tuple(groups.shape) != (m,) or not integers):
        raise ValueError(f"{op}: groups must be integers ({m},), got {groups.dtype} {tuple(groups.shape)}")


def check_values(op: str, segments: Any, scores: Any) -> None:
    few = len(scores) <= FEW
    if few and all([s == s for s in listed(scores)]) and all([a <= b for a, b in listed(segments)]):
        return
    wrong = scores != scores
    if bool(wrong.any()):
        raise ValueError(f"{op}: scores[{int(wrong.nonzero()[0][0])}] is NaN")
    bad = ~(segments[:, 0] <= segments[:, 1])
    if bool(bad.any()):
        i = int(bad.nonzero()[0][0])
        raise ValueError(f"{op}: segments[{i}] = {segments[i].tolist()} ends before it starts")
