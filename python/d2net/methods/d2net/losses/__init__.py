"""The training objective (Eq. 1), assembled as the configuration says."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

import d2kernels as d2k
from d2net.config import LossConfig
from d2net.methods.d2net.losses.denoising import snippet_loss, video_loss
from d2net.methods.d2net.losses.discriminative import discriminative_loss, embeddings, pair_weights
from d2net.methods.d2net.losses.pairs import Permutations
from d2net.methods.d2net.losses.reference import updated_reference


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
    return (lengths >= config.min_snippets) & labels.any(1)


def denoising_scale(config: LossConfig, iteration: int) -> float:
    """Factor on L_D's weights at this iteration (from 1); 0 where L_D does not enter."""
    since = iteration - config.denoising_start
    if config.denoising == "none" or since <= 0 or iteration % config.denoising_every:
        return 0.0
    return min(1.0, since / config.denoising_warmup) if config.denoising_warmup else 1.0


def compute_losses(
    activations: d2k.Ragged,
    x: d2k.Ragged,
    labels: Tensor,
    reference: Tensor,
    config: LossConfig,
    *,
    iteration: int,
    permutations: Permutations | None = None,
    generator: torch.Generator | None = None,
) -> Losses:
    """One batch's objective; nothing here synchronises with the device.

    Args:
        activations: T, rows (total, C) in [0, 1].
        x: embeddings, rows (total, D).
        labels: (n, C) bool, video-level.
        reference: x_ref (D,) before this iteration.
        iteration: from 1; decides the schedule of L_D.
        permutations: fixed pairs in place of random ones.
        generator: source of random pairs, on the device of the batch.
    """
    keep = kept_videos(activations.lengths, labels, config)
    attention = activations.values.amax(1)
    p = video_scores(activations, config)
    if config.clamp:
        p = p.clamp(config.clamp, 1 - config.clamp)
    e = embeddings(x, attention, keep, config)
    weights = None
    if config.classification == "Dis":
        weights = pair_weights(e, config, permutations, generator)
    pair_scale = min(1.0, iteration / config.pair_warmup) if config.pair_warmup else 1.0
    classification = discriminative_loss(p, labels, keep, weights, config, pair_scale)
    new_reference = updated_reference(reference, x, attention, e, config)

    zero = classification.new_zeros(())
    ds = dv = zero
    skipped = torch.zeros((), dtype=torch.int64, device=zero.device)
    scale = denoising_scale(config, iteration)
    if scale and config.denoising in ("snippet", "both"):
        foreground = d2k.foreground_score(x.with_values(x.values.detach()), new_reference)
        ds = snippet_loss(activations, attention, foreground.values, labels, keep, config).loss
    # L1 and BCE have no video-level form: they replace L_DS and leave L_DV out.
    if scale and config.denoising in ("video", "both") and config.denoising_kind in ("pDMI", "DMI"):
        dv, skipped = video_loss(p, labels, keep, config)
    total = classification + scale * (config.ds_weight * ds + config.dv_weight * dv)
    return Losses(total, classification, ds, dv, new_reference, skipped)
