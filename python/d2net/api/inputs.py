"""Features, annotations and timing made to fit each other, and what does not fit said."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import torch

import d2kernels as d2k
from d2net.api.model import Model, check_array
from d2net.data.activations import VideoActivations, check_activation_names
from d2net.data.annotations import Annotations
from d2net.data.features import FeatureStore, open_features
from d2net.data.files import some
from d2net.data.names import aliases, hint, match, matched, warn
from d2net.data.stated import compare_lengths, durations_differ, overruled_videos, stated_timing
from d2net.localization.activations import WINDOW, Activations, network_activations, windowed_activations
from d2net.timing import Resolved, Statement, Timing, TimingWarning, UnknownTiming, resolve

Features = np.ndarray | Mapping[str, Any] | FeatureStore | str | os.PathLike


def named_as(annotations: Annotations, known: Collection[str]) -> tuple[Annotations, dict[str, str]]:
    """The annotations by the features' names, and {their name: the features'} where those match one to one only so.

    Raises:
        DataError: no video of the annotations has features.
    """
    alias = aliases(annotations.videos, known)
    if alias:
        warn([matched(annotations.source, alias)])
    elif any(v in known for v in annotations.videos):
        return annotations, alias
    videos = {alias.get(name, name): video for name, video in annotations.videos.items()}
    if not any(v in known for v in videos):
        match(videos, known, annotations.source, "the features")  # raises, with the nearest names
    return replace(annotations, videos={k: replace(v, name=k) for k, v in videos.items()}), alias


def with_features(names: Sequence[str], store: FeatureStore, skip_missing: bool) -> list[str]:
    """The names, each of which must have features; with skip_missing those that do, and the others are said."""
    if skip_missing:
        missing = [v for v in names if v not in store]
        if missing:
            near = hint(missing, store.names)
            warn([f"{len(missing)} of {len(names)} videos have no features and are skipped: {some(missing, 20)}{near}"])
        names = [v for v in names if v in store]
    store.require(names)
    return list(names)


def warn_of_timing(
    found: Resolved,
    own: Mapping[str, Timing],
    own_source: Callable[[str], str],
    notes: Sequence[str],
    lengths: Mapping[str, int],
    durations: Mapping[str, float],
    annotations: Annotations | None,
    width: int | None = None,
) -> None:
    rates = {v: x.fps for v, x in annotations.videos.items() if x.fps is not None} if annotations else {}
    odd = compare_lengths(
        lengths,
        durations,
        lambda v: own.get(v, found.timing),
        lambda v: own_source(v) if v in own else found.source,
        rates,
        width,
    )
    for text in [*found.contradictions, *notes, *odd]:
        warnings.warn(text, TimingWarning, stacklevel=4)


class Videos(NamedTuple):
    """Videos that are ready to be localized: how to get T and λ', and when their snippets are."""

    names: list[str]
    lengths: list[int]
    activate: Callable[[Sequence[str]], Activations]
    timing: Timing | None
    own: Mapping[str, Timing]
    durations: Mapping[str, float]
    annotations: Annotations | None  # by the features' names

    def steps(self, i: int) -> tuple[float, float]:
        """(stride, snippet length) of video i, in seconds."""
        v = self.names[i]
        when = self.own.get(v, self.timing)
        if when is None:
            raise UnknownTiming(f"localize: nothing says when the snippets of {v!r} are; add it to the video info")
        if when.resized and v not in self.durations:
            raise UnknownTiming(f"localize: {v!r} was resized and its duration is unknown; add it to the annotations")
        return when.steps(self.durations.get(v), self.lengths[i])


def prepare(
    model: Model,
    features: Features,
    from_activations: bool = False,
    annotations: Annotations | None = None,
    names: Sequence[str] | None = None,
    timing: Timing | None = None,
    durations: Mapping[str, float] | None = None,
    video_timings: Mapping[str, Timing] | None = None,
    reweight: bool = True,
    keep_activations: bool = False,
    skip_missing: bool = False,
) -> Videos:
    """Arguments and errors as `localize`; reweight: whether stored activations need λ'."""
    if isinstance(features, (str, os.PathLike)):
        features = open_features(features)
    elif isinstance(features, np.ndarray):
        features = {"video": features}
    elif not isinstance(features, (Mapping, FeatureStore)):
        kind = type(features).__name__
        raise TypeError(f"localize: features must be a path, an (s, d) array or arrays by video name, got {kind}")
    videos: Any = features
    chosen = list(names) if names is not None else list(videos)
    if annotations is not None and videos:
        annotations, alias = named_as(annotations, videos)
        chosen = [alias.get(v, v) for v in chosen]
    if skip_missing and isinstance(videos, FeatureStore):
        chosen = with_features(chosen, videos, skip_missing)
    if keep_activations:
        check_activation_names(chosen)
    of_videos = match(video_timings or {}, videos, "video_timings", "the features")
    warn(of_videos.notes)
    data = stated_timing(annotations, videos if isinstance(videos, FeatureStore) else None, chosen)
    resolved = resolve(_at_localization(timing, model, data.statements))
    own = {**({} if resolved.explicit else data.videos), **of_videos.values}
    timing = resolved.timing
    if timing is None and not own:
        why = "".join(f"; {text}" for text in [*resolved.contradictions, *data.notes])
        raise UnknownTiming(
            "localize: the model does not know when a snippet is; give --fps, --stride and --snippet-frames, "
            f"or --snippet-seconds, or --resized{why}"
        )
    notes = [*data.notes, *(overruled_videos(resolved, data.videos, annotations.source) if annotations else [])]
    if resolved.source in {s.source for s in data.statements}:
        notes += overruled_videos(resolved, of_videos.values, "the video info")
    known, differ = _durations(durations, annotations, videos, chosen)
    notes += differ
    if from_activations:
        known_lengths = getattr(videos, "lengths", None)  # of a file, of which no video is read for it
        lengths = [len(videos[v].classes) if known_lengths is None else known_lengths[v] for v in chosen]
        activate = partial(_stored_activations, videos, reweight=reweight)
    else:
        lengths = _lengths(videos, chosen, model.network.width)
        activate = partial(_network_activations, model, videos, lengths=dict(zip(chosen, lengths, strict=True)))

    def own_source(v: str) -> str:
        return "the video info" if v in of_videos.values or annotations is None else annotations.source

    lengths_by_name = dict(zip(chosen, lengths, strict=True))
    warn_of_timing(resolved, own, own_source, notes, lengths_by_name, known, annotations)
    return Videos(chosen, lengths, activate, timing, own, known, annotations)


def _at_localization(timing: Timing | None, model: Model, data: list[Statement]) -> list[Statement]:
    said = [Statement("the given timing", timing.to_dict(), explicit=True)] if timing else []
    if model.timing is None:
        return [*said, *data]
    of_model = Statement("the model", model.timing.to_dict(), model.explicit_timing)
    if timing:  # given in place of the model's
        return [*said, *data]
    return [of_model, *data] if model.explicit_timing else [*data, of_model]


def _durations(
    given: Mapping[str, float] | None, annotations: Annotations | None, videos: Collection[str], chosen: list[str]
) -> tuple[dict[str, float], list[str]]:
    """Seconds of the chosen videos, as far as something says them: `given`, then annotations, then the features; and
    what is said where two differ."""
    own = match(given or {}, videos, "durations", "the features")
    warn(own.notes)
    sources = [(own.values, "the given durations")]
    if annotations is not None:
        of = {v: x.duration for v, x in annotations.videos.items() if x.duration is not None}
        sources.append((of, annotations.source))
    if isinstance(videos, FeatureStore):
        sources.append((dict(videos.durations), videos.source))
    differ = [x for (a, of_a), (b, of_b) in combinations(sources, 2) for x in durations_differ(a, of_a, b, of_b)]
    found = {v: d for durations, _ in reversed(sources) for v, d in durations.items()}
    missing = [v for v in chosen if v not in found]
    if found and missing:
        warn([f"{len(missing)} of {len(chosen)} videos have no duration to clip segments to ({some(missing)})"])
    return found, differ


def _network_activations(model: Model, features: Any, names: Sequence[str], lengths: Mapping[str, int]) -> Activations:
    if len(names) == 1 and (length := lengths[names[0]]) > WINDOW:
        rows = features.rows if isinstance(features, FeatureStore) else lambda v, a, b: features[v][a:b]
        read = partial(rows, names[0])
        return windowed_activations(model.network, read, length, model.config.train.precision, WINDOW)
    return network_activations(model.network, [features[v] for v in names], model.config.train.precision)


def _stored_activations(stored: Mapping[str, VideoActivations], names: Sequence[str], reweight: bool) -> Activations:
    classes = d2k.Ragged.pack([torch.from_numpy(stored[v].classes) for v in names])
    if not reweight:
        return Activations(classes, classes.values.new_zeros(classes.values.shape[0]))
    missing = [v for v in names if stored[v].foreground is None]
    if missing:
        raise ValueError(
            f"activations: {missing[0]!r} has no foreground scores to reweight with; add '{missing[0]}.foreground' "
            "or set localize.reweight=false"
        )
    return Activations(classes, torch.cat([torch.from_numpy(stored[v].foreground) for v in names]))


def _lengths(features: Any, names: list[str], width: int) -> list[int]:
    if isinstance(features, FeatureStore):
        features.require(names)
        if features.width != width:
            raise ValueError(f"features: width {features.width}, but the model was trained on {width}")
        return [features.lengths[v] for v in names]
    for v in names:
        if v not in features:
            raise ValueError(f"features: no video {v!r}")
        check_array(f"features[{v!r}]", features[v], width)
    return [len(features[v]) for v in names]
