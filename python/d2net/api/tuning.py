"""The decoder fitted to annotated videos."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

import d2kernels as d2k
from d2net.api.inputs import Features, prepare
from d2net.api.model import Model
from d2net.data.annotations import Annotations, load_annotations
from d2net.data.files import some
from d2net.data.names import warn
from d2net.evaluation.matching import parse_iou
from d2net.evaluation.prepared import PROTOCOLS, release_rate, truth_spans
from d2net.evaluation.release import RELEASE, snippet_spans
from d2net.localization.activations import batches_of
from d2net.localization.tune import Tuned
from d2net.localization.tune_scoring import Decoder, Metric
from d2net.localization.tune_search import search
from d2net.localization.tune_space import fields_for
from d2net.sections import EvaluateConfig
from d2net.terminal import Bar


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
            by `protocol`, which are by default those of the run's configuration. The release protocol's snippets are as
            long as the annotations state, else as the model's.
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
    videos = prepare(model, features, annotations=annotations, names=names, skip_missing=skip_missing)
    assert videos.annotations is not None  # as they were given
    _check_unseen(model, videos.annotations, videos.names)
    truth = videos.annotations.only(videos.names)
    classes = {name: c for c, name in enumerate(truth.classes)}
    instances, _ = truth_spans(truth, {v: i for i, v in enumerate(videos.names)}, classes)
    if not len(instances):
        raise ValueError(f"tune: {annotations.source} has no segments of the {len(names)} videos to tune on")
    rules = PROTOCOLS[evaluation.protocol]
    rate = release_rate(None, annotations, model.timing) if rules is RELEASE else None
    measure = Metric(*_metric(metric, classes), parse_iou(evaluation.iou), rules, len(classes))
    loss = model.config.loss
    parts = list(batches_of(videos.lengths))
    running = Bar("activations", len(parts), unit="batch", show=progress)
    chunks = [videos.activate(videos.names[part]) for part in running.over(parts)]
    steps = [(*videos.steps(i), videos.durations.get(v, np.inf)) for i, v in enumerate(videos.names)]
    decoder = Decoder(
        chunks,
        [d2k.topk_pool(a.classes, divisor=loss.pool_divisor, rounding=loss.pool_rounding) for a in chunks],
        np.array(steps, np.float64),
        np.array([classes.get(name, -1 - k) for k, name in enumerate(model.classes)]),
        rate,
    )
    with Bar("tune", settings, unit="decoder", show=progress) as bar:
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
    return Tuned(outcome, model.config.localize, evaluation, words, annotations.source, rate)


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
