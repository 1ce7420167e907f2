"""What a run finds in annotated videos: metrics, errors, and each video's detections and activations."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from d2net import api
from d2net.data.activations import VideoActivations
from d2net.data.annotations import Annotations
from d2net.data.detections import Detections
from d2net.data.features import FeatureStore
from d2net.data.names import aliases
from d2net.evaluation import Report, analyse_errors, evaluate
from d2net.evaluation.errors import KINDS, kinds_of, nearest
from d2net.evaluation.matching import score
from d2net.evaluation.missed import missed
from d2net.evaluation.prepared import prepare
from d2net.terminal import Bar

MOST_CLASSES = 8  # whose activations a video shows
UNKNOWN = -1  # kind of a detection where no ground truth says


@dataclass(frozen=True)
class Results:
    """One run on the videos of `truth`.

    Args:
        detections, activations: by the names of the annotations; steps: {video: (stride, snippet) in seconds}.
        metrics, errors: None where the annotations have no segments.
        kind: (m,) of each detection, an index of KINDS, or TRUE or IGNORED, at the IoU of the timelines; or UNKNOWN.
        missed: {video: which of its segments no detection takes}; ap: {video: mean AP of its classes, alone}.
    """

    model: api.Model
    detections: Detections
    activations: dict[str, VideoActivations]
    steps: dict[str, tuple[float, float]]
    metrics: Report | None
    errors: dict[str, Any] | None
    kind: np.ndarray
    missed: dict[str, list[bool]]
    ap: dict[str, float]


def results(
    model: api.Model,
    store: FeatureStore,
    truth: Annotations,
    *,
    protocol: str,
    iou: str | float | Sequence[float],
    at: float,
    skip_missing: bool = False,
    progress: bool = False,
    details: bool = True,
) -> Results:
    """Localizes the videos of `truth` and compares; at: the IoU that kinds of single detections are told at.

    Raises:
        ValueError: as `localize` and `evaluate`.
    """
    found = api.localize(
        model, store, annotations=truth, names=list(truth.videos), keep_activations=details, progress=progress,
        skip_missing=skip_missing,
    )  # fmt: skip
    ours = {theirs: name for name, theirs in aliases(truth.videos, store).items()}
    names = [ours.get(v, v) for v in found.detections.videos]
    detections = replace(found.detections, videos=names)
    steps = dict(zip(names, found.steps, strict=True))
    activations = {ours.get(v, v): a for v, a in found.activations.items()}
    seen = truth.only(names)
    kind, lost, ap = np.full(len(detections), UNKNOWN), {}, {}
    if not any(v.segments for v in seen.videos.values()):
        return Results(model, detections, activations, steps, None, None, kind, lost, ap)
    given: dict[str, Any] = {"protocol": protocol, "timing": model.timing}
    metrics = evaluate(detections, seen, iou=iou, **given)
    errors = analyse_errors(detections, seen, iou=iou, **given).to_dict()
    if details:
        data = prepare(detections, seen, iou=at, **given)
        spans, instances, rules = data.found, data.truth, data.rules
        outcome = score(spans, instances, classes=len(data.classes), iou=data.iou, protocol=rules, ignore=data.ignore)
        kind = kinds_of(outcome.partner, nearest(spans, instances, rules), data.iou, rules, data.ignore)[0]
        gone = missed(outcome.partner, len(instances))[0]
        for name, index in Bar("videos", len(data.videos), unit="video", show=progress).over(data.videos.items()):
            of = instances.video == index
            lost[name] = gone[of].tolist()
            if of.any():
                alone = score(
                    spans[spans.video == index], instances[of], classes=len(data.classes), iou=data.iou, protocol=rules
                )
                ap[name] = float(np.nanmean(alone.ap))
    return Results(model, detections, activations, steps, metrics, errors, kind, lost, ap)


def timeline(
    run: Results, name: str, classes: dict[str, int], labels: Sequence[str], points: int, most: int
) -> dict[str, Any]:
    """One video for the page.

    Args:
        classes: {label: index in the page's list}; labels: of the video, whose activations come first.
        points: at most so many of a curve, each the largest value of its snippets; most: so many detections, the best.
    """
    rows = np.flatnonzero(run.detections.video == run.detections.videos.index(name))
    best = rows[np.argsort(-run.detections.score[rows], kind="stable")]
    kept = best[:most]
    of_model = run.model.classes
    found = dict.fromkeys(of_model[c] for c in run.detections.label[best].tolist())
    shown = [c for c in dict.fromkeys([*labels, *found]) if c in of_model][:MOST_CLASSES]
    activations = run.activations[name]
    columns = [activations.classes[:, of_model.index(c)] for c in shown]
    if activations.foreground is not None:
        columns.append(activations.foreground)
    table = np.stack(columns, 1).astype(np.float64) if columns else np.zeros((len(activations.classes), 0))
    size = -(-len(table) // points)
    peaks = np.maximum.reduceat(table, np.arange(0, len(table), size))
    numbers = np.rint(np.clip(peaks, 0, 1) * 255).astype(np.uint8).T
    counts = np.bincount(run.kind[rows] + 1, minlength=len(KINDS) + 3)
    d = run.detections
    return {
        "all": len(rows),
        "kinds": counts[1:].tolist(),
        "found": [
            [classes[of_model[d.label[i]]], _rounded(d.start[i]), _rounded(d.end[i]), _rounded(d.score[i], 5),
             int(run.kind[i])]
            for i in kept
        ],
        "missed": run.missed.get(name, []),
        "ap": run.ap.get(name),
        "step": run.steps[name][0] * size,
        "points": numbers.shape[1],
        "foreground": activations.foreground is not None,
        "shown": [classes[c] for c in shown],
        "curves": base64.b64encode(np.ascontiguousarray(numbers).tobytes()).decode(),
    }  # fmt: skip


def _rounded(value: float, digits: int = 3) -> float:
    return round(float(value), digits)
