"""Kinds of false positives, and what each costs, as Alwassel et al. define them (Diagnosing Error in Temporal Action
Detectors, ECCV 2018).

A false positive is judged by the instance of its video that it overlaps most, whatever its class (of equal IoUs by one
of its own class). With the protocol's threshold t and the paper's 0.1:

    IoU      own class          another class
    >= t     double detection   wrong label
    >= 0.1   localization       confusion
    below    background         background
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from d2net.evaluation.matching import Protocol, Spans, overlaps, score
from d2net.evaluation.shared import Shared, precision_shared

KINDS = ("double detection", "wrong label", "localization", "confusion", "background")
TRUE, IGNORED = len(KINDS), len(KINDS) + 1
LEAST = 0.1  # IoU below which a detection has found nothing


class Nearest(NamedTuple):
    """The instance that each detection overlaps most: iou (m,), 0 where none; own (m,) whether it has its class."""

    iou: np.ndarray
    own: np.ndarray


def nearest(found: Spans, truth: Spans, rules: Protocol) -> Nearest:
    """Of equal IoUs, an instance of the detection's own class."""
    pairs = overlaps(found.without_labels(), truth.without_labels(), union=rules.union)
    own = found.label[pairs.i] == truth.label[pairs.j]
    order = np.lexsort((~own, -pairs.iou, pairs.i))
    rows, first = np.unique(pairs.i[order], return_index=True)
    best = Nearest(np.zeros(len(found)), np.zeros(len(found), bool))
    best.iou[rows], best.own[rows] = pairs.iou[order][first], own[order][first]
    return best


def kinds_of(partner: np.ndarray, near: Nearest, iou: list[float], rules: Protocol, ignore: np.ndarray | None):
    """(T, m) int: an index of KINDS, or TRUE, or IGNORED; partner (T, m) as `Scores` has it."""
    t = np.asarray(iou)[:, None]
    overlapping = near.iou > t if rules.strict else near.iou >= t
    kind = np.where(overlapping, np.where(near.own, 0, 1), np.where(near.own, 2, 3))
    kind = np.where(~overlapping & (near.iou < LEAST), 4, kind)
    if ignore is not None:
        kind = np.where(ignore, IGNORED, kind)
    return np.where(partner >= 0, TRUE, kind)


def counts(kind: np.ndarray, label: np.ndarray, classes: int) -> np.ndarray:
    """(T, K, C) int64: false positives of each kind and class; other labels are left out."""
    thresholds = np.arange(len(kind))[:, None]
    wanted = (kind < len(KINDS)) & (label >= 0)
    cell = (thresholds * len(KINDS) + kind) * classes + label
    return np.bincount(cell[wanted], minlength=len(kind) * len(KINDS) * classes).reshape(len(kind), len(KINDS), classes)


def ap_without(
    found: Spans, truth: Spans, kind: np.ndarray, iou: list[float], rules: Protocol, positives: np.ndarray,
    ignore: np.ndarray | None, shared: Shared | None = None,
) -> np.ndarray:  # fmt: skip
    """(T, K, C): AP at each threshold once the false positives of one kind are removed; NaN without instances.

    positives: (C,) instances of all processes' videos, where `found` and `truth` are a share of them.
    """
    kinds = range(len(KINDS))
    left = np.stack([of_threshold != k for of_threshold in kind for k in kinds])
    ways = [(t, row) for t, row in zip(np.repeat(iou, len(KINDS)).tolist(), left, strict=True)]
    ap = np.full((len(ways), len(positives)), np.nan)
    hits = np.zeros(left.shape, bool)
    for way, (t, stay) in enumerate(ways):
        rest = None if ignore is None else ignore[stay]
        found_then = score(found[stay], truth, classes=len(positives), iou=[t], protocol=rules, ignore=rest)
        ap[way], hits[way, stay] = found_then.ap[0], found_then.partner[0] >= 0
    if shared is not None:
        ap = precision_shared(found, hits, shared, positives=positives, protocol=rules, ignore=ignore, left=left)
    return ap.reshape(len(iou), len(KINDS), len(positives))


def profile(kind: np.ndarray, label: np.ndarray, score: np.ndarray, instances: np.ndarray, most: int = 10):
    """(T, most, K + 1): true positives (last) and each kind among the best-scored detections.

    Row r counts, of each class with G instances, its detections of rank rG to (r + 1)G by score (the paper's 1G to
    10G).

    Args:
        kind: (T, m), label, score: (m,), of all detections of the classes that are counted; instances: (C,).
    """
    order = np.lexsort((-score, label))
    ordered = label[order]
    rank = np.arange(len(order)) - np.searchsorted(ordered, ordered)
    known = (ordered >= 0) & (instances[np.maximum(ordered, 0)] > 0)  # classes that the ground truth lacks are negative
    part = np.full(len(order), most)
    part[known] = rank[known] // instances[ordered[known]]
    table = np.zeros((len(kind), most, len(KINDS) + 1), np.int64)
    for row, of_threshold in enumerate(kind):
        chosen = of_threshold[order]
        counted = (part < most) & (chosen <= TRUE)
        np.add.at(table[row], (part[counted], chosen[counted]), 1)
    return table
