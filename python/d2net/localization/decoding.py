"""From activations to detections (Sec. 3.3)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

import d2kernels as d2k
from d2net.sections import LocalizeConfig

if TYPE_CHECKING:
    from d2kernels.ops.localize import Detections as SnippetDetections
from d2net.localization.activations import Activations, batches_of


def reweighted(a: Activations, config: LocalizeConfig) -> d2k.Ragged:
    """r_c = λ' T_c, with λ' first scaled by 2 / its maximum over the video where the configuration says so."""
    if not config.reweight:
        return a.classes
    foreground = a.foreground
    if config.foreground_rescale:
        highest = d2k.topk_pool(a.classes.with_values(foreground[:, None]), k=1)[:, 0]
        scale = torch.where(highest > 0, 2 / highest, 0)
        foreground = foreground * scale[a.classes.sequence_index()]
    return a.classes.with_values(a.classes.values * foreground[:, None]).zero_gaps()


class ClassScores(NamedTuple):
    """Both (n, C): the pooled score of each class, and whether it is localized."""

    score: Tensor
    selected: Tensor


def select_classes(activations: d2k.Ragged, refined: d2k.Ragged, config: LocalizeConfig) -> ClassScores:
    """Which classes each video is searched for. activations: T; refined: r."""
    source = activations if config.class_source == "activations" else refined
    score = d2k.topk_pool(source, divisor=config.class_pool_divisor, rounding=config.class_pool_rounding)
    if config.class_rule == "all":
        return ClassScores(score, torch.ones_like(score, dtype=torch.bool))
    if config.class_rule == "third_best":
        floor = torch.where((score > 1).any(1, keepdim=True), 1.0, config.class_threshold)
        if score.shape[1] >= 3:
            floor = torch.maximum(floor, score.topk(3, dim=1).values[:, 2:])
        return ClassScores(score, score > floor)
    best = score.amax(1, keepdim=True)
    return ClassScores(score, (score > config.class_threshold * best) & (score > 0))


def detect(
    refined: d2k.Ragged, classes: ClassScores, config: LocalizeConfig, p: Tensor | None = None
) -> SnippetDetections:
    """Proposals, contrast scores, NMS and the keep rule of `config`, in snippets; p (n, C) is for its class bonus."""
    bonus = config.class_score_weight * p if config.class_score_weight and p is not None else None
    return d2k.localize(
        refined,
        thresholds=config.threshold_values(),
        class_mask=classes.selected,
        margin=config.margin,
        outer=config.outer,
        min_score=config.min_score,
        min_length=config.min_length,
        iou_threshold=config.iou_threshold,
        sigma=config.sigma,
        keep_ratio=config.keep_ratio,
        keep_scope=config.keep_scope,
        upsample=config.upsample,
        smoothing=config.smoothing,
        relative=config.relative,
        class_score=bonus,
    )


class VideoScores(NamedTuple):
    """One chunk of localized videos: their snippet detections, p (n, C), T and λ'."""

    names: list[str]
    lengths: list[int]
    detections: Any
    p: np.ndarray
    activations: Activations


def localize_chunk(
    a: Activations,
    names: Sequence[str],
    lengths: Sequence[int],
    config: LocalizeConfig,
    *,
    pool_divisor: int = 8,
    pool_rounding: str = "ceil",
) -> VideoScores:
    """a: T and λ' of these videos; p is pooled as in training (pool_*)."""
    refined = reweighted(a, config)
    p = d2k.topk_pool(a.classes, divisor=pool_divisor, rounding=pool_rounding)
    found = detect(refined, select_classes(a.classes, refined, config), config, p)
    return VideoScores(list(names), list(lengths), found, p.cpu().numpy(), a)


def localize_chunks(
    activate: Callable[[Sequence[str]], Activations],
    names: Sequence[str],
    lengths: Sequence[int],
    config: LocalizeConfig,
    *,
    pool_divisor: int = 8,
    pool_rounding: str = "ceil",
) -> Iterator[VideoScores]:
    """Localizes videos in chunks of bounded memory; `activate` gives T and λ' of some of them."""
    for part in batches_of(lengths):
        yield localize_chunk(
            activate(names[part]), names[part], lengths[part], config, pool_divisor=pool_divisor,
            pool_rounding=pool_rounding,
        )  # fmt: skip
