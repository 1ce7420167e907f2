"""What every evaluation starts from: detections and ground truth by one numbering, in a protocol's units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from d2net.data.annotations import ROUNDING, Annotations
from d2net.data.detections import Detections
from d2net.data.detections.share import Part
from d2net.data.files import DataError, some
from d2net.data.names import match
from d2net.evaluation.activitynet import ACTIVITYNET
from d2net.evaluation.ambiguous import Ambiguous, ambiguous_spans, touches
from d2net.evaluation.matching import Protocol, Spans, parse_iou
from d2net.evaluation.release import RELEASE, RELEASE_RATE, Rate, snippet_spans
from d2net.evaluation.shared import Shared, shared_detections
from d2net.evaluation.thumos import THUMOS
from d2net.timing import Timing

if TYPE_CHECKING:
    from d2net.distributed.ranks import Ranks

PROTOCOLS = {p.name: p for p in (ACTIVITYNET, THUMOS, RELEASE)}


@dataclass(frozen=True)
class Prepared:
    """Detections and instances that a protocol compares.

    Args:
        found: m detections, with negative labels where the ground truth does not have the class; truth: n instances;
            both in the protocol's units.
        instances: truth in seconds; durations: (n,) seconds of each one's video, inf where unknown.
        videos: {name: index}; classes: of the ground truth; found_classes: of the detections.
        ground_truth: its videos that are evaluated.
        ignore: (m,) bool, detections that count only where they are matched, or None.
        n_dropped: detections that ambiguous segments removed.
        notes: names that were matched.
        shared: the processes that share the detections, of which `found` is this one's part; None where there is one.
        of_part: (videos,) bool, those of this process, with shared.
    """

    rules: Protocol
    iou: list[float]
    found: Spans
    truth: Spans
    instances: Spans
    durations: np.ndarray
    videos: dict[str, int]
    classes: tuple[str, ...]
    found_classes: tuple[str, ...]
    ground_truth: Annotations
    ignore: np.ndarray | None = None
    n_dropped: int = 0
    notes: tuple[str, ...] = ()
    shared: Shared | None = None
    of_part: np.ndarray | None = None

    @property
    def present(self) -> np.ndarray:
        """Classes that have instances, rising: those that mAP is the mean of."""
        return np.flatnonzero(self.positives)

    @property
    def positives(self) -> np.ndarray:
        """(C,) instances of each class."""
        return np.bincount(self.truth.label, minlength=len(self.classes))

    @property
    def own(self) -> np.ndarray | slice:
        """Which instances are in the videos of this process's detections."""
        return slice(None) if self.of_part is None else self.of_part[self.truth.video]

    def summed(self, values: np.ndarray) -> np.ndarray:
        """Whole numbers that each process has counted, over all processes."""
        return values if self.shared is None else self.shared.sum(values)

    @property
    def n_overrunning(self) -> int:
        """Instances that end after their video."""
        return int((self.instances.end > self.durations + ROUNDING).sum())


def truth_spans(ground_truth: Annotations, videos: dict[str, int], classes: dict[str, int]) -> tuple[Spans, np.ndarray]:
    """The instances in file order, and the duration of each one's video (inf where unknown)."""
    rows = [
        (classes[s.label], videos[name], s.start, s.end, np.inf if video.duration is None else video.duration)
        for name, video in ground_truth.videos.items()
        for s in video.segments
    ]
    table = np.array(rows, np.float64).reshape(-1, 5)
    return Spans(*table.T[:4]), table[:, 4]


def found_spans(detections: Detections, videos: dict[str, int], classes: dict[str, int]) -> Spans:
    """The detections by the numbering of the ground truth; classes that it does not have are -1, -2, ..."""
    of_label = np.array([classes.get(name, -1 - k) for k, name in enumerate(detections.classes)], np.int64)
    of_video = np.array([videos[name] for name in detections.videos], np.int64)
    return Spans(
        of_label[np.asarray(detections.label, np.int64)],
        of_video[np.asarray(detections.video, np.int64)],
        detections.start,
        detections.end,
        detections.score,
    )


def prepare(
    detections: Detections,
    ground_truth: Annotations,
    *,
    protocol: str,
    iou: str | float | Sequence[float],
    ambiguous: Ambiguous | None = None,
    subset: str | None = None,
    timing: Timing | Rate | None = None,
    ranks: Ranks | None = None,
) -> Prepared:
    """Arguments and errors as `evaluate`."""
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol must be one of {', '.join(PROTOCOLS)}, got {protocol!r}")
    rules, thresholds = PROTOCOLS[protocol], parse_iou(iou)
    if ambiguous is not None and rules is ACTIVITYNET:
        raise ValueError("ambiguous segments belong to the thumos and release protocols, not to activitynet")
    everything = ground_truth
    if subset is not None:
        ground_truth = ground_truth.subset(subset)
    notes: list[str] = []
    shared, total = None, len(detections)
    if ranks is not None and ranks.size > 1:
        detections = shared_detections(detections, ranks)
        shared = Shared(ranks, detections.share.rows)  # type: ignore[union-attr]
        total = int(shared.sum(np.array(len(detections))))
    if total:
        of_video = match(dict.fromkeys(detections.videos), ground_truth.videos, "detections", ground_truth.source)
        notes += [note for note in of_video.notes if "matched" in note]
        detections = replace(detections, videos=list(of_video.values))
        labels = np.unique(detections.label) if shared is None else shared.union(detections.label)
        used = [detections.classes[c] for c in labels]
        if not set(used) & set(ground_truth.classes):
            raise DataError(
                f"detections: none of their {len(used)} classes is among the {len(ground_truth.classes)} of "
                f"{ground_truth.source}: {some(used)}, against {some(ground_truth.classes)}; use the same names"
            )
    if ambiguous:
        ranges_of = match(ambiguous, everything.videos, "ambiguous segments", ground_truth.source)
        ambiguous, notes = ranges_of.values, notes + ranges_of.notes
    videos = {name: i for i, name in enumerate(sorted({*ground_truth.videos, *detections.videos}))}
    classes = {name: c for c, name in enumerate(ground_truth.classes)}
    instances, durations = truth_spans(ground_truth, videos, classes)
    if shared is not None:
        columns = (instances.label, instances.video, instances.start, instances.end, durations)
        shared.check_same(detections=(list(videos), detections.videos), ground_truth=(ground_truth.classes, *columns))
    if not len(instances):
        raise ValueError(f"ground truth {ground_truth.source} has no segments to evaluate detections against")
    _check_finite(detections)
    found, truth = found_spans(detections, videos, classes), instances
    ranges = ambiguous_spans(ambiguous or {}, videos)
    if rules is RELEASE:
        rate = release_rate(timing, ground_truth)
        found, truth, ranges = (snippet_spans(x, rate) for x in (found, truth, ranges))
    on_ambiguous = touches(found, ranges)
    n_dropped, ignore = 0, None
    if rules is RELEASE:
        n_dropped = int(on_ambiguous.sum())
        found, shared = found[~on_ambiguous], shared and shared[~on_ambiguous]
    else:
        ignore = on_ambiguous
    return Prepared(
        rules, thresholds, found, truth, instances, durations, videos, ground_truth.classes, detections.classes,
        ground_truth, ignore, n_dropped, tuple(notes), shared,
        None if shared is None else _of_part(shared.part, detections, videos),
    )  # fmt: skip


def release_rate(timing: Timing | Rate | None, ground_truth: Annotations, otherwise: Timing | None = None) -> Rate:
    """Of the release protocol's snippets: as given, else as the ground truth states, else `otherwise`, else 25 / 16."""
    if timing is None and ground_truth.snippet_seconds is not None:
        timing = Timing(snippet_seconds=ground_truth.snippet_seconds)
    return rate_of(timing or otherwise)


def _of_part(part: Part, detections: Detections, videos: dict[str, int]) -> np.ndarray:
    """(videos,) bool: whose detections the process has; of those without detections it takes its share."""
    own = part.of(np.arange(len(videos)))
    own[[videos[name] for name in detections.videos]] = part.of(np.arange(len(detections.videos)))
    return own


def rate_of(timing: Timing | Rate | None) -> Rate:
    """Snippets per second of a timing; the released code's 25 / 16 for None."""
    if timing is None:
        return RELEASE_RATE
    if isinstance(timing, Rate):
        return timing
    if timing.fps and timing.stride:
        return Rate(timing.fps, timing.stride)
    if timing.snippet_seconds:
        return Rate(1.0, timing.snippet_seconds)
    raise ValueError(f"the release protocol needs snippets of one length in seconds, got {timing!r}")


def _check_finite(detections: Detections) -> None:
    start, end, score = detections.start, detections.end, detections.score
    bad = np.flatnonzero(~(np.isfinite(start) & np.isfinite(end) & np.isfinite(score)))
    if len(bad):
        i = bad[0]
        raise ValueError(
            f"detections must be finite, got [{start[i]}, {end[i]}] with score {score[i]} in video "
            f"{detections.videos[detections.video[i]]!r} ({len(bad)} such)"
        )
