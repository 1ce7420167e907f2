"""Training from files, once or by several seeds."""

from __future__ import annotations

import os
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from d2net.api.inputs import named_as
from d2net.api.model import Model, load, pick_device
from d2net.api.single import stream_count, train_once, training_videos
from d2net.config import Config, make_config
from d2net.data.annotations import Annotations, load_annotations
from d2net.data.cache import CachedFeatures
from d2net.data.dataset import split_holdout
from d2net.data.features import FeatureStore, open_features
from d2net.data.files import check_outputs
from d2net.data.shared import shared
from d2net.distributed.launch import refuse
from d2net.training.beside import side_by_side, train_beside
from d2net.training.beside_process import Work
from d2net.training.folder import OURS, RESTARTS, remove_empty
from d2net.training.lock import FolderLock
from d2net.training.logs import check_trackers
from d2net.training.restarts import (
    MOST_VIDEOS,
    begun,
    check_arguments,
    check_begun,
    choose,
    folder_of,
    keep,
    read_restarts,
    train_all,
)
from d2net.training.threads import training_threads


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
    criterion: str = "agreement",
    jobs: int | None = None,
    trackers: Sequence[str] = (),
) -> Model:
    """Trains D2-Net with video-level labels and leaves checkpoint.pt, config.yaml and log.jsonl in `out`.

    Processes that torchrun has started together share each batch and return the same model; rank 0 alone writes.

    Args:
        features: a store, or the path of an .npz, .h5 or folder of (s, d) arrays keyed by video.
        annotations: loaded, or the path of an ActivityNet-style JSON; only labels are used, not segments,
            unless train.selection is loc_mAP.
        config: `make_config(preset, recipe)`; the release recipe by default.
        out: folder of the run; made if it is not there.
        names: the training videos, in place of those of train.subsets.
        device: auto, cpu, cuda or cuda:N.
        resume: go on from the folder's checkpoint, bit for bit.
        overwrite: replace the run in the folder.
        progress: shows a bar on standard error.
        skip_missing: train on the videos that have features, and say which have none.
        restarts: trainings, with seeds train.seed and on, in folders seed-N of `out`; the one that is best by
            `criterion` (of `criteria.CRITERIA`; video-level labels alone) is kept as the run, or with `average` the
            mean of all of their activations.
        jobs: of the restarts, how many train at a time, each in a process of its own, with the same result; by default
            as many as cores allow, one on a GPU. Features that fit in train.cache_gigabytes are in memory once.
        trackers: that are told what log.jsonl is: tensorboard (event files in `out`), trackio, wandb.

    Returns:
        the trained model, as `load(out)` gives it.

    Raises:
        RunExists: `out` holds a run and neither resume nor overwrite was given.
        ValueError: features, annotations and configuration that do not fit; the message names which.
        ImportError: a tracker's package is not installed.
    """
    check_trackers(trackers)
    if not isinstance(features, (FeatureStore, str, os.PathLike)):
        kind = type(features).__name__
        raise TypeError(f"train: features must be a path or what open_features returned, got {kind}; save an .npz")
    config = config or make_config()
    store = features if isinstance(features, FeatureStore) else open_features(features)
    if not isinstance(annotations, Annotations):
        annotations = load_annotations(annotations)
    check_arguments(restarts, average, criterion, jobs)
    given: dict[str, Any] = {"names": names, "device": device, "progress": progress, "skip_missing": skip_missing}
    given["trackers"] = list(trackers)
    if restarts > 1:
        refuse("train with restarts", "train one seed at a time, each by all of them, or start it without torchrun")
        return _train_restarts(
            store, annotations, Path(out), config, restarts, criterion, average, resume, overwrite, jobs, given
        )
    if resume and read_restarts(Path(out)) is not None:
        raise ValueError(f"{out} holds restarts: go on with them (--restarts), or with one of its runs, as seed-0")
    return train_once(store, annotations, out, config, resume=resume, overwrite=overwrite, **given)


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
    jobs: int | None,
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
            return _train_and_choose(store, annotations, out, config, seeds, criterion, average, resume, jobs, given)
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
    jobs: int | None,
    given: dict[str, Any],
) -> Model:
    if not resume:
        (out / RESTARTS).unlink(missing_ok=True)  # its runs are about to be replaced
    cache = CachedFeatures(store, config.train.cache_gigabytes / max(1, config.train.workers))
    known, alias = named_as(annotations, store)
    if given["names"] is None:
        names = training_videos(store, known, config, given["skip_missing"])
    else:
        names = [v for v in (alias.get(v, v) for v in given["names"]) if v in store]
    threads = training_threads(config, store, names, len(known.classes), stream_count(config, known, store))
    device = pick_device(given["device"]).type
    jobs = side_by_side(jobs, len(seeds), threads, config.train.iterations, device)
    if jobs > 1:
        _beside(store, annotations, out, config, seeds, known, names, cache, resume, jobs, given)
    else:

        def one(seed: int, folder: Path, resume: bool, overwrite: bool) -> None:
            own = _with_seed(config, seed)
            train_once(store, annotations, folder, own, resume=resume, overwrite=overwrite, cache=cache, **given)

        train_all(one, out, seeds, resume, given["progress"])
    models = [load(folder_of(out, seed), given["device"]) for seed in seeds]
    held_out = set(models[0].held_out)
    names = [v for v in names if v not in held_out]
    names = [names[i] for i in np.unique(np.linspace(0, len(names) - 1, min(len(names), MOST_VIDEOS)).astype(int))]
    activations = [{v: model.activations(cache[v]).classes for v in names} for model in models]
    found = choose(activations, known.label_matrix(names), seeds, config.loss.pool_divisor, criterion, average)
    keep(out, found)
    if given["progress"]:
        print(found.said())
    return load(out, given["device"])


def _with_seed(config: Config, seed: int) -> Config:
    return config.model_copy(update={"train": config.train.model_copy(update={"seed": seed})})


def _beside(
    store: FeatureStore,
    annotations: Annotations,
    out: Path,
    config: Config,
    seeds: Sequence[int],
    known: Annotations,
    names: Sequence[str],
    cache: CachedFeatures,
    resume: bool,
    jobs: int,
    given: dict[str, Any],
) -> None:
    """Trains the seeds in processes that see the training videos' features in one memory."""
    show = given["progress"]
    kept, _ = split_holdout(known, names, config.train)
    with shared(cache, kept, config.train, jobs, show) as memory:
        works = []
        for seed in seeds:
            again, replace = begun(out, seed, resume)
            of = {**given, "resume": again, "overwrite": replace}
            work = Work(
                store, annotations, folder_of(out, seed), _with_seed(config, seed), of, memory, torch.get_num_threads()
            )
            works.append((seed, pickle.dumps(work)))
        train_beside(works, jobs, [] if memory.descriptor is None else [memory.descriptor], show)
