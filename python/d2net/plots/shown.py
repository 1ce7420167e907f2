"""What runs find in videos, as timelines show it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from d2net import api
from d2net.data.annotations import Annotations
from d2net.data.features import FeatureStore
from d2net.data.files import DataError
from d2net.data.names import aliases
from d2net.plots.choosing import chosen_classes, classes_that_matter
from d2net.plots.timeline import Timeline, Track
from d2net.report.results import UNKNOWN, Results, results

MOST_FOUND = 150  # detections of a run in a video
THUMBNAILS = 12
MOST_FRAMES = 600  # that are looked at for thumbnails of a part of a video


def find(
    models: Sequence[api.Model],
    store: FeatureStore,
    known: Annotations | None,
    names: Sequence[str],
    *,
    protocol: str,
    at: float,
    progress: bool = False,
) -> list[Results]:
    """Of each model its detections and activations in these videos, judged at IoU `at` where there are segments.

    Args:
        names: by the features' names, or the annotations' where they have the video.
    """
    truth = None if known is None else known.only([v for v in names if v in known.videos])
    out = []
    for model in models:
        if truth is not None and len(truth.videos) == len(names):
            out.append(results(model, store, truth, protocol=protocol, iou=at, at=at, progress=progress))
            continue
        found = api.localize(model, store, names=list(names), keep_activations=True, progress=progress)
        steps = dict(zip(found.detections.videos, found.steps, strict=True))
        kind = np.full(len(found.detections), UNKNOWN)
        out.append(Results(model, found.detections, found.activations, steps, None, None, kind, {}, {}))
    return out


def timelines(
    runs: Sequence[str],
    found: Sequence[Results],
    known: Annotations | None,
    durations: Mapping[str, float],
    names: Sequence[str],
    *,
    at: float,
    classes: Sequence[str] = (),
    between: tuple[float, float] | None = None,
) -> list[Timeline]:
    """A timeline of each video.

    Args:
        runs: their names. found: of `find`. durations: in seconds, where they are known.
        classes: to show, in place of those that matter. between: seconds to show, all by default.

    Raises:
        DataError: an unknown class, or no second of a video is shown.
    """
    every = list(dict.fromkeys(c for r in found for c in r.model.classes))
    wanted = chosen_classes(classes, every) if classes else []
    return [
        _timeline(v, runs, found, known, durations.get(v), wanted, len(every), at, between) for v in names
    ]  # fmt: skip


def _timeline(
    name: str,
    runs: Sequence[str],
    found: Sequence[Results],
    known: Annotations | None,
    duration: float | None,
    wanted: Sequence[str],
    every: int,
    at: float,
    between: tuple[float, float] | None,
) -> Timeline:
    video = known.videos[name] if known is not None and name in known.videos else None
    truth = [(s.label, s.start, s.end) for s in video.segments] if video is not None and video.segments else None
    scores, peaks = [], []
    for r in found:
        rows = np.flatnonzero(r.detections.video == r.detections.videos.index(name))
        best: dict[str, float] = {}
        for c, score in zip(r.detections.label[rows], r.detections.score[rows], strict=True):
            best[r.model.classes[c]] = max(float(score), best.get(r.model.classes[c], -np.inf))
        scores.append(best)
        peaks.append(dict(zip(r.model.classes, r.activations[name].classes.max(0).tolist(), strict=True)))
    labels = [] if video is None else list(dict.fromkeys([*video.labels, *(t[0] for t in truth or ())]))
    shown = list(wanted) or classes_that_matter(labels, scores, peaks)
    ends = [_end(r, name) for r in found] + [t[2] for t in truth or ()]
    whole = (0.0, duration or max(ends))
    if between is not None:
        if between[0] >= whole[1]:
            raise DataError(f"--between: {name!r} lasts {whole[1]:.1f} s, and nothing of it is after {between[0]:g} s")
        whole = between[0], min(between[1], whole[1])
    kinds = [r.kind[r.detections.video == r.detections.videos.index(name)] for r in found]
    judged = at if truth is not None and any((k != UNKNOWN).any() for k in kinds) else None
    tracks = [_track(run, r, name, shown, whole) for run, r in zip(runs, found, strict=True)]
    others = len(set(labels) - set(shown))
    more = max(every - len(set(shown)), others)
    return Timeline(name, whole, shown, more, truth, tracks, judged)


def _end(run: Results, name: str) -> float:
    stride, length = run.steps[name]
    return (len(run.activations[name].classes) - 1) * stride + length


def _track(run: str, found: Results, name: str, classes: Sequence[str], between: tuple[float, float]) -> Track:
    d, of_model = found.detections, found.model.classes
    rows = np.flatnonzero((d.video == d.videos.index(name)) & (d.end > between[0]) & (d.start < between[1]))
    rows = rows[np.argsort(-d.score[rows], kind="stable")]
    kept = [i for i in rows if of_model[d.label[i]] in classes][:MOST_FOUND]
    a = found.activations[name]
    return Track(
        run,
        found.steps[name],
        {c: a.classes[:, of_model.index(c)] for c in classes if c in of_model},
        a.classes.max(1),
        a.foreground,
        [
            (of_model[d.label[i]], float(d.start[i]), float(d.end[i]), float(d.score[i]), int(found.kind[i]))
            for i in kept
        ],
        len(rows) - len(kept),
    )


def with_thumbnails(timeline: Timeline, file: Path) -> Timeline:
    """The timeline with frames of its video file; VideoError where it cannot be read."""
    from d2net.video.render import thumbnails

    a, b = timeline.between
    each = (b - a) / THUMBNAILS
    count = max(1, min(round(b / each), MOST_FRAMES))
    size = b / count
    images = thumbnails(file, b, count)
    rows = [(i * size, (i + 1) * size, x) for i, x in enumerate(images) if (i + 1) * size > a]
    return replace(timeline, thumbnails=rows)


def files_of(files: Sequence[Path], names: Sequence[str]) -> dict[str, Path]:
    """{video: its file}, by their names; a single file is of a single video.

    Raises:
        DataError: a file that is of no video shown.
    """
    for file in files:
        if not file.is_file():
            raise DataError(f"--video {file}: there is no such file")
    if len(files) == 1 and len(names) == 1:
        return {names[0]: files[0]}
    by_stem = {file.stem: file for file in files}
    alias = aliases(by_stem, names)
    out = {alias.get(stem, stem): file for stem, file in by_stem.items()}
    if lost := [file for name, file in out.items() if name not in names]:
        raise DataError(f"--video {lost[0]}: none of the videos shown is called so; name the video, or rename the file")
    return out
