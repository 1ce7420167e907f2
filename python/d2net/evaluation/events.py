"""Segment-based and event-based F1 of sound event detection (Mesaros et al., Metrics for Polyphonic Sound Event
Detection, Applied Sciences 2016), as sed_eval computes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from d2net.data.annotations import Annotations
from d2net.data.detections import Detections
from d2net.evaluation.bipartite import maximum_matching
from d2net.evaluation.f1 import F1, f1_score
from d2net.evaluation.matching import Spans, same_group
from d2net.evaluation.prepared import Prepared, prepare

if TYPE_CHECKING:
    from d2net.distributed.ranks import Ranks


@dataclass(frozen=True)
class EventScores:
    """micro: over the counts of all classes; macro: the mean F1 of the classes that have instances.

    A class that has instances and no detection has F1 0 (sed_eval's empty_system_output_handling="zero_score").
    """

    micro: F1
    macro: float
    classes: Mapping[str, F1]

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, ready for JSON."""
        return {
            "micro": self.micro._asdict(),
            "macro": self.macro,
            "classes": {name: f1._asdict() for name, f1 in self.classes.items()},
        }


@dataclass(frozen=True)
class EventReport:
    """Both kinds of scores and what they were computed with; seconds."""

    segment_based: EventScores
    event_based: EventScores
    resolution: float
    collar: float
    length_share: float
    onset_only: bool
    min_score: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, ready for JSON."""
        scores = {"segment_based": self.segment_based.to_dict(), "event_based": self.event_based.to_dict()}
        return asdict(self) | scores

    def table(self, *, per_class: bool = False) -> str:
        """A few lines to print, in percent."""
        ends = "onset" if self.onset_only else f"onset and offset, or {self.length_share:g} of the length"
        kinds = (
            (f"segment-based, {self.resolution:g} s", self.segment_based),
            (f"event-based, {self.collar:g} s of {ends}", self.event_based),
        )
        lines = []
        for name, found in kinds:
            f = found.micro
            lines.append(
                f"{name}: F1 micro {100 * f.f1:.2f} (precision {100 * f.precision:.2f}, recall {100 * f.recall:.2f}), "
                f"macro {100 * found.macro:.2f}"
            )
            if per_class:
                lines += [f"  {c} {100 * own.f1:.2f}" for c, own in found.classes.items()]
        return "\n".join(lines)


def segment_counts(found: Spans, truth: Spans, resolution: float) -> tuple[np.ndarray, np.ndarray]:
    """(3, k) float64: cells where a class of a video is active in both, in found alone, in truth alone; (k,) labels.

    Cell c is [c, c + 1) · resolution; an event is active in every cell that it touches (its onset rounded down, its
    offset up). A sweep over the ends, so that the cost does not depend on how long videos are.
    """
    parts = [(s, k) for k, s in enumerate((found, truth))]
    first = np.concatenate([np.floor(s.start * 1 / resolution) for s, _ in parts])
    last = np.concatenate([np.ceil(s.end * 1 / resolution) for s, _ in parts])
    side = np.concatenate([np.full(len(s), k) for s, k in parts])
    label, video = (np.concatenate([getattr(s, name) for s, _ in parts]) for name in ("label", "video"))
    some = last > first
    first, last, side, label, video = (x[some] for x in (first, last, side, label, video))
    at = np.concatenate([first, last])
    step = np.repeat([1, -1], len(first))
    side, label, video = (np.tile(x, 2) for x in (side, label, video))
    order = np.lexsort((at, video, label))
    at, step, side, label, video = (x[order] for x in (at, step, side, label, video))
    # A group's steps sum to 0, so that one running sum serves all.
    active = [np.cumsum(np.where(side == k, step, 0)) > 0 for k in (0, 1)]
    width = np.append(np.diff(at), 0)
    both = [active[0] & active[1], active[0] & ~active[1], active[1] & ~active[0]]
    return np.stack([np.where(b, width, 0.0) for b in both]), label  # long videos in short cells pass 2**63


def event_matches(
    found: Spans, truth: Spans, *, collar: float = 0.2, length_share: float = 0.5, onset_only: bool = False
) -> np.ndarray:
    """(n,) int64: the detection that each instance is matched with, or -1; as many as can be.

    A pair of one class and video may be matched where the onsets differ by at most `collar`, and the offsets by at
    most max(collar, length_share · the instance's length).
    """
    parts = []
    for j, i in same_group(truth, found):
        near = np.abs(truth.start[j] - found.start[i]) <= collar
        if not onset_only:
            room = np.maximum(collar, length_share * (truth.end[j] - truth.start[j]))
            near &= np.abs(truth.end[j] - found.end[i]) <= room
        parts.append((j[near], i[near]))
    j, i = (np.concatenate(side) for side in zip(*parts, strict=True))
    return maximum_matching(i, j, len(found), len(truth))


def _scores(tp: np.ndarray, fp: np.ndarray, fn: np.ndarray, data: Prepared) -> EventScores:
    """From counts (C + 1,), the last of classes that the ground truth does not have."""
    rows = {data.classes[c]: f1_score(int(tp[c]), int(fp[c]), int(fn[c])) for c in data.present}
    return EventScores(
        micro=f1_score(int(tp.sum()), int(fp.sum()), int(fn.sum())),
        macro=float(np.mean([f.f1 for f in rows.values()])),
        classes=rows,
    )


def event_scores(
    detections: Detections,
    ground_truth: Annotations,
    *,
    subset: str | None = None,
    min_score: float | None = None,
    resolution: float = 1.0,
    collar: float = 0.2,
    length_share: float = 0.5,
    onset_only: bool = False,
    ranks: Ranks | None = None,
) -> EventReport:
    """Segment-based and event-based F1 of the detections as decisions; sed_eval's defaults.

    Args:
        subset: as `evaluate`.
        min_score: detections that score less are left out; None takes all.
        resolution: seconds of a segment; collar: seconds that an onset or offset may be off; length_share: of the
            instance's length, that its offset may be off; onset_only: offsets do not count.

    Raises:
        ValueError: as `evaluate`, a min_score that is not finite, or a resolution, collar or share out of its range.
    """
    for name, value, least in (
        ("resolution", resolution, 1e-6),
        ("collar", collar, 0),
        ("length_share", length_share, 0),
    ):
        if not least <= value <= 1e9:
            raise ValueError(f"{name} must be a number from {least:g} to 1e9, got {value}")
    if min_score is not None:
        if not np.isfinite(min_score):
            raise ValueError(f"min_score must be finite, or None to take all detections, got {min_score}")
        detections = detections[detections.score >= min_score]
    data = prepare(detections, ground_truth, protocol="activitynet", iou=0.5, subset=subset, ranks=ranks)
    found, truth, n = data.found, data.truth[data.own], len(data.classes)
    found_label, truth_label = np.where(found.label < 0, n, found.label), truth.label
    cells, label = segment_counts(found, truth, resolution)
    at = np.where(label < 0, n, label)
    cell_tp, cell_fp, cell_fn = data.summed(
        np.stack([np.bincount(at, weights=row, minlength=n + 1) for row in cells])
    )
    taken = event_matches(found, truth, collar=collar, length_share=length_share, onset_only=onset_only)
    matched = truth_label[taken >= 0]
    tp, *of = data.summed(np.stack([np.bincount(x, minlength=n + 1) for x in (matched, found_label, truth_label)]))
    fp, fn = (own - tp for own in of)
    return EventReport(
        segment_based=_scores(cell_tp, cell_fp, cell_fn, data),
        event_based=_scores(tp, fp, fn, data),
        resolution=resolution,
        collar=collar,
        length_share=length_share,
        onset_only=onset_only,
        min_score=min_score,
    )
