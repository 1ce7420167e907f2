"""Training from files, and a trained model that localizes: what the command line and scripts call."""

from __future__ import annotations

import os
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

import d2kernels as d2k
from d2net.config import Config, EvaluateConfig, LocalizeConfig, decoder_from, from_dict, make_config
from d2net.data.activations import VideoActivations, check_activation_names
from d2net.data.annotations import Annotations, load_annotations
from d2net.data.dataset import CachedFeatures, TrainingBatches, split_holdout
from d2net.data.detections import Detections
from d2net.data.features import FeatureStore, check_streams, open_features
from d2net.data.files import check_outputs, some
from d2net.data.names import aliases, hint, match, matched, warn
from d2net.data.stated import compare_lengths, durations_differ, overruled_videos, stated_timing
from d2net.evaluation import classification_map, evaluate
from d2net.evaluation.matching import parse_iou
from d2net.evaluation.prepared import PROTOCOLS, rate_of, truth_spans
from d2net.evaluation.release import RELEASE, snippet_spans
from d2net.localization.activations import Activations, batches_of, network_activations
from d2net.localization.decoding import VideoScores, localize_chunks
from d2net.localization.tune import Tuned
from d2net.localization.tune_scoring import Decoder, Metric
from d2net.localization.tune_search import search
from d2net.localization.tune_space import fields_for
from d2net.methods.d2net.ensemble import Ensemble
from d2net.methods.d2net.network import D2Net
from d2net.presets import TIMINGS
from d2net.timing import Resolved, Statement, Timing, TimingWarning, UnknownTiming, resolve, to_seconds
from d2net.training.checkpoint import FILE, CheckpointError, read_checkpoint, usable
from d2net.training.folder import OURS, RESTARTS, remove_empty
from d2net.training.health import TrainingWarning
from d2net.training.lock import FolderLock
from d2net.training.loop import Run
from d2net.training.restarts import (
    MOST_VIDEOS,
    check_arguments,
    check_begun,
    choose,
    folder_of,
    keep,
    read_restarts,
    train_all,
)
from d2net.training.resume import data_digest, segments_digest
from d2net.training.survey import annotation_facts, training_facts

Features = np.ndarray | Mapping[str, Any] | FeatureStore | str | os.PathLike


class ScoredVideo(NamedTuple):
    """One video's T (s, C), λ' (s,) and p (C,), float32."""

    classes: np.ndarray
    foreground: np.ndarray
    p: np.ndarray


@dataclass
class Model:
    """A trained network with what is needed to localize: configuration, classes and timing.

    explicit_timing: the user stated the timing, so that it comes before what data say of themselves.
    extraction: the backbone and settings of the features that it was trained on, where those say so.
    held_out: videos of the training subsets that were not trained on; trained: those that were, where it is known.
    """

    network: D2Net | Ensemble
    config: Config
    classes: tuple[str, ...]
    timing: Timing | None
    explicit_timing: bool = True
    extraction: dict[str, Any] | None = None
    held_out: tuple[str, ...] = ()
    trained: tuple[str, ...] = ()

    def activations(self, features: np.ndarray) -> ScoredVideo:
        """T, λ' and p of one video; features: (s, d)."""
        features = np.asarray(features)
        _check_array("features", features, self.network.width)
        a = network_activations(self.network, [features], self.config.train.precision)
        loss = self.config.loss
        p = d2k.topk_pool(a.classes, divisor=loss.pool_divisor, rounding=loss.pool_rounding)
        return ScoredVideo(a.classes.values.cpu().numpy(), a.foreground.cpu().numpy(), p[0].cpu().numpy())


class Localized(NamedTuple):
    """Detections in seconds; of each video in `detections.videos` p (n, C) and (stride, length) of its snippets in
    seconds; and T and λ' where they were asked for."""

    detections: Detections
    p: np.ndarray
    activations: dict[str, VideoActivations]
    steps: list[tuple[float, float]]


def _check_array(name: str, array: np.ndarray, width: int) -> None:
    array = np.asarray(array)
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{name}: expected numbers, got {array.dtype}")
    if array.ndim != 2 or array.shape[1] != width or len(array) == 0:
        raise ValueError(f"{name}: expected (s, {width}) with s of at least 1, got {array.shape}")
    if not np.isfinite(array).all():
        row = int(np.nonzero(~np.isfinite(array).all(1))[0][0])
        raise ValueError(f"{name}: row {row} holds NaN or infinity; extract it again or drop the video")


def pick_device(name: str = "auto") -> torch.device:
    """ "auto" takes the GPU where there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"unknown device {name!r}; use auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device {name!r} is not supported; use auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {name} was asked for, but torch sees no GPU")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {name} was asked for, but torch sees {torch.cuda.device_count()} GPUs, from cuda:0")
    return device


def load(path: str | os.PathLike, device: str = "auto", *, config: str | os.PathLike | None = None) -> Model:
    """Reads a checkpoint file or a run's folder; nothing in it is executed.

    Of a folder: the checkpoint that train.selection chose, the last one by default; of restarts, the run that was
    chosen, or an average of all.

    Args:
        config: a file whose fields of localize and evaluate come before the run's, as `tune` writes it.

    Raises:
        CheckpointError: missing, truncated, not a d2net checkpoint or not a whole one.
    """
    if (of := read_restarts(Path(path))) is not None:
        models = [load(folder, device, config=config) for folder in of.folders(Path(path))]
        networks = [m.network for m in models if isinstance(m.network, D2Net)]
        return models[0] if len(models) == 1 else replace(models[0], network=Ensemble(networks))
    saved = read_checkpoint(path, "cpu")
    with usable(path):
        settings = from_dict(saved["config"])
    if settings.train.selection != "last" and (best := Path(path) / "best.pt").exists():
        return load(best, device, config=config)
    with usable(path):
        if saved.get("iteration") == 0:
            raise CheckpointError(f"{path} holds a run that has not made a step; go on with --resume")
        settings = from_dict(saved["config"])
        classes = tuple(saved["classes"])
        network = D2Net(saved["width"], len(classes), saved["streams"], settings.model)
        network.load_state_dict(saved["model"])
        if wrong := [name for name, x in network.state_dict().items() if not x.isfinite().all()]:
            raise CheckpointError(f"{path} holds weights that are not finite ({wrong[0]}); train again")
        timing = Timing.from_dict(saved["timing"]) if saved["timing"] else None
        # Earlier revisions did not say.
        explicit = saved.get("timing_explicit", True)
        extraction = saved.get("extraction")
    own = decoder_from(config, settings) if config is not None else settings
    held_out = tuple(saved.get("held_out") or ())
    trained = tuple(saved["features"]["lengths"]) if "features" in saved else ()
    where = pick_device(device)
    return Model(network.to(where).eval(), own, classes, timing, explicit, extraction, held_out, trained)


def stream_count(config: Config, annotations: Annotations, store: FeatureStore) -> int:
    """Streams as configured, else as the features or the annotations declare, else 1; widths are checked."""
    width = store.width
    if config.model.streams is not None:
        if width % config.model.streams:
            raise ValueError(f"streams: {width} features cannot be split into {config.model.streams} equal streams")
        return config.model.streams
    if declared := store.streams or annotations.streams:
        check_streams(declared, width)
        return len(declared)
    return 1


def training_timing(
    config: Config, annotations: Annotations, store: FeatureStore, names: Sequence[str]
) -> tuple[Resolved, dict[str, Timing]]:
    """The timing as the configuration says, else the data, else the preset; and that of videos which state their own.

    What contradicts it, the videos' durations included, is a TimingWarning.

    Raises:
        FeatureError: durations say that the arrays are (width, snippets).
    """
    data = stated_timing(annotations, store, names)
    statements = [Statement("the configuration", config.timing.model_dump(), explicit=True), *data.statements]
    if len(data.videos) < len(names) and config.preset:
        statements.append(Statement(f"preset {config.preset}", TIMINGS[config.preset]))
    found = resolve(statements)
    own = {} if found.explicit else data.videos
    annotated = {v: x.duration for v, x in annotations.videos.items() if x.duration is not None}
    durations = {**store.durations, **annotated}
    notes = [*data.notes, *durations_differ(annotated, annotations.source, store.durations, store.source)]
    notes += overruled_videos(found, data.videos, annotations.source)
    lengths = {v: store.lengths[v] for v in names}
    _warn_of_timing(found, own, lambda v: annotations.source, notes, lengths, durations, annotations, store.width)
    return found, own


def _warn_of_timing(
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


def _named_as(annotations: Annotations, known: Collection[str]) -> tuple[Annotations, dict[str, str]]:
    """The annotations by the features' names, and {their name: the features'} where those match one to one only so.

    Raises:
        DataError: no video of the annotations has features.
    """
    alias = aliases(annotations.videos, known)
    if alias:
        warn([matched(annotations.source, alias)])
    videos = {alias.get(name, name): video for name, video in annotations.videos.items()}
    if not any(v in known for v in videos):
        match(videos, known, annotations.source, "the features")  # raises, with the nearest names
    return replace(annotations, videos={k: replace(v, name=k) for k, v in videos.items()}), alias


def _with_features(names: Sequence[str], store: FeatureStore, skip_missing: bool) -> list[str]:
    """The names, each of which must have features; with skip_missing those that do, and the others are said."""
    if skip_missing:
        missing = [v for v in names if v not in store]
        if missing:
            near = hint(missing, store.names)
            warn([f"{len(missing)} of {len(names)} videos have no features and are skipped: {some(missing, 20)}{near}"])
        names = [v for v in names if v in store]
    store.require(names)
    return list(names)


def training_videos(
    store: FeatureStore, annotations: Annotations, config: Config, skip_missing: bool = False
) -> list[str]:
    """Annotated videos of the training subsets that are long enough; each must have features."""
    chosen = _with_features(list(annotations.subset(config.train.subsets).videos), store, skip_missing)
    names = [v for v in chosen if store.lengths[v] >= config.train.min_rows]
    if not names:
        raise ValueError(
            f"train.subsets: no video of {', '.join(config.train.subsets)} has {config.train.min_rows} rows or more"
        )
    return names


def train(
    features: FeatureStore | str | os.PathLike,
    annotations: Annotations | str | os.PathLike,
    out: str | os.PathLike,
    config: Config | None = None,
    *,
    names: Sequence[str] | None = None,
    device: str = "auto",
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    skip_missing: bool = False,
    restarts: int = 1,
    average: bool = False,
    criterion: str = "entropy",
) -> Model:
    """Trains D2-Net with video-level labels and leaves checkpoint.pt, config.yaml and log.jsonl in `out`.

    Args:
        features: a store, or the path of an .npz, .h5 or folder of (s, d) arrays keyed by video.
        annotations: loaded, or the path of an ActivityNet-style JSON; only labels are used, not segments,
            unless train.selection is loc_mAP.
        config: `make_config(preset, recipe)`; the release recipe by default.
        names: the training videos, in place of those of train.subsets.
        skip_missing: train on the videos that have features, and say which have none.
        restarts: trainings, with seeds train.seed and on, in folders seed-N of `out`; the one that is best by
            `criterion` (of `criteria.CRITERIA`; video-level labels alone) is kept as the run, or with `average` the
            mean of all of their activations.

    Raises:
        RunExists: `out` holds a run and neither resume nor overwrite was given.
        ValueError: features, annotations and configuration that do not fit; the message names which.
    """
    if not isinstance(features, (FeatureStore, str, os.PathLike)):
        kind = type(features).__name__
        raise TypeError(f"train: features must be a path or what open_features returned, got {kind}; save an .npz")
    config = config or make_config()
    store = features if isinstance(features, FeatureStore) else open_features(features)
    if not isinstance(annotations, Annotations):
        annotations = load_annotations(annotations)
    check_arguments(restarts, average, criterion)
    given: dict[str, Any] = {"names": names, "device": device, "progress": progress, "skip_missing": skip_missing}
    if restarts > 1:
        return _train_restarts(
            store, annotations, Path(out), config, restarts, criterion, average, resume, overwrite, given
        )
    if resume and read_restarts(Path(out)) is not None:
        raise ValueError(f"{out} holds restarts: go on with them (--restarts), or with one of its runs, as seed-0")
    return _train(store, annotations, out, config, resume=resume, overwrite=overwrite, **given)


def _train_restarts(
    store: FeatureStore,
    annotations: Annotations,
    out: Path,
    config: Config,
    restarts: int,
    criterion: str,
    average: bool,
    resume: bool,
    overwrite: bool,
    given: dict[str, Any],
) -> Model:
    """Trains every seed, then keeps one or all, as `train` says."""
    seeds = list(range(config.train.seed, config.train.seed + restarts))
    if seeds[-1] >= 2**63:
        raise ValueError(f"restarts: {restarts} seeds from {config.train.seed} on pass 2**63 - 1; lower train.seed")
    check_outputs([out / name for name in OURS], [store.source, annotations.source])
    made = [p for p in (*(folder_of(out, s) for s in seeds), out, *out.parents) if not p.exists()]
    try:
        check_begun(out, seeds, resume, overwrite)
        with FolderLock(out):
            return _train_and_choose(store, annotations, out, config, seeds, criterion, average, resume, given)
    except BaseException:
        remove_empty(made)
        raise


def _train_and_choose(
    store: FeatureStore,
    annotations: Annotations,
    out: Path,
    config: Config,
    seeds: Sequence[int],
    criterion: str,
    average: bool,
    resume: bool,
    given: dict[str, Any],
) -> Model:
    if not resume:
        (out / RESTARTS).unlink(missing_ok=True)  # its runs are about to be replaced
    cache = CachedFeatures(store, config.train.cache_gigabytes)

    def one(seed: int, folder: Path, resume: bool, overwrite: bool) -> Model:
        with_seed = config.model_copy(update={"train": config.train.model_copy(update={"seed": seed})})
        return _train(store, annotations, folder, with_seed, resume=resume, overwrite=overwrite, cache=cache, **given)

    models = train_all(one, out, seeds, resume)
    known, alias = _named_as(annotations, store)
    if given["names"] is None:
        names = training_videos(store, known, config, given["skip_missing"])
    else:
        names = [v for v in (alias.get(v, v) for v in given["names"]) if v in store]
    held_out = set(models[0].held_out)
    names = [v for v in names if v not in held_out]
    names = [names[i] for i in np.unique(np.linspace(0, len(names) - 1, min(len(names), MOST_VIDEOS)).astype(int))]
    activations = [{v: model.activations(cache[v]).classes for v in names} for model in models]
    found = choose(
        activations, known.label_matrix(names), seeds, config.loss.pool_divisor, criterion, average
    )
    keep(out, found)
    if given["progress"]:
        print(found.said())
    return load(out, given["device"])


def _train(
    store: FeatureStore,
    annotations: Annotations,
    out: str | os.PathLike,
    config: Config,
    *,
    names: Sequence[str] | None,
    device: str,
    resume: bool,
    overwrite: bool,
    progress: bool,
    skip_missing: bool,
    cache: CachedFeatures | None = None,
) -> Model:
    """One training; cache: features that others have read."""
    where = pick_device(device)
    streams = stream_count(config, annotations, store)
    annotations, alias = _named_as(annotations, store)
    if names is None:
        names = training_videos(store, annotations, config, skip_missing)
    else:
        names = list(annotations.only([alias.get(v, v) for v in names]).videos)
        names = _with_features(names, store, skip_missing)
    resolved, own_timings = training_timing(config, annotations, store, names)
    timing = resolved.timing
    if resume and config.train.holdout:
        config = _with_its_split(config, Path(out))
    kept, held_out = split_holdout(annotations, names, config.train)
    labels = annotations.label_matrix(kept)
    if not labels.any():
        raise ValueError(
            f"{annotations.source}: none of the {len(kept)} training videos has a label; add `annotations` or "
            "`video_labels` to them"
        )
    batches = TrainingBatches(cache or store, kept, labels, config.train, config.model.gap)
    for fact in [*annotation_facts(annotations), *training_facts(batches, annotations.classes, config)]:
        warnings.warn(f"{annotations.source}: {fact}", TrainingWarning, stacklevel=2)
    run = Run(
        config=config,
        batches=batches,
        out=Path(out),
        meta={
            "classes": list(annotations.classes),
            "width": store.width,
            "streams": streams,
            "timing": timing.to_dict() if timing else None,
            "timing_explicit": resolved.explicit,
            "held_out": held_out,
            **_held_out_digests(config, annotations, held_out, own_timings),
            "extraction": store.identity,
            "sources": {
                "features": os.path.abspath(store.source),
                "annotations": os.path.abspath(annotations.source),
                "crops": store.crops,
            },
        },
        device=where,
        streams=streams,
        score=_selection(config, store, annotations, held_out, resolved, own_timings),
        progress=progress,
    )
    check_outputs([Path(out) / name for name in OURS], [store.source, annotations.source])
    state = run.start(resume, overwrite)
    if not run.finish(state):
        raise KeyboardInterrupt(f"stopped at iteration {state.iteration}; go on with --resume")
    return load(run.out, str(where))


def _with_its_split(config: Config, out: Path) -> Config:
    """The configuration with the seed of the folder's split, where that is of a revision that took train.seed."""
    if not (out / FILE).exists():
        return config
    saved = read_checkpoint(out, "cpu")
    with usable(out):
        if "held_out" in saved or config.train.holdout_seed:
            return config
        seed = from_dict(saved["config"]).train.holdout_seed
    return config.model_copy(update={"train": config.train.model_copy(update={"holdout_seed": seed})})


def _held_out_digests(
    config: Config, annotations: Annotations, held_out: Sequence[str], own: Mapping[str, Timing]
) -> dict[str, str]:
    """What identifies the data, features aside, that the selection is made by."""
    if not held_out:
        return {}
    found = {"held_out_labels": data_digest(held_out, annotations.label_matrix(held_out))}
    if config.train.selection == "loc_mAP":
        found["held_out_segments"] = segments_digest((annotations.videos[v] for v in held_out), own)
    return found


def _selection(
    config: Config,
    store: FeatureStore,
    annotations: Annotations,
    held_out: list[str],
    resolved: Resolved,
    own: Mapping[str, Timing],
) -> Callable[[D2Net], float] | None:
    """The score that picks best.pt, or None for `last`."""
    kind = config.train.selection
    if kind == "last":
        return None
    if not held_out:
        raise ValueError(f"train.selection: {kind} needs held-out videos; set train.holdout above 0")
    if config.train.evaluate_every > config.train.iterations:
        raise ValueError(
            f"train.selection: {kind} is computed every {config.train.evaluate_every} of {config.train.iterations} "
            "iterations, so never; lower train.evaluate_every"
        )
    if kind == "loc_mAP":
        if resolved.timing is None and any(v not in own for v in held_out):
            raise UnknownTiming("train.selection: loc_mAP needs the features' timing; set the fields of timing")
        if not any(annotations.videos[v].segments for v in held_out):
            raise ValueError(f"train.selection: loc_mAP needs segments, and {annotations.source} has none held out")
        print("selection by loc_mAP uses the held-out videos' segments: this is no longer weak supervision")
    labels = annotations.label_matrix(held_out)

    def score(network: D2Net) -> float:
        model = Model(network, config, annotations.classes, resolved.timing, resolved.explicit)
        if kind == "cls_mAP":
            # p does not depend on seconds.
            any_timing = resolved.timing or Timing(snippet_seconds=1.0)
            found = localize(model, store, names=held_out, timing=any_timing)
            return float(classification_map(found.p, labels))
        found = localize(model, store, annotations=annotations, names=held_out)
        truth = annotations.only(held_out)
        report = evaluate(found.detections, truth, protocol="activitynet", iou=[i / 10 for i in range(1, 8)])
        return float(report.average_mAP)

    return score


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
    keep_activations: bool = False,
    progress: bool = False,
    skip_missing: bool = False,
) -> Localized:
    """Detections in seconds (Sec. 3.3).

    Args:
        features: one (s, d) array, a mapping of them by video, a store, or its path.
        from_activations: `features` maps videos to `VideoActivations` instead, and the network is not run.
        annotations: gives durations, and its own word on the timing.
        names: which videos; all by default.
        timing: comes before what the data state, and that before the model's own timing, unless the user stated that;
            video_timings comes before all for single videos. Contradictions are TimingWarnings.
        durations: seconds by video; segments are clipped to them.
        config: overrides the model's decoder.
        keep_activations: also returns T and λ' of every video.
        progress: shows a bar on standard error.
        skip_missing: localize the videos of `names` that have features, and say which have none.

    Names in durations, video_timings and annotations that only differ as `v_x.mp4` does from `x` are matched, and said.

    Raises:
        UnknownTiming: the model was trained without timing and none is given.
        DataError: durations, video_timings or annotations in which no video of the features is.
    """
    config = config or model.config.localize
    found = _videos(
        model, features, from_activations, annotations, names, timing, durations, video_timings, config.reweight,
        keep_activations, skip_missing,
    )  # fmt: skip
    chosen = found.names
    loss = model.config.loss
    parts: list[tuple[np.ndarray, ...]] = []
    kept: dict[str, VideoActivations] = {}
    scores, first = [], 0
    bar = tqdm(total=len(chosen), unit="video", disable=not progress, mininterval=0.1 if sys.stderr.isatty() else 30)
    for chunk in localize_chunks(
        found.activate, chosen, found.lengths, config, pool_divisor=loss.pool_divisor, pool_rounding=loss.pool_rounding
    ):
        parts += _in_seconds(chunk, first, found)
        scores.append(chunk.p)
        first += len(chunk.names)
        bar.update(len(chunk.names))
        if keep_activations:
            kept |= _by_video(chunk)
    bar.close()
    columns = [np.concatenate(c) for c in zip(*parts, strict=True)] if parts else [np.zeros(0)] * 5
    detections = Detections.from_arrays(chosen, model.classes, *columns)
    p = np.concatenate(scores) if scores else np.zeros((0, len(model.classes)), np.float32)
    return Localized(detections, p, kept, [found.steps(i) for i in range(len(chosen))])


class _Videos(NamedTuple):
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


def _videos(
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
) -> _Videos:
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
        annotations, alias = _named_as(annotations, videos)
        chosen = [alias.get(v, v) for v in chosen]
    if skip_missing and isinstance(videos, FeatureStore):
        chosen = _with_features(chosen, videos, skip_missing)
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
        lengths = [len(videos[v].classes) for v in chosen]
        activate = partial(_stored_activations, videos, reweight=reweight)
    else:
        lengths = _lengths(videos, chosen, model.network.width)
        activate = partial(_network_activations, model, videos)

    def own_source(v: str) -> str:
        return "the video info" if v in of_videos.values or annotations is None else annotations.source

    lengths_by_name = dict(zip(chosen, lengths, strict=True))
    _warn_of_timing(resolved, own, own_source, notes, lengths_by_name, known, annotations)
    return _Videos(chosen, lengths, activate, timing, own, known, annotations)


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


def _network_activations(model: Model, features: Mapping[str, np.ndarray], names: Sequence[str]) -> Activations:
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


def _by_video(chunk: VideoScores) -> dict[str, VideoActivations]:
    classes = chunk.activations.classes.unpack()
    foreground = chunk.activations.foreground.split(chunk.lengths)
    return {
        v: VideoActivations(c.cpu().numpy(), f.cpu().numpy())
        for v, c, f in zip(chunk.names, classes, foreground, strict=True)
    }


def _lengths(features: Any, names: list[str], width: int) -> list[int]:
    if isinstance(features, FeatureStore):
        features.require(names)
        if features.width != width:
            raise ValueError(f"features: width {features.width}, but the model was trained on {width}")
        return [features.lengths[v] for v in names]
    for v in names:
        if v not in features:
            raise ValueError(f"features: no video {v!r}")
        _check_array(f"features[{v!r}]", features[v], width)
    return [len(features[v]) for v in names]


def _in_seconds(chunk: VideoScores, first: int, videos: _Videos) -> list[tuple[np.ndarray, ...]]:
    """(video, label, start, end, score) columns of each video of the chunk."""
    sequence, label, start, end, score = (t.cpu().numpy() for t in chunk.detections[:5])
    bounds = np.searchsorted(sequence, np.arange(len(chunk.names) + 1))
    columns: list[tuple[np.ndarray, ...]] = []
    for i, v in enumerate(chunk.names):
        part = slice(bounds[i], bounds[i + 1])
        a, b = to_seconds(start[part], end[part], *videos.steps(first + i), videos.durations.get(v, np.inf))
        columns.append((np.full(len(a), first + i), label[part], a, b, score[part]))
    return columns


def tune(
    model: Model,
    features: Features,
    annotations: Annotations | str | os.PathLike,
    *,
    names: Sequence[str] | None = None,
    metric: str = "mAP",
    iou: str | float | Sequence[float] | None = None,
    protocol: str | None = None,
    by: str | None = None,
    settings: int = 2000,
    folds: int = 5,
    seed: int = 0,
    seconds: float = float("inf"),
    progress: bool = False,
    skip_missing: bool = False,
) -> Tuned:
    """Searches for the decoder that localizes annotated videos best; the network is run once.

    What is gained is measured by cross-fitting: each fold's videos by a decoder that was chosen without them. Where
    that is not beyond chance the present decoder stays.

    Args:
        features: as `localize`.
        annotations: with the segments of `names`, by default of the videos that the run held out.
        metric: "mAP", "F1" (micro), or "class:NAME", the AP of one class; averaged over the IoU thresholds `iou`,
            by `protocol`, which are by default those of the run's configuration.
        by: field of the annotations whose groups of videos stay in one fold, such as user; by default, the run's
            train.holdout_by.
        settings: how many decoders are tried; seconds: ends the search earlier.

    Raises:
        ValueError: videos that were trained on, without segments, or fewer than two groups of them; an unknown metric.
    """
    if not isinstance(annotations, Annotations):
        annotations = load_annotations(annotations)
    for name, value, least in (
        ("settings", settings, 1), ("folds", folds, 2), ("seconds", seconds, 0), ("seed", seed, 0),
    ):  # fmt: skip
        if not value >= least:
            raise ValueError(f"tune: {name} must be at least {least}, got {value}")
    names = list(names if names is not None else model.held_out)
    if not names:
        raise ValueError(
            "tune: the run held no videos out; name a subset that it was not trained on (--subset), or train with "
            "train.holdout above 0"
        )
    evaluation = _evaluation(model.config.evaluate, protocol, iou)
    videos = _videos(model, features, annotations=annotations, names=names, skip_missing=skip_missing)
    assert videos.annotations is not None  # as they were given
    _check_unseen(model, videos.annotations, videos.names)
    truth = videos.annotations.only(videos.names)
    classes = {name: c for c, name in enumerate(truth.classes)}
    instances, _ = truth_spans(truth, {v: i for i, v in enumerate(videos.names)}, classes)
    if not len(instances):
        raise ValueError(f"tune: {annotations.source} has no segments of the {len(names)} videos to tune on")
    rules = PROTOCOLS[evaluation.protocol]
    rate = rate_of(model.timing) if rules is RELEASE else None
    measure = Metric(*_metric(metric, classes), parse_iou(evaluation.iou), rules, len(classes))
    loss = model.config.loss
    chunks = [videos.activate(videos.names[part]) for part in batches_of(videos.lengths)]
    steps = [(*videos.steps(i), videos.durations.get(v, np.inf)) for i, v in enumerate(videos.names)]
    decoder = Decoder(
        chunks,
        [d2k.topk_pool(a.classes, divisor=loss.pool_divisor, rounding=loss.pool_rounding) for a in chunks],
        np.array(steps, np.float64),
        np.array([classes.get(name, -1 - k) for k, name in enumerate(model.classes)]),
        rate,
    )
    with tqdm(total=settings, unit="decoder", disable=not progress) as bar:
        outcome = search(
            decoder,
            instances if rate is None else snippet_spans(instances, rate),
            measure,
            model.config.localize,
            fields_for(min(videos.lengths)),
            _groups(truth, by, model.config.train.holdout_by),
            settings=settings,
            folds=folds,
            seed=seed,
            seconds=seconds,
            step=bar.update,
        )
    words = f"{metric} at IoU {evaluation.iou} ({evaluation.protocol} protocol)"
    return Tuned(outcome, model.config.localize, evaluation, words, annotations.source)


def _check_unseen(model: Model, annotations: Annotations, names: Sequence[str]) -> None:
    """Raises ValueError where a video is listed twice, or was trained on; names: the features'."""
    if twice := next((v for v, count in Counter(names).items() if count > 1), None):
        raise ValueError(f"tune: names lists {twice!r} twice; keep one")
    subsets = {s.lower() for s in model.config.train.subsets}
    held_out, trained = set(model.held_out), set(model.trained)
    seen = [
        v
        for v in names
        if v in trained
        or (v not in held_out and v in annotations.videos and (annotations.videos[v].subset or "").lower() in subsets)
    ]
    if seen:
        raise ValueError(
            f"tune: {len(seen)} of {len(names)} videos were trained on, or are of the subsets that were "
            f"({some(seen)}): their activations say nothing of new videos; take others, or the run's held-out videos"
        )


def _evaluation(
    present: EvaluateConfig, protocol: str | None, iou: str | float | Sequence[float] | None
) -> EvaluateConfig:
    """The protocol and thresholds given, else those that are present."""
    if protocol is not None and protocol not in PROTOCOLS:
        raise ValueError(f"protocol must be one of {', '.join(PROTOCOLS)}, got {protocol!r}")
    if iou is None:
        iou = present.iou
    parse_iou(iou)
    return EvaluateConfig(
        protocol=protocol or present.protocol,  # type: ignore[arg-type]
        iou=iou if isinstance(iou, (str, float)) else [float(t) for t in np.atleast_1d(iou)],
    )


def _metric(text: str, classes: Mapping[str, int]) -> tuple[str, int]:
    """(kind, label of class:NAME or -1)."""
    if text in ("mAP", "F1"):
        return text, -1
    kind, _, name = text.partition(":")
    if kind != "class" or name not in classes:
        raise ValueError(f"metric must be mAP, F1 or class:NAME, of {some(list(classes), 8)}, got {text!r}")
    return "class", classes[name]


def _groups(annotations: Annotations, by: str | None, default: str | None) -> np.ndarray:
    """(n,) which videos belong together: those of one value of the field `by`, else of `default`, or each alone.

    Raises:
        ValueError: a video without the field, unless it is the default and no video has it, which is said; one group.
    """
    videos = annotations.videos
    if (field := by or default) and (missing := [v for v, x in videos.items() if field not in x.info]):
        if by or len(missing) < len(videos):
            raise ValueError(
                f"tune: {len(missing)} of {len(videos)} videos have no field {field!r} in {annotations.source} "
                f"({some(missing)}); add it, or group by another (--by)"
            )
        text = f"no video has the field {field!r} that the run's held-out videos were grouped by; each stands alone"
        warn([f"{annotations.source}: {text}"])
        field = None
    own = [str(video.info[field]) if field else name for name, video in videos.items()]
    groups = np.unique(own, return_inverse=True)[1].reshape(-1)
    if groups.max(initial=0) < 1:
        of = f" of different {field!r}" if field else ""
        raise ValueError(f"tune: at least two videos{of} are needed to measure a gain, got {len(own)} videos")
    return groups
