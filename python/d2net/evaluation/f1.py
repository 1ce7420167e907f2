"""F1 of a final set of detections at one IoU threshold, micro over classes."""

from __future__ import annotations

from typing import NamedTuple


class F1(NamedTuple):
    """f1, precision and recall are 0 where they would be 0 / 0."""

    f1: float
    precision: float
    recall: float
    tp: int
    fp: int
    fn: int


def f1_score(tp: int, fp: int, fn: int) -> F1:
    """2 tp / (2 tp + fp + fn) and its parts, from counts over all classes."""
    return F1(
        f1=2 * tp / max(2 * tp + fp + fn, 1),
        precision=tp / max(tp + fp, 1),
        recall=tp / max(tp + fn, 1),
        tp=int(tp),
        fp=int(fp),
        fn=int(fn),
    )
