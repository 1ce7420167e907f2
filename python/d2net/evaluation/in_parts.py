"""Scores of many detections, some classes or videos at a time: the same numbers in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from d2net.evaluation.matching import Protocol, Spans, score

AT_ONCE = 1 << 22  # detections


class ClassScores(NamedTuple):
    """As matching.Scores, without partners: ap (T, C), NaN for a class without instances; tp, fp, fn (T,)."""

    ap: np.ndarray
    tp: np.ndarray
    fp: np.ndarray
    fn: np.ndarray


def runs(counts: np.ndarray, most: int) -> Iterator[tuple[int, int]]:
    """(first, end) of consecutive groups of at most `most` in all, or one larger one."""
    first = total = 0
    for i, n in enumerate(counts.tolist()):
        if i > first and total + n > most:
            yield first, i
            first, total = i, 0
        total += n
    yield first, len(counts)


def score_classes(
    detections: Spans,
    truth: Spans,
    *,
    classes: int,
    iou: Sequence[float],
    protocol: Protocol,
    ignore: np.ndarray | None = None,
    at_once: int = AT_ONCE,
) -> ClassScores:
    """As `matching.score`, some classes at a time."""
    if len(detections) <= at_once:
        whole = score(detections, truth, classes=classes, iou=iou, protocol=protocol, ignore=ignore)
        return ClassScores(whole.ap, whole.tp, whole.fp, whole.fn)
    ap = np.full((len(iou), classes), np.nan)
    tp, fp = np.zeros(len(iou), np.int64), np.zeros(len(iou), np.int64)
    known = np.clip(detections.label, -1, classes) + 1  # those of no class of the truth at both ends
    for first, end in runs(np.bincount(known, minlength=classes + 2), at_once):
        rows = np.flatnonzero((known >= first) & (known < end))
        own = (truth.label + 1 >= first) & (truth.label + 1 < end)
        part = score(
            detections[rows], truth[own], classes=classes, iou=iou, protocol=protocol,
            ignore=None if ignore is None else ignore[rows],
        )  # fmt: skip
        inside = slice(max(first - 1, 0), min(end - 1, classes))
        ap[:, inside] = part.ap[:, inside]
        tp, fp = tp + part.tp, fp + part.fp
    return ClassScores(ap, tp, fp, len(truth) - tp)


def by_videos(detections: Spans, truth: Spans, at_once: int = AT_ONCE) -> Iterator[tuple[Spans, Spans]]:
    """Both of some videos at a time; truth of videos without detections included."""
    if len(detections) <= at_once:
        yield detections, truth
        return
    videos = 1 + int(max(detections.video.max(initial=-1), truth.video.max(initial=-1)))
    for first, end in runs(np.bincount(detections.video, minlength=videos), at_once):
        rows = np.flatnonzero((detections.video >= first) & (detections.video < end))
        yield detections[rows], truth[(truth.video >= first) & (truth.video < end)]
