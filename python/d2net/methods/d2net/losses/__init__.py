"""The training objective (Eq. 1), assembled as the configuration says."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

import d2kernels as d2k
from d2kernels.ops.attention_pool import AttentionPool
from d2kernels.ops.head import head, reference_score
from d2kernels.ops.losses import losses
from d2net.distributed.others import Others
from d2net.methods.d2net.losses.denoising import foreground_attention, snippet_loss, video_loss
from d2net.methods.d2net.losses.discriminative import pooled_embeddings
from d2net.methods.d2net.losses.gathered import gathered_losses
from d2net.methods.d2net.losses.options import (
    Losses,
    by_labels,
    denoising_scale,
    kept_videos,
    loss_options,
    scores_snippets,
    video_scores,
)
from d2net.methods.d2net.losses.pairs import Permutations, pair_keys
from d2net.methods.d2net.losses.reference import updated_reference
from d2net.sections import LossConfig


class _Pooled(NamedTuple):
    """What the objective needs of a batch: T, λ, λ of own labels, embeddings (n, 2, D) and their masses (n, 2)."""

    activations: d2k.Ragged
    attention: Tensor
    own_attention: Tensor
    embedding: Tensor
    mass: Tensor


def compute_losses(
    activations: d2k.Ragged,
    x: d2k.Ragged,
    labels: Tensor,
    reference: Tensor,
    config: LossConfig,
    *,
    iteration: int,
    clock: Tensor | None = None,
    permutations: Permutations | None = None,
    generator: torch.Generator | None = None,
) -> Losses:
    """One batch's objective, from activations and embeddings; nothing here synchronises with the device.

    Args:
        activations: T, rows (total, C) in [0, 1].
        x: embeddings, rows (total, D).
        labels: (n, C) bool, video-level.
        reference: x_ref (D,) before this iteration.
        iteration: from 1; decides the schedule of L_D.
        clock: the iteration as a 0-d int64 tensor on the device, where there is one.
        permutations: fixed pairs in place of random ones.
        generator: source of random pairs, on the device of the batch.
    """
    attention = activations.values.amax(1)
    embedding, mass = pooled_embeddings(x, attention, config)
    own = foreground_attention(activations, labels) if by_labels(config, iteration) else attention
    updated = updated_reference(reference, x, attention, AttentionPool(embedding, mass), labels, config)
    score = None
    if scores_snippets(config, iteration):
        score = d2k.foreground_score(x.with_values(x.values.detach()), updated).values
    pooled = _Pooled(activations, attention, own, embedding, mass)
    return _objective(pooled, score, updated, labels, config, iteration, clock, permutations, generator)


def head_losses(
    z: d2k.Ragged,
    logits: Tensor,
    labels: Tensor,
    reference: Tensor,
    config: LossConfig,
    *,
    streams: int,
    iteration: int,
    clock: Tensor | None = None,
    permutations: Permutations | None = None,
    generator: torch.Generator | None = None,
    others: Others | None = None,
) -> Losses:
    """`compute_losses` from layer 2's output z (total, streams · D) and the classifier's logits of each stream.

    others: where z, logits and labels are of a share of the batch's videos.
    """
    out = head(
        z,
        logits,
        streams=streams,
        labels=labels if by_labels(config, iteration) else None,
        foreground_threshold=config.foreground_threshold,
        background_threshold=config.background_threshold,
        inclusive=config.inclusive,
        normalize=config.normalize_embeddings,
    )
    if others is not None:
        return gathered_losses(
            z, out, labels, reference, config, others, streams, iteration, clock, permutations, generator
        )
    updated, score = reference_score(
        z,
        reference,
        out.lowest if config.reference_source == "lowest" else out.embedding[:, 1].detach(),
        out.mass,
        labels,
        streams=streams,
        min_snippets=config.min_snippets,
        momentum=config.reference_momentum,
        score=scores_snippets(config, iteration),
    )
    own = out.attention if out.own_attention is None else out.own_attention
    activations = z.with_values(out.activations)
    pooled = _Pooled(activations, out.attention, own, out.embedding, out.mass)
    return _objective(pooled, score, updated, labels, config, iteration, clock, permutations, generator)


def _objective(
    pooled: _Pooled,
    score: Tensor | None,
    updated: Tensor,
    labels: Tensor,
    config: LossConfig,
    iteration: int,
    clock: Tensor | None,
    permutations: Permutations | None,
    generator: torch.Generator | None,
) -> Losses:
    """The losses op, and L_D's alternatives beside it; score: λ' (total,), updated: x_ref."""
    activations = pooled.activations
    p = video_scores(activations, config)
    drawn = None
    if config.classification == "Dis" and config.pairs == "random":
        drawn = torch.stack(permutations) if permutations else pair_keys(len(activations), p.device, generator)
    scale = denoising_scale(config, iteration)
    terms = losses(
        p,
        pooled.embedding,
        pooled.mass,
        labels,
        loss_options(config, scale > 0, tuple(p.shape)),
        iteration=torch.tensor(iteration, device=p.device) if clock is None else clock,
        offsets=activations.offsets,
        lengths=activations.lengths,
        foreground_attention=pooled.own_attention,
        background_attention=pooled.attention,
        foreground=score,
        pairs_drawn=drawn,
    )
    skipped = torch.zeros((), dtype=torch.int64, device=p.device)
    if not scale or config.denoising_kind == "pDMI":
        return Losses(*terms, updated, skipped)
    total, classification, ds, dv = terms
    keep = kept_videos(activations.lengths, labels, config)
    if score is not None:
        ds = snippet_loss(activations, pooled.attention, score, labels, keep, config).loss
    # L1 and BCE have no video-level form: they replace L_DS and leave L_DV out.
    if config.denoising in ("video", "both") and config.denoising_kind == "DMI":
        clamped = p.clamp(config.clamp, 1 - config.clamp) if config.clamp else p
        dv, skipped = video_loss(clamped, labels, keep, config)
    total = total + scale * (config.ds_weight * ds + config.dv_weight * dv)
    return Losses(total, classification, ds, dv, updated, skipped)
