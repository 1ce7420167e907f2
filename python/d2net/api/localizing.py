"""Detections of a trained model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from d2net.api.inputs import Features, Videos, prepare
from d2net.api.model import Model
from d2net.data.activations import VideoActivations
from d2net.data.annotations import Annotations
from d2net.data.detections import Detections
from d2net.data.detections.model import joined
from d2net.localization.activations import batches_of
from d2net.localization.decoding import VideoScores, localize_chunk
from d2net.sections import LocalizeConfig
from d2net.terminal import Bar
from d2net.timing import Timing, to_seconds


class Localized(NamedTuple):
    """Detections in seconds; of each video in `detections.videos` p (n, C) and (stride, length) of its snippets in
    seconds; and T and λ' where they were asked for."""

    detections: Detections
    p: np.ndarray
    activations: dict[str, VideoActivations]
    steps: list[tuple[float, float]]


def localize(
    model: Model,
    features: Features,
    *,
    from_activations: bool = False,
    annotations: Annotations | None = None,
    names: Sequence[str] | None = None,
    timing: Timing | None = None,
    durations: Mapping[str, float] | None = None,
    video_timings: Mapping[str, Timing] | None = None,
    config: LocalizeConfig | None = None,
    top: int | None = None,
    keep_activations: bool = False,
    progress: bool = False,
    skip_missing: bool = False,
) -> Localized:
    """Detections in seconds (Sec. 3.3), all in memory; `localize_to` writes those of many videos to a file.

    Args:
        model: as `load` or `train` gives it.
        features: one (s, d) array, a mapping of them by video, a store, or its path.
        from_activations: `features` maps videos to `VideoActivations` instead, and the network is not run.
        annotations: gives durations, and its own word on the timing.
        names: which videos; all by default.
        timing: comes before what the data state, and that before the model's own timing, unless the user stated that.
            Contradictions are TimingWarnings.
        video_timings: of single videos, before all others.
        durations: seconds by video; segments are clipped to them.
        config: overrides the model's decoder.
        top: at most so many detections of each video and class, those of the highest scores; all by default.
        keep_activations: also returns T and λ' of every video.
        progress: shows a bar on standard error.
        skip_missing: localize the videos of `names` that have features, and say which have none.

    Names in durations, video_timings and annotations that only differ as `v_x.mp4` does from `x` are matched, and said.

    Returns:
        detections in seconds; p (n, C); T and λ' by video where they were asked for; (stride, length) of each video's
        snippets in seconds.

    Raises:
        UnknownTiming: the model was trained without timing and none is given.
        DataError: durations, video_timings or annotations in which no video of the features is.
    """
    work = localization(
        model, features, from_activations=from_activations, annotations=annotations, names=names, timing=timing,
        durations=durations, video_timings=video_timings, config=config, top=top, keep_activations=keep_activations,
        skip_missing=skip_missing,
    )  # fmt: skip
    parts = []
    with Bar("localize", len(work.names), unit="video", show=progress) as bar:
        for i in range(len(work.slices)):
            parts.append(work.part(i))
            bar.update(len(parts[-1].detections.videos))
    found = joined(work.names, model.classes, [part.detections for part in parts])
    p = np.concatenate([x.p for x in parts]) if parts else np.zeros((0, len(model.classes)), np.float32)
    kept = {v: a for part in parts for v, a in part.activations.items()}
    return Localized(found, p, kept, [work.videos.steps(i) for i in range(len(work.names))])


class Part(NamedTuple):
    """Consecutive videos: their detections in seconds, p (n, C), and T and λ' where they were asked for."""

    detections: Detections
    p: np.ndarray
    activations: dict[str, VideoActivations]


@dataclass(frozen=True)
class Localization:
    """Videos that are ready to be localized in parts of bounded memory, each the same whatever is done before it.

    slices: of `names`, the parts' videos.
    """

    model: Model
    videos: Videos
    config: LocalizeConfig
    top: int | None
    keep_activations: bool
    slices: list[slice]

    @property
    def names(self) -> list[str]:
        return self.videos.names

    def part(self, i: int) -> Part:
        own, loss = self.slices[i], self.model.config.loss
        names = self.names[own]
        chunk = localize_chunk(
            self.videos.activate(names), names, self.videos.lengths[own], self.config, pool_divisor=loss.pool_divisor,
            pool_rounding=loss.pool_rounding,
        )  # fmt: skip
        columns = [np.concatenate(c) for c in zip(*_in_seconds(chunk, own.start, self.videos), strict=True)]
        found = Detections.from_arrays(names, self.model.classes, *columns)
        kept = _by_video(chunk) if self.keep_activations else {}
        return Part(found if self.top is None else found.best(self.top), chunk.p, kept)


def localization(
    model: Model,
    features: Features,
    *,
    from_activations: bool = False,
    annotations: Annotations | None = None,
    names: Sequence[str] | None = None,
    timing: Timing | None = None,
    durations: Mapping[str, float] | None = None,
    video_timings: Mapping[str, Timing] | None = None,
    config: LocalizeConfig | None = None,
    top: int | None = None,
    keep_activations: bool = False,
    skip_missing: bool = False,
) -> Localization:
    """Arguments and errors as `localize`; nothing is localized yet."""
    if top is not None and top < 1:
        raise ValueError(f"top must be at least 1, got {top}")
    config = config or model.config.localize
    videos = prepare(
        model, features, from_activations, annotations, names, timing, durations, video_timings, config.reweight,
        keep_activations, skip_missing,
    )  # fmt: skip
    return Localization(model, videos, config, top, keep_activations, list(batches_of(videos.lengths)))


def _by_video(chunk: VideoScores) -> dict[str, VideoActivations]:
    classes = chunk.activations.classes.unpack()
    foreground = chunk.activations.foreground.split(chunk.lengths)
    return {
        v: VideoActivations(c.cpu().numpy(), f.cpu().numpy())
        for v, c, f in zip(chunk.names, classes, foreground, strict=True)
    }


def _in_seconds(chunk: VideoScores, first: int, videos: Videos) -> list[tuple[np.ndarray, ...]]:
    """(video, label, start, end, score) columns of each video of the chunk, which begins with video `first`."""
    sequence, label, start, end, score = (t.cpu().numpy() for t in chunk.detections[:5])
    bounds = np.searchsorted(sequence, np.arange(len(chunk.names) + 1))
    columns: list[tuple[np.ndarray, ...]] = []
    for i, v in enumerate(chunk.names):
        part = slice(bounds[i], bounds[i + 1])
        a, b = to_seconds(start[part], end[part], *videos.steps(first + i), videos.durations.get(v, np.inf))
        columns.append((np.full(len(a), i), label[part], a, b, score[part]))
    return columns
