"""One training: its videos, their timing, and what selects a checkpoint."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from d2net.api.inputs import named_as, warn_of_timing, with_features
from d2net.api.localizing import localize
from d2net.api.model import Model, load, pick_device
from d2net.config import Config, from_dict
from d2net.data.annotations import Annotations
from d2net.data.cache import CachedFeatures
from d2net.data.dataset import TrainingBatches, split_holdout
from d2net.data.features import FeatureStore, check_streams
from d2net.data.files import check_outputs
from d2net.data.stated import durations_differ, overruled_videos, stated_timing
from d2net.distributed.launch import joined, local_device
from d2net.distributed.ranks import Ranks
from d2net.evaluation import classification_map, evaluate
from d2net.methods.base import Network, method_named
from d2net.presets import TIMINGS
from d2net.timing import Resolved, Statement, Timing, UnknownTiming, resolve
from d2net.training.checkpoint import FILE, read_checkpoint, usable
from d2net.training.errors import TrainingWarning
from d2net.training.folder import OURS
from d2net.training.loop import Run
from d2net.training.resume import data_digest, segments_digest
from d2net.training.survey import annotation_facts, training_facts


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
    warn_of_timing(found, own, lambda v: annotations.source, notes, lengths, durations, annotations, store.width)
    return found, own


def training_videos(
    store: FeatureStore, annotations: Annotations, config: Config, skip_missing: bool = False
) -> list[str]:
    """Annotated videos of the training subsets that are long enough; each must have features."""
    chosen = with_features(list(annotations.subset(config.train.subsets).videos), store, skip_missing)
    names = [v for v in chosen if store.lengths[v] >= config.train.min_rows]
    if not names:
        raise ValueError(
            f"train.subsets: no video of {', '.join(config.train.subsets)} has {config.train.min_rows} rows or more"
        )
    return names


def train_once(
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
    trackers: Sequence[str] = (),
    cache: CachedFeatures | None = None,
) -> Model:
    """One training, by all processes that were started together; cache: features that others have read."""
    with joined(device) as ranks, ranks.watched(lambda: "what was saved is whole"):
        return _train(
            store,
            annotations,
            out,
            config,
            ranks,
            names=names,
            device=device,
            resume=resume,
            overwrite=overwrite,
            progress=progress,
            skip_missing=skip_missing,
            trackers=trackers,
            cache=cache,
        )


def _train(
    store: FeatureStore,
    annotations: Annotations,
    out: str | os.PathLike,
    config: Config,
    ranks: Ranks,
    *,
    names: Sequence[str] | None,
    device: str,
    resume: bool,
    overwrite: bool,
    progress: bool,
    skip_missing: bool,
    trackers: Sequence[str],
    cache: CachedFeatures | None,
) -> Model:
    where = pick_device(local_device(device))
    streams = stream_count(config, annotations, store)
    annotations, alias = named_as(annotations, store)
    if names is None:
        names = training_videos(store, annotations, config, skip_missing)
    else:
        names = list(annotations.only([alias.get(v, v) for v in names]).videos)
        names = with_features(names, store, skip_missing)
    resolved, own_timings = training_timing(config, annotations, store, names)
    timing = resolved.timing
    if resume and config.train.holdout:
        config = ranks.on_main(lambda: _with_its_split(config, Path(out)))
    kept, held_out = split_holdout(annotations, names, config.train)
    labels = annotations.label_matrix(kept)
    if not labels.any():
        raise ValueError(
            f"{annotations.source}: none of the {len(kept)} training videos has a label; add `annotations` or "
            "`video_labels` to them"
        )
    method = method_named(config.method)
    if ranks.size > 1 and not method.shared:
        raise ValueError(f"method {config.method} trains in one process, not {ranks.size}; start it without torchrun")
    counts = _counts(annotations, kept, method.counts(config))
    batches = TrainingBatches(
        cache or store, kept, labels, config.train, config.model.gap, pairs=method.pairs(config), counts=counts
    )
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
        score=_selection(config, store, annotations, held_out, resolved, own_timings, ranks),
        progress=progress,
        trackers=trackers,
        ranks=ranks,
    )
    check_outputs([Path(out) / name for name in OURS], [store.source, annotations.source])
    state = run.start(resume, overwrite)
    if not run.finish(state):
        raise KeyboardInterrupt(f"stopped at iteration {state.iteration}; go on with --resume")
    if ranks.size == 1:
        return load(run.out, str(where))
    model = ranks.on_main(lambda: load(run.out, "cpu"))  # the folder may be on rank 0's machine alone
    model.network.to(where)
    return model


def _counts(annotations: Annotations, names: Sequence[str], source: str) -> np.ndarray | None:
    """How often each class occurs, from the annotations' field `counts` or their segments, which is said."""
    if source == "none":
        return None
    found = annotations.count_matrix(names, source)
    known = np.isfinite(found).all(1)
    if source == "segments":
        if not known.any():
            raise ValueError(f"threecnet.counts: segments are to be counted, and {annotations.source} has none")
        print("counts are of the training videos' segments: this is no longer weak supervision")
    elif not known.any():
        warnings.warn(
            f"{annotations.source}: no training video has the field `counts`, so that classes are not counted; add it, "
            "or set threecnet.counts to segments, or to none",
            TrainingWarning,
            stacklevel=3,
        )
        return None
    return found


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
    ranks: Ranks,
) -> Callable[[Network], float] | None:
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
        if ranks.main:
            print("selection by loc_mAP uses the held-out videos' segments: this is no longer weak supervision")
    labels = annotations.label_matrix(held_out)

    def score(network: Network) -> float:
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
