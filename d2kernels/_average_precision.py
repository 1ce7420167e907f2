"""Matching of detections to ground truth and average precision through csrc, on NumPy arrays."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from d2kernels import _native, backends

OP = "average_precision"


class Instances(NamedTuple):
    """label, video: (n,) int64; start, end: (n,) float64."""

    label: np.ndarray
    video: np.ndarray
    start: np.ndarray
    end: np.ndarray


class Rules(NamedTuple):
    """strict: IoU > t; truth_chooses: each truth takes a detection; first: free partner, not best; hull: of the union;
    ties_by_video: of equal scores; interpolate: precision."""

    strict: bool
    truth_chooses: bool
    first: bool
    hull: bool
    ties_by_video: bool
    interpolate: bool


class Matched(NamedTuple):
    """ap (T, C), NaN for a class without instances; partner (T, n), -1 for none; tp, fp (T,)."""

    ap: np.ndarray
    partner: np.ndarray
    tp: np.ndarray
    fp: np.ndarray


def use_native() -> bool:
    """Whether csrc serves this: unless another backend was asked for, where there is the extension.

    Raises:
        BackendUnavailable: the backend asked for by name cannot.
    """
    asked, missing = backends.asked_for(OP), _native.why_not("cpu")
    if asked == "triton" or (asked == "native" and missing):
        reason = missing if asked == "native" else f"{OP} has no triton kernel"
        raise backends.BackendUnavailable(f"{OP}: the {asked} backend cannot run on cpu: {reason}")
    return asked != "reference" and not missing


def average_precision(
    detections: Instances,
    score: np.ndarray,
    ignore: np.ndarray | None,
    truth: Instances,
    classes: int,
    iou: np.ndarray,
    rules: Rules,
) -> Matched:
    """As d2net.evaluation.matching.score; score (n,) float64, ignore (n,) bool, iou (T,) float64."""
    module, reason = _native.extension()
    if module is None:
        raise ImportError(reason)
    alive = [[np.ascontiguousarray(column) for column in rows] for rows in (detections, truth)]
    of_detections, of_truth = ((len(rows[0]), *(c.ctypes.data for c in rows)) for rows in alive)
    score, iou = np.ascontiguousarray(score), np.ascontiguousarray(iou)
    ignore = None if ignore is None else np.ascontiguousarray(ignore, bool)
    n, steps = len(score), len(iou)
    out = Matched(
        np.empty((steps, classes)), np.empty((steps, n), np.int64), np.empty(steps, np.int64), np.empty(steps, np.int64)
    )
    module.average_precision_cpu(
        of_detections,
        score.ctypes.data,
        0 if ignore is None else ignore.ctypes.data,
        of_truth,
        classes,
        iou.ctypes.data,
        steps,
        tuple(rules),
        *(column.ctypes.data for column in out),
        0,
    )
    return out
