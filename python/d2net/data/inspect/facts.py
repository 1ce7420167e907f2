"""What a configuration is recommended from: numbers of the training videos; of segments only where asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from d2net.data.annotations.model import Annotations, Video
from d2net.data.features.store import FeatureStore
from d2net.data.inspect.coverage import matched
from d2net.data.inspect.labels import shares
from d2net.data.inspect.rows import RowFacts, read_rows
from d2net.data.inspect.steps import fit_steps
from d2net.data.inspect.subsets import subsets_of
from d2net.data.stated import stated_timing
from d2net.timing import Timing, resolve

SAMPLE = 200  # videos that are read where nobody has read them all


@dataclass(frozen=True)
class Facts:
    """Of the training subset's videos that have features.

    step: s between snippets, None where neither stated nor fitted. persistence: snippets (`RowFacts.persistence`).
    share: of a video, that one of its classes fills; the 30th percentile over videos and classes. shortest: s, the
    tenth percentile of the class whose instances are shortest. Both None without segments.
    """

    training: str | None
    test: str | None
    videos: int
    width: int
    streams: int | None
    lengths: tuple[int, ...]
    labels_per_video: float
    step: float | None
    rms: float | None
    persistence: float | None
    share: float | None = None
    shortest: float | None = None


def gather(
    store: FeatureStore,
    annotations: Annotations,
    *,
    rows: RowFacts | None = None,
    subsets: Sequence[str] | None = None,
    timing: Timing | None = None,
    use_segments: bool = False,
) -> Facts:
    """The facts of the training subset.

    Args:
        rows: of a pass over the features; by default SAMPLE training videos are read.
        subsets: the training subsets, told from their names by default.
        timing: the user's, before what data state.
        use_segments: also look at the training videos' segments.
    """
    told = subsets_of(annotations)
    wanted = {s.lower() for s in subsets or [told.training or "none"]}
    both, _ = matched(annotations, store)
    videos = {name: v for name, v in both.items() if (v.subset or "none").lower() in wanted}
    names = sorted(videos)
    if rows is None:
        picked = dict.fromkeys(np.linspace(0, len(names) - 1, min(SAMPLE, len(names))).astype(int)) if names else ()
        rows = read_rows(store, [names[i] for i in picked])
    labels = [len(v.labels) for v in videos.values() if v.labels]
    filled, shortest = _of_segments(list(videos.values())) if use_segments else (None, None)
    return Facts(
        training=next(iter(subsets)) if subsets else told.training,
        test=told.test,
        videos=len(videos),
        width=store.width,
        streams=_streams(store, annotations),
        lengths=tuple(store.lengths[n] for n in names),
        labels_per_video=sum(labels) / max(len(labels), 1),
        step=_step(store, annotations, videos, timing),
        rms=rows.rms(),
        persistence=rows.persistence(),
        share=filled,
        shortest=shortest,
    )


def _streams(store: FeatureStore, annotations: Annotations) -> int | None:
    if declared := store.streams or annotations.streams:
        return len(declared)
    return 2 if "a file a stream" in store.layout else None


def durations_of(store: FeatureStore, videos: Mapping[str, Video]) -> dict[str, float]:
    """Seconds by video, as the annotations have them, else the features."""
    own = {name: seconds for name, seconds in store.durations.items() if name in videos}
    return own | {name: v.duration for name, v in videos.items() if v.duration is not None}


def _step(
    store: FeatureStore, annotations: Annotations, videos: Mapping[str, Video], timing: Timing | None
) -> float | None:
    """The timing's step where it is one for all videos, else the one fitted to durations."""
    renamed = Annotations(annotations.classes, dict(videos), None, annotations.snippet_seconds, annotations.source,
                          annotations.report, annotations.frames)  # fmt: skip
    stated = timing or resolve(stated_timing(renamed, store, list(videos)).statements).timing
    if stated is not None and not stated.resized:
        return stated.steps(None, None)[0]
    durations = durations_of(store, videos)
    if stated is not None and durations:
        return float(np.median([seconds / store.lengths[name] for name, seconds in durations.items()]))
    fit = fit_steps({n: store.lengths[n] for n in videos}, durations, {})
    return None if fit is None else fit.step


def _of_segments(videos: Sequence[Video]) -> tuple[float | None, float | None]:
    filled = [x for values in shares(videos).values() for x in values]
    seconds: dict[str, list[float]] = {}
    for v in videos:
        for s in v.segments:
            if s.end > s.start:
                seconds.setdefault(s.label, []).append(s.end - s.start)
    shortest = min((float(np.percentile(x, 10)) for x in seconds.values()), default=None)
    return (float(np.percentile(filled, 30)) if filled else None), shortest
