"""One evaluation of a set of detections, and its report."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from d2net.data.annotations import Annotations
from d2net.data.detections import Detections
from d2net.data.files import write_atomically
from d2net.evaluation.ambiguous import Ambiguous
from d2net.evaluation.classification import classification_map
from d2net.evaluation.f1 import F1, f1_score
from d2net.evaluation.in_parts import score_classes
from d2net.evaluation.prepared import Prepared, prepare
from d2net.evaluation.proposals import IOU, covered
from d2net.evaluation.release import Rate
from d2net.evaluation.shared import score_shared
from d2net.terminal import printable
from d2net.timing import Timing

if TYPE_CHECKING:
    from d2net.distributed.ranks import Ranks


@dataclass(frozen=True)
class Report:
    """What an evaluation found; every rate is a fraction.

    Args:
        ground_truth: the file or object used; n_instances and n_videos say how large it is.
        ap: {class: [per IoU]} of the classes that have instances; mAP is their mean per IoU.
        f1: per IoU, micro over classes.
        n_detections: how many were evaluated, after ambiguous segments removed n_dropped.
        n_degenerate: instances with end <= start, positives that nothing matches.
        n_overrunning: instances that end after their video.
        average_recall: AR@1 .. AR@N, class-agnostic.
    """

    protocol: str
    ground_truth: str
    subset: str | None
    iou: list[float]
    mAP: list[float]
    average_mAP: float
    ap: dict[str, list[float]]
    f1: list[F1]
    n_detections: int
    n_dropped: int
    n_instances: int
    n_videos: int
    n_degenerate: int
    n_overrunning: int
    average_recall: list[float] | None = None
    classification_mAP: float | None = None
    warnings: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, ready for JSON; what was not asked for is left out."""
        out = asdict(self)
        out["f1"] = [{"iou": t, **row._asdict()} for t, row in zip(self.iou, self.f1, strict=True)]
        return {key: value for key, value in out.items() if value is not None}

    def save(self, path: str | os.PathLike, more: Mapping[str, Any] | None = None) -> None:
        """Writes `to_dict` and `more` as JSON; an interrupted save leaves an earlier file whole."""
        text = json.dumps(self.to_dict() | dict(more or {}), indent=1, allow_nan=False)
        write_atomically(path, lambda file: file.write(text.encode()))

    def table(self, *, per_class: bool = False) -> str:
        """A few lines to print: percentages per IoU, and optionally per class."""
        rows = [("IoU", [f"{t:g}" for t in self.iou], "mean")]
        rows.append(("mAP %", *_percent(self.mAP)))
        rows.append(("F1 %", *_percent([row.f1 for row in self.f1])))
        if per_class:
            rows += [(name, *_percent(values)) for name, values in self.ap.items()]
        width = max(len(name) for name, _, _ in rows)
        subset = f" [{self.subset}]" if self.subset else ""
        heading = (
            f"{self.protocol} protocol, {self.n_detections} detections against {self.ground_truth}{subset}: "
            f"{self.n_instances} instances of {len(self.ap)} classes in {self.n_videos} videos"
        )
        lines = [
            heading,
            *(f"{name:<{width}} " + "".join(f"{v:>7}" for v in values) + f"{mean:>8}" for name, values, mean in rows),
        ]
        if self.average_recall:
            at = sorted({n for n in (1, 5, 10, 50, 100) if n <= len(self.average_recall)})
            lines.append("recall %  " + "  ".join(f"AR@{n} {100 * self.average_recall[n - 1]:.2f}" for n in at))
        if self.classification_mAP is not None:
            lines.append(f"classification mAP % {100 * self.classification_mAP:.2f}")
        return "\n".join(map(printable, lines + [f"warning: {w}" for w in self.warnings]))


def _percent(values: Sequence[float]) -> tuple[list[str], str]:
    return [f"{100 * v:.2f}" for v in values], f"{100 * float(np.mean(values)):.2f}"


def evaluate(
    detections: Detections,
    ground_truth: Annotations,
    *,
    protocol: str = "activitynet",
    iou: str | float | Sequence[float] = "0.1:0.7:0.1",
    ambiguous: Ambiguous | None = None,
    subset: str | None = None,
    timing: Timing | Rate | None = None,
    proposals: int | None = 100,
    class_scores: Mapping[str, np.ndarray] | None = None,
    ranks: Ranks | None = None,
) -> Report:
    """Evaluates detections (seconds) against a ground truth (seconds).

    Args:
        detections: scored segments; those of a class that the ground truth does not have are left out of ap
            and count as false positives of F1.
        ground_truth: its `source` names it in the report.
        protocol: "activitynet", "thumos" or "release"; the modules of these names say what each does.
        iou: thresholds in (0, 1], or a text as `parse_iou` takes it.
        ambiguous: {video: [(start, end), ...]} in seconds; thumos ignores unmatched detections there, release
            drops every detection there.
        subset: evaluate against the videos of this subset only; detections in others are false positives.
        timing: of the release protocol's snippets: a `Timing` or `Rate`; the ground truth's snippet_seconds by
            default, else 25 fps and 16 frames.
        proposals: AR@1 .. AR@proposals, None for none.
        class_scores: {video: (C,) p in the order of ground_truth.classes}, for the classification mAP.
        ranks: the processes that share the detections, each its `part` of them; all get the report of all.

    Returns:
        AP by class and IoU, mAP, F1 and AR@AN as fractions, with what was counted; `table()` prints, `save()` writes.

    Raises:
        ValueError: an unknown protocol, a ground truth without segments, detections that are not finite,
            ambiguous segments with the activitynet protocol, class_scores of another width, or names of videos or
            classes of which none is in the ground truth.
    """
    data = prepare(
        detections, ground_truth, protocol=protocol, iou=iou, ambiguous=ambiguous, subset=subset, timing=timing,
        ranks=ranks,
    )  # fmt: skip
    found, truth, ground_truth = data.found, data.truth, data.ground_truth
    given: dict[str, Any] = {"iou": data.iou, "protocol": data.rules, "ignore": data.ignore}
    if data.shared is None:
        result = score_classes(found, truth, classes=len(data.classes), **given)
    else:
        result, _ = score_shared(found, truth[data.own], data.shared, positives=data.positives, **given)
    recall = None
    if proposals:
        recall = data.summed(covered(found, truth[data.own], most=proposals)) / max(len(truth) * len(IOU), 1)
    odd = _odd(data)
    present = data.present
    by_iou = result.ap[:, present].mean(1)
    counts = zip(result.tp, result.fp, result.fn, strict=True)
    return Report(
        protocol=protocol,
        ground_truth=ground_truth.source,
        subset=subset,
        iou=data.iou,
        mAP=by_iou.tolist(),
        average_mAP=float(by_iou.mean()),
        ap={data.classes[c]: result.ap[:, c].tolist() for c in present},
        f1=[f1_score(*(int(n) for n in row)) for row in counts],
        n_detections=odd["found"],
        n_dropped=odd["dropped"],
        n_instances=len(truth),
        n_videos=len(ground_truth.videos),
        n_degenerate=int(truth.degenerate.sum()),
        n_overrunning=data.n_overrunning,
        average_recall=None if recall is None else recall.tolist(),
        classification_mAP=None if class_scores is None else _classification(class_scores, ground_truth),
        warnings=[*data.notes, *_warnings(data, odd)],
    )


def _classification(class_scores: Mapping[str, np.ndarray], ground_truth: Annotations) -> float:
    names = [name for name in ground_truth.videos if name in class_scores]
    p = np.array([np.asarray(class_scores[name]) for name in names], np.float64)
    if p.shape != (len(names), len(ground_truth.classes)):
        raise ValueError(
            f"class_scores must hold {len(ground_truth.classes)} values for each video of the ground truth, "
            f"got an array {p.shape} for {len(names)} of them"
        )
    return classification_map(p, ground_truth.label_matrix(names))


def _odd(data: Prepared) -> dict[str, int]:
    """Detections, counted: those found, dropped, without a length, in other videos and of other classes."""
    found = data.found
    listed = np.isin(found.video, [data.videos[name] for name in data.ground_truth.videos])
    counts = {
        "found": len(found),
        "dropped": data.n_dropped,
        "degenerate": int(found.degenerate.sum()),
        "elsewhere": int((~listed).sum()),
        "unknown": int((found.label < 0).sum()),
    }
    return dict(zip(counts, data.summed(np.array(list(counts.values()))).tolist(), strict=True))


def _warnings(data: Prepared, odd: Mapping[str, int]) -> list[str]:
    truth, ground_truth = data.truth, data.ground_truth
    out = []
    if not odd["found"]:
        out.append("there are no detections: mAP is 0")
    subsets = sorted({v.subset for v in ground_truth.videos.values() if v.subset and v.segments})
    if len(subsets) > 1:
        out.append(f"the ground truth's subsets are evaluated together ({', '.join(subsets)}); choose one")
    if n := int(truth.degenerate.sum()):
        out.append(f"{n} instances have end <= start: positives that nothing can match")
    if data.n_overrunning:
        out.append(f"{data.n_overrunning} instances end after their video")
    if n := odd["degenerate"]:
        out.append(f"{n} detections have end <= start: false positives")
    if n := odd["elsewhere"]:
        out.append(f"{n} detections are in videos that the ground truth does not list: false positives")
    if n := odd["unknown"]:
        names = sorted(set(data.found_classes) - set(data.classes))
        out.append(f"{n} detections are of classes that the ground truth does not have ({_some(names)})")
    if absent := [name for name, n in zip(data.classes, data.positives, strict=True) if not n]:
        out.append(f"{len(absent)} classes have no instance and are left out of mAP ({_some(absent)})")
    return out


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
