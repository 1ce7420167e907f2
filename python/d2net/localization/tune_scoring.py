"""Decoding and scoring of one decoder over and over: activations, timing and ground truth are prepared once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

import d2kernels as d2k
from d2net.evaluation.f1 import f1_score
from d2net.evaluation.matching import Protocol, Spans, score
from d2net.evaluation.release import Rate, snippet_spans
from d2net.localization.activations import Activations
from d2net.localization.decoding import detect, reweighted, select_classes
from d2net.sections import LocalizeConfig
from d2net.timing import to_seconds


class Decoder:
    """Detections of the same videos by any configuration.

    Args:
        chunks: T and λ' of consecutive videos; pooled: p (n, C) of each chunk.
        steps: (n, 3) stride, snippet length and duration (inf where unknown) of each video, in seconds.
        classes: (C,) label of each class of T in the ground truth, negative where it has none.
        rate: of the release protocol's snippets, or None.
    """

    def __init__(
        self,
        chunks: Sequence[Activations],
        pooled: Sequence[Tensor],
        steps: np.ndarray,
        classes: np.ndarray,
        rate: Rate | None = None,
    ):
        self.chunks, self.pooled, self.steps, self.classes, self.rate = chunks, pooled, steps, classes, rate
        self._refined: dict[tuple[bool, bool], list[d2k.Ragged]] = {}

    def _reweighted(self, config: LocalizeConfig) -> list[d2k.Ragged]:
        key = (config.reweight, config.reweight and config.foreground_rescale)
        if key not in self._refined:
            self._refined[key] = [reweighted(a, config) for a in self.chunks]
        return self._refined[key]

    def __call__(self, config: LocalizeConfig) -> Spans:
        """In seconds, or whole snippets of `rate`."""
        parts, first = [], 0
        for a, refined, p in zip(self.chunks, self._reweighted(config), self.pooled, strict=True):
            found = detect(refined, select_classes(a.classes, refined, config), config, p)
            sequence, label, start, end, value = (t.cpu().numpy() for t in found[:5])
            parts.append((sequence + first, label, start, end, value))
            first += len(p)
        video, label, start, end, value = (np.concatenate(column) for column in zip(*parts, strict=True))
        stride, length, duration = self.steps[video].T
        start, end = to_seconds(start, end, stride, length, duration)
        spans = Spans(self.classes[label], video, start, end, value)
        return spans if self.rate is None else snippet_spans(spans, self.rate)


@dataclass(frozen=True)
class Metric:
    """What is maximised, a fraction.

    kind: "mAP" (of the classes that have instances), "F1" (micro), or "class", the AP of label `of`; the mean over the
    IoU thresholds.
    """

    kind: str
    of: int
    iou: Sequence[float]
    rules: Protocol
    classes: int

    def __call__(self, found: Spans, truth: Spans) -> float:
        """0 where there is no instance."""
        if self.kind == "class":
            found, truth = found[found.label == self.of], truth[truth.label == self.of]
        if not len(truth):
            return 0.0
        result = score(found, truth, classes=self.classes, iou=self.iou, protocol=self.rules)
        if self.kind == "F1":
            rows = zip(result.tp, result.fp, result.fn, strict=True)
            return float(np.mean([f1_score(*map(int, row)).f1 for row in rows]))
        return float(np.nanmean(result.ap, 1).mean())


def of_videos(spans: Spans, chosen: np.ndarray) -> Spans:
    """The spans of the videos that are chosen; chosen: (n,) bool."""
    return spans[chosen[spans.video]]


def repeated(spans: Spans, videos: np.ndarray) -> Spans:
    """The spans of these videos, in this order, one that is listed twice as two videos."""
    order = np.argsort(spans.video, kind="stable")
    bounds = np.searchsorted(spans.video[order], np.arange(videos.max(initial=-1) + 2))
    count = bounds[videos + 1] - bounds[videos]
    place = np.repeat(np.arange(len(videos)), count)
    rows = order[np.arange(len(place)) + np.repeat(bounds[videos] - (np.cumsum(count) - count), count)]
    chosen = spans[rows]
    return Spans(chosen.label, place, chosen.start, chosen.end, chosen.score)


def ranked(spans: Spans) -> Spans:
    """The spans with minus how many of their class score more in place of scores: comparable from decoder to decoder.

    The number is over all videos, so that of two decoders' detections the one that is further up its own list is first.
    """
    order = np.lexsort((-spans.score, spans.label))  # type: ignore[operator]
    label, value = spans.label[order], spans.score[order]  # type: ignore[index]
    place = np.arange(len(order))
    begins = np.append(True, (np.diff(label) != 0) | (np.diff(value) != 0))[: len(order)]
    # Equal scores keep one rank: the place of the first of them, counted from the first of their class.
    first = np.maximum.accumulate(np.where(begins, place, 0)) - np.searchsorted(label, label)
    rank = np.empty(len(order))
    rank[order] = first
    return Spans(spans.label, spans.video, spans.start, spans.end, -rank)


def joined(parts: Sequence[Spans]) -> Spans:
    """All of them, one after the other."""
    columns = [np.concatenate([getattr(p, n) for p in parts]) for n in ("label", "video", "start", "end", "score")]
    return Spans(*columns)
