"""Matching of detections to ground truth, and average precision: what every protocol shares. Arrays only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal, NamedTuple

import numpy as np

from d2kernels import _average_precision as native
from d2net.ranges import parse_values

PAIRS_AT_ONCE = 1 << 22


@dataclass(frozen=True)
class Spans:
    """Segments of many videos, as parallel arrays.

    label, video: (n,) int64. start, end: (n,) float64 in one unit (seconds or snippets), [start, end).
    score: (n,) float64 for detections, None for ground truth.
    """

    label: np.ndarray
    video: np.ndarray
    start: np.ndarray
    end: np.ndarray
    score: np.ndarray | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None:
                value = np.asarray(value, np.int64 if field.name in ("label", "video") else np.float64)
                object.__setattr__(self, field.name, value)
                if value.shape != (len(self.label),):
                    raise ValueError(
                        f"Spans: {field.name} must have label's shape ({len(self.label)},), got {value.shape}"
                    )

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, index: np.ndarray | slice) -> Spans:
        score = None if self.score is None else self.score[index]
        return Spans(self.label[index], self.video[index], self.start[index], self.end[index], score)

    def without_labels(self) -> Spans:
        """The same segments as one class."""
        return replace(self, label=np.zeros(len(self), np.int64))

    @property
    def scored(self) -> np.ndarray:
        """The scores, which must be there."""
        if self.score is None:
            raise ValueError("the detections have no score")
        return self.score

    @property
    def degenerate(self) -> np.ndarray:
        """(n,) bool, end <= start: no detection can match it."""
        return self.end <= self.start


@dataclass(frozen=True)
class Protocol:
    """What tells one evaluation protocol from another; the modules of the three say why.

    strict: a match needs IoU > t, else IoU >= t.
    chooser: "detection": each detection, by falling score, takes a ground truth; "truth": the reverse, in
        file order.
    prefer: the "best" free partner by IoU, or the "first" in file order.
    interpolate: precision is made non-increasing in recall before it is averaged.
    ties: equal scores stay in "input" order, or go by ascending "video" index first.
    union: of the IoU: "sum" of lengths minus intersection, or "hull" from first start to last end (they
        differ in the last bit).
    """

    name: str
    strict: bool
    chooser: Literal["detection", "truth"]
    prefer: Literal["best", "first"]
    interpolate: bool
    ties: Literal["input", "video"] = "input"
    union: Literal["sum", "hull"] = "hull"


class Pairs(NamedTuple):
    """Overlapping pairs, by i, then j: a[i] and b[j] have this IoU. Each (m,)."""

    i: np.ndarray
    j: np.ndarray
    iou: np.ndarray

    def take(self, index: np.ndarray) -> Pairs:
        return Pairs(self.i[index], self.j[index], self.iou[index])


def same_group(a: Spans, b: Spans) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Every pair of one video and one label, as indices (m,) into a and b, by a, then b; in parts of bounded size."""
    videos = 1 + max(a.video.max(initial=0), b.video.max(initial=0))
    group_a, group_b = a.label * videos + a.video, b.label * videos + b.video
    by_group = np.argsort(group_b, kind="stable")
    group_b = group_b[by_group]
    first = np.searchsorted(group_b, group_a, "left")
    count = np.searchsorted(group_b, group_a, "right") - first
    chunk = np.cumsum(count) // PAIRS_AT_ONCE
    for rows in np.split(np.arange(len(a)), np.flatnonzero(np.diff(chunk)) + 1):
        n = count[rows]
        i = np.repeat(rows, n)
        yield i, by_group[np.arange(len(i)) + np.repeat(first[rows] - (np.cumsum(n) - n), n)]


def overlaps(a: Spans, b: Spans, floor: float = 0.0, union: Literal["sum", "hull"] = "hull") -> Pairs:
    """Every pair of one video and one label with a positive intersection and IoU >= floor."""
    parts: list[Pairs] = []
    for i, j in same_group(a, b):
        shared = np.minimum(a.end[i], b.end[j]) - np.maximum(a.start[i], b.start[j])
        meet = shared > 0
        i, j, shared = i[meet], j[meet], shared[meet]
        if union == "sum":
            whole = (b.end[j] - b.start[j]) + (a.end[i] - a.start[i]) - shared
        else:
            whole = np.maximum(a.end[i], b.end[j]) - np.minimum(a.start[i], b.start[j])
        iou = shared / whole
        keep = iou >= floor
        parts.append(Pairs(i[keep], j[keep], iou[keep]))
    return Pairs(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def greedy(chooser: np.ndarray, chosen: np.ndarray, n_chooser: int, n_chosen: int) -> np.ndarray:
    """One pass over candidate pairs (m,), (m,) in order of priority, matching those whose two sides are free.

    Returns (n_chooser,) int64, the partner of each chooser or -1.
    """
    partner = [-1] * n_chooser
    taken = bytearray(n_chosen)
    for i, j in zip(chooser.tolist(), chosen.tolist(), strict=True):
        if partner[i] < 0 and not taken[j]:
            partner[i] = j
            taken[j] = 1
    return np.array(partner, np.int64)


def by_falling_score(detections: Spans, ties: Literal["input", "video"] = "input") -> np.ndarray:
    """(n,) indices by label, then falling score, then as Protocol.ties says."""
    if detections.score is None:
        raise ValueError("by_falling_score: the detections have no score")
    keys = (-detections.score, detections.label)
    return np.lexsort((detections.video, *keys) if ties == "video" else keys)


def match(detections: Spans, truth: Spans, iou: Sequence[float], protocol: Protocol) -> np.ndarray:
    """The ground truth that each detection takes at each IoU threshold.

    Args:
        detections: n of them, in the order of `by_falling_score`.
        truth: in file order.
        iou: T thresholds.

    Returns:
        (T, n) int64, an index of truth or -1; each ground truth is taken at most once per threshold.
    """
    pairs = overlaps(detections, truth, min(iou, default=0.0), protocol.union)
    if protocol.chooser == "truth":
        pairs = pairs.take(np.lexsort((pairs.i, -pairs.iou, pairs.j)))
    elif protocol.prefer == "best":
        pairs = pairs.take(np.lexsort((pairs.j, -pairs.iou, pairs.i)))
    partner = np.full((len(iou), len(detections)), -1, np.int64)
    for row, t in zip(partner, iou, strict=True):
        near = pairs.iou > t if protocol.strict else pairs.iou >= t
        i, j = pairs.i[near], pairs.j[near]
        if protocol.chooser == "detection":
            row[:] = greedy(i, j, len(detections), len(truth))
        else:
            taken = greedy(j, i, len(truth), len(detections))
            matched = np.flatnonzero(taken >= 0)
            row[taken[matched]] = matched
    return partner


def average_precision(
    hits: np.ndarray, positives: int, *, ignored: np.ndarray | None = None, interpolate: bool = True
) -> np.ndarray:
    """Sum over the true positives of precision / positives: the area under the precision-recall curve.

    Args:
        hits: (..., n) bool by falling score, whether a detection is a true positive.
        positives: how many instances there are.
        ignored: (..., n) bool, detections that are neither true nor false positives.
        interpolate: take the best precision at this recall or more, else the precision at it.

    Returns:
        (...) float64; 0 where nothing is hit.
    """
    counted = np.ones(hits.shape, bool) if ignored is None else ~ignored
    found = np.cumsum(hits, -1)
    precision = found / np.maximum(np.cumsum(counted, -1), 1)
    if interpolate:
        precision = np.maximum.accumulate(precision[..., ::-1], -1)[..., ::-1]
    # Added in order, not in pairs: the native backend then gives the same bits.
    return np.cumsum(precision * hits, -1)[..., -1:].sum(-1) / max(positives, 1)


class Scores(NamedTuple):
    """ap (T, C), NaN for a class without instances; partner (T, n) in input order, -1 for none;
    tp, fp, fn (T,) over all classes."""

    ap: np.ndarray
    partner: np.ndarray
    tp: np.ndarray
    fp: np.ndarray
    fn: np.ndarray


def _native_score(
    detections: Spans,
    truth: Spans,
    classes: int,
    iou: Sequence[float],
    protocol: Protocol,
    ignore: np.ndarray | None,
) -> Scores:
    if detections.score is None:
        raise ValueError("score: the detections have no score")
    rules = native.Rules(
        strict=protocol.strict,
        truth_chooses=protocol.chooser == "truth",
        first=protocol.prefer == "first",
        hull=protocol.union == "hull",
        ties_by_video=protocol.ties == "video",
        interpolate=protocol.interpolate,
    )
    spans = [native.Instances(s.label, s.video, s.start, s.end) for s in (detections, truth)]
    found = native.average_precision(
        spans[0], detections.score, ignore, spans[1], classes, np.asarray(iou, np.float64), rules
    )
    return Scores(found.ap, found.partner, found.tp, found.fp, len(truth) - found.tp)


def score(
    detections: Spans,
    truth: Spans,
    *,
    classes: int,
    iou: Sequence[float],
    protocol: Protocol,
    ignore: np.ndarray | None = None,
) -> Scores:
    """AP of each class, and true and false positives, at each IoU threshold.

    Args:
        detections: n of them in any order; a label outside 0 .. classes - 1 is no class of the ground truth:
            it is left out of ap and counts in fp.
        truth: in file order, every label in 0 .. classes - 1. An instance with end <= start is a positive
            that nothing matches.
        classes: C.
        iou: T thresholds.
        protocol: how to match and to average.
        ignore: (n,) bool, detections that do not count unless they are true positives.

    Raises:
        ValueError: a label of truth outside 0 .. classes - 1, or detections without a score.
    """
    if len(truth) and not 0 <= truth.label.min() <= truth.label.max() < classes:
        wrong = truth.label[(truth.label < 0) | (truth.label >= classes)][0]
        raise ValueError(f"score: labels of truth must lie in 0 .. {classes - 1}, got {wrong}")
    if native.use_native():
        return _native_score(detections, truth, classes, iou, protocol, ignore)
    order = by_falling_score(detections, protocol.ties)
    ordered = detections[order]
    partner = match(ordered, truth, iou, protocol)
    hits = partner >= 0
    ignored = np.zeros_like(hits) if ignore is None else ~hits & ignore[order]
    ap = np.full((len(iou), classes), np.nan)
    bounds = np.searchsorted(ordered.label, np.arange(classes + 1))
    for c, n in enumerate(np.bincount(truth.label, minlength=classes)):
        if n:
            own = slice(bounds[c], bounds[c + 1])
            ap[:, c] = average_precision(
                hits[:, own], int(n), ignored=ignored[:, own], interpolate=protocol.interpolate
            )
    in_input_order = np.empty_like(partner)
    in_input_order[:, order] = partner
    tp = hits.sum(1)
    fp = (~hits & ~ignored).sum(1)
    return Scores(ap, in_input_order, tp, fp, len(truth) - tp)


def parse_iou(text: str | float | Sequence[float]) -> list[float]:
    """IoU thresholds from numbers or text: "0.5", "0.3,0.5,0.7" or "0.1:0.7:0.1" (start:stop:step).

    The stop is included.

    Raises:
        ValueError: not of these forms, a threshold outside (0, 1], or one given twice.
    """
    if not isinstance(text, str):
        values = [float(t) for t in np.atleast_1d(np.asarray(text, np.float64))]
    else:
        try:
            values = parse_values(text)
        except ValueError as error:
            raise ValueError(f"iou {error}") from None
    if not values:
        raise ValueError(f"iou must name at least one threshold, got {text!r}")
    wrong = [t for t in values if not 0 < t <= 1]
    if wrong:
        raise ValueError(f"iou thresholds must lie in (0, 1], got {wrong[0]} in {text!r}")
    if len(set(values)) < len(values):
        raise ValueError(f"iou thresholds must differ, got {text!r}")
    return values
