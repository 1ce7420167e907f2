"""What the configuration means for an iteration's losses: their schedule, the fused objective's options, the result."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

import d2kernels as d2k
from d2kernels.ops.condition_number import tolerances
from d2kernels.ops.losses import PAIRS, Options
from d2kernels.ops.losses import reference as composition
from d2net.sections import LossConfig


class Losses(NamedTuple):
    """The weighted total, its unweighted terms, x_ref (D,) after the update, and 1 where L_DV was skipped."""

    total: Tensor
    classification: Tensor
    ds: Tensor
    dv: Tensor
    reference: Tensor
    skipped: Tensor


def video_scores(activations: d2k.Ragged, config: LossConfig) -> Tensor:
    """p (n, C): temporal top-k pooling of T."""
    return d2k.topk_pool(activations, divisor=config.pool_divisor, rounding=config.pool_rounding)


def kept_videos(lengths: Tensor, labels: Tensor, config: LossConfig) -> Tensor:
    """(n,) bool: long enough and with a label."""
    return composition.kept_videos(lengths, labels, config.min_snippets)


def denoising_scale(config: LossConfig, iteration: int) -> float:
    """Factor on L_D's weights at this iteration (from 1); 0 where L_D does not enter."""
    since = iteration - config.denoising_start
    if config.denoising == "none" or since <= 0 or iteration % config.denoising_every:
        return 0.0
    return min(1.0, since / config.denoising_warmup) if config.denoising_warmup else 1.0


def loss_options(config: LossConfig, denoise: bool, shape: tuple[int, ...]) -> Options:
    """The fused objective's options; shape: (n, C). L_D's alternatives stay out of it."""
    denoise = denoise and config.denoising_kind == "pDMI"
    atol, rtol = tolerances("dv_atol", config.dv_atol, None, max(shape))
    return Options(
        min_snippets=config.min_snippets,
        clamp=config.clamp,
        pairs=PAIRS.index(config.pairs if config.classification == "Dis" else "none"),
        torch_cosine=config.cosine == "torch",
        per_entry=config.normalization == "release",
        gamma=config.gamma,
        beta=0.0 if config.classification == "CE" else config.beta,
        pair_warmup=float(config.pair_warmup),
        denoising_start=float(config.denoising_start),
        denoising_warmup=float(config.denoising_warmup),
        snippet=denoise and config.denoising in ("snippet", "both"),
        video=denoise and config.denoising in ("video", "both"),
        snippet_weight=config.ds_weight,
        video_weight=config.dv_weight,
        foreground_threshold=config.ds_foreground_threshold,
        background_threshold=config.ds_background_threshold,
        joint=config.ds_normalization == "joint",
        floor=config.ds_floor,
        rtol=config.ds_rtol,
        skip_one_sided=config.ds_skip_one_sided,
        forward_only=config.ds_polarity == "forward",
        relative_floor=config.dv_relative_floor,
        normalize_rows=config.dv_normalize_rows,
        per_class=config.dv_label_normalization == "class",
        video_atol=atol,
        video_rtol=rtol,
    )


def scores_snippets(config: LossConfig, iteration: int) -> bool:
    return denoising_scale(config, iteration) > 0 and config.denoising in ("snippet", "both")


def by_labels(config: LossConfig, iteration: int) -> bool:
    return config.ds_attention == "labels" and scores_snippets(config, iteration)
