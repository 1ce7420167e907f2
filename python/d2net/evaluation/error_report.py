"""The error analysis of one evaluation: which false positives, which missed instances, and what each costs."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from d2net.data.annotations import Annotations
from d2net.data.detections import Detections
from d2net.data.files import write_text
from d2net.evaluation.ambiguous import Ambiguous
from d2net.evaluation.errors import KINDS, TRUE, ap_without, counts, kinds_of, nearest, profile
from d2net.evaluation.matching import score
from d2net.evaluation.missed import BUCKETS, CHARACTERISTICS, Bucket, by_bucket, characteristics, missed
from d2net.evaluation.prepared import prepare
from d2net.evaluation.release import Rate
from d2net.evaluation.shared import score_shared
from d2net.terminal import printable
from d2net.timing import Timing

if TYPE_CHECKING:
    from d2net.distributed.ranks import Ranks


@dataclass(frozen=True)
class ErrorReport:
    """Errors at each of T IoU thresholds; K kinds in the order of `KINDS`, C classes that have instances.

    Args:
        true_positives: (T,); false_positives: (T, K) over all classes, those that the ground truth lacks included.
        mAP: (T,); gain: (T, K) of mAP, were the false positives of the kind removed.
        class_false_positives, class_gain: (T, K, C), the gain that of the class's AP; class_missed: (T, C).
        profile: (T, 10, K + 1) of the 1st to the 10th G best detections, G a class's instances; true positives last.
        missed: {characteristic: buckets}.
    """

    protocol: str
    ground_truth: str
    buckets: str
    iou: list[float]
    classes: tuple[str, ...]
    class_instances: np.ndarray
    true_positives: np.ndarray
    false_positives: np.ndarray
    mAP: np.ndarray
    gain: np.ndarray
    class_false_positives: np.ndarray
    class_gain: np.ndarray
    class_missed: np.ndarray
    profile: np.ndarray
    missed: dict[str, list[Bucket]]

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, ready for JSON; infinite ends of buckets are null."""

        def by_kind(table: np.ndarray) -> dict[str, list]:
            return {kind: table[:, k].tolist() for k, kind in enumerate(KINDS)}

        names = (*KINDS, "true positive")
        return {
            "protocol": self.protocol,
            "ground_truth": self.ground_truth,
            "buckets": self.buckets,
            "iou": self.iou,
            "mAP": self.mAP.tolist(),
            "true_positives": self.true_positives.tolist(),
            "false_positives": by_kind(self.false_positives),
            "mAP_gain": by_kind(self.gain),
            "average_mAP_gain": dict(zip(KINDS, self.gain.mean(0).tolist(), strict=True)),
            "profile": [
                {name: row[:, k].tolist() for k, name in enumerate(names)} for row in self.profile
            ],
            "missed": {
                name: {
                    b.name: {"above": _number(b.above), "upto": _number(b.upto), "instances": b.instances,
                             "missed": b.missed}
                    for b in buckets
                }
                for name, buckets in self.missed.items()
            },
            "classes": {
                name: {
                    "instances": int(self.class_instances[c]),
                    "missed": self.class_missed[:, c].tolist(),
                    "false_positives": by_kind(self.class_false_positives[:, :, c]),
                    "ap_gain": by_kind(self.class_gain[:, :, c]),
                }
                for c, name in enumerate(self.classes)
            },
        }  # fmt: skip

    def save(self, path: str | os.PathLike) -> None:
        """Writes `to_dict` as JSON in one step."""
        write_text(path, json.dumps(self.to_dict(), indent=1, allow_nan=False))

    def table(self, *, per_class: bool = False) -> str:
        """A few lines to print: means over the IoU thresholds."""
        found = self.false_positives.sum(1) + self.true_positives
        at = f"IoU {self.iou[0]:g}" if len(self.iou) == 1 else f"means over IoU {self.iou[0]:g} .. {self.iou[-1]:g}"
        lines = [f"errors, {self.protocol} protocol, {at}", f"{'':<18}{'share %':>9}{'mAP gain':>10}"]
        lines.append(f"{'true positive':<18}{_share(self.true_positives, found):>9}")
        for k, kind in enumerate(KINDS):
            share, gain = _share(self.false_positives[:, k], found), 100 * float(self.gain[:, k].mean())
            lines.append(f"{kind:<18}{share:>9}{gain:>+10.2f}")
        lines.append(f"missed instances, % ({self.buckets} buckets)")
        for name, buckets in self.missed.items():
            cells = (f"{_range(b)}: {_share(b.missed, b.instances)} of {b.instances}" for b in buckets)
            lines.append(f"{name:<10}" + "   ".join(cells))
        if per_class:
            width = max(len(name) for name in self.classes)
            short = ("double", "label", "local.", "confus.", "backgr.")
            lines.append(f"{'AP gain':<{width}} " + "".join(f"{s:>9}" for s in short) + f"{'missed %':>10}")
            for c, name in enumerate(self.classes):
                gains = 100 * self.class_gain[:, :, c].mean(0)
                lost = _share(self.class_missed[:, c], int(self.class_instances[c]))
                lines.append(f"{name:<{width}} " + "".join(f"{g:>+9.2f}" for g in gains) + f"{lost:>10}")
        return "\n".join(map(printable, lines))


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _share(part: Sequence[int] | np.ndarray, whole: int | np.ndarray) -> str:
    whole = np.asarray(whole)
    if not whole.any():
        return "-"
    return f"{100 * float(np.mean(np.asarray(part) / np.maximum(whole, 1))):.1f}"


def _range(b: Bucket) -> str:
    if not math.isfinite(b.above):
        return b.name
    return f"{b.name} >{b.above:g}" if not math.isfinite(b.upto) else f"{b.name} <={b.upto:g}"


def analyse_errors(
    detections: Detections,
    ground_truth: Annotations,
    *,
    protocol: str = "activitynet",
    iou: str | float | Sequence[float] = "0.1:0.7:0.1",
    ambiguous: Ambiguous | None = None,
    subset: str | None = None,
    timing: Timing | Rate | None = None,
    buckets: str = "activitynet",
    ranks: Ranks | None = None,
) -> ErrorReport:
    """Which errors the detections make, as Alwassel et al. (ECCV 2018) tell them apart; `errors` says how.

    Every detection that the protocol evaluates is classified, not only the 10 G best of a class; `profile` has those.

    Args:
        buckets: "activitynet" or "thumos14", the paper's for each; the others as `evaluate`.

    Raises:
        ValueError: as `evaluate`, or unknown buckets.
    """
    if buckets not in BUCKETS:
        raise ValueError(f"buckets must be one of {', '.join(BUCKETS)}, got {buckets!r}")
    data = prepare(
        detections, ground_truth, protocol=protocol, iou=iou, ambiguous=ambiguous, subset=subset, timing=timing,
        ranks=ranks,
    )  # fmt: skip
    found, truth, rules, shared = data.found, data.truth[data.own], data.rules, data.shared
    n_classes = len(data.classes)
    given: dict[str, Any] = {"iou": data.iou, "protocol": rules, "ignore": data.ignore}
    if shared is None:
        result = score(found, truth, classes=n_classes, **given)
        ap, partner = result.ap, result.partner
    else:
        of_all, partner = score_shared(found, truth, shared, positives=data.positives, **given)
        ap = of_all.ap
    kind = kinds_of(partner, nearest(found, truth, rules), data.iou, rules, data.ignore)
    present = data.present
    without = ap_without(found, truth, kind, data.iou, rules, data.positives, data.ignore, shared)
    gain = (without - ap[:, None])[:, :, present]
    lost = missed(partner, len(truth))
    values = characteristics(data.instances[data.own], data.durations[data.own])
    label, scores, kinds = found.label, found.scored, kind.T.astype(np.int8)
    if shared is not None:
        label, scores, kinds = shared.by_class(label, scores, kinds)
    by_class = np.zeros((len(data.iou), n_classes), np.int64)
    for row, of_threshold in zip(by_class, lost, strict=True):
        row[:] = np.bincount(truth.label[of_threshold], minlength=n_classes)
    return ErrorReport(
        protocol=protocol,
        ground_truth=ground_truth.source,
        buckets=buckets,
        iou=data.iou,
        classes=tuple(data.classes[c] for c in present),
        class_instances=data.positives[present],
        true_positives=data.summed((kind == TRUE).sum(1)),
        false_positives=data.summed(np.stack([(kind == k).sum(1) for k in range(len(KINDS))], 1)),
        mAP=ap[:, present].mean(1),
        gain=gain.mean(2),
        class_false_positives=data.summed(counts(kind, found.label, n_classes))[:, :, present],
        class_gain=gain,
        class_missed=data.summed(by_class)[:, present],
        profile=data.summed(profile(kinds.T, label, scores, data.positives)),
        missed={n: by_bucket(values[n], lost, BUCKETS[buckets][n], data.summed) for n in CHARACTERISTICS},
    )
