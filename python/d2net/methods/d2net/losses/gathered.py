"""The objective of a batch whose videos several processes share, each of which computes all of it.

What a video's rows come down to is gathered: p, its two embeddings and their masses, x_ref's candidate, then its value
in L_DS. Features, activations and λ' stay where they are.
"""

from __future__ import annotations

import torch
from torch import Tensor

import d2kernels as d2k
from d2kernels.ops.head import Head, reference_score
from d2kernels.ops.losses import losses
from d2net.distributed.others import Others
from d2net.methods.d2net.losses.denoising import masked_mean, snippet_values, video_loss
from d2net.methods.d2net.losses.options import (
    Losses,
    denoising_scale,
    kept_videos,
    loss_options,
    scores_snippets,
    video_scores,
)
from d2net.methods.d2net.losses.pairs import Permutations, pair_keys
from d2net.methods.d2net.losses.reference import mixed_reference
from d2net.sections import LossConfig


def gathered_losses(
    z: d2k.Ragged,
    out: Head,
    labels: Tensor,
    reference: Tensor,
    config: LossConfig,
    others: Others,
    streams: int,
    iteration: int,
    clock: Tensor | None,
    permutations: Permutations | None,
    generator: torch.Generator | None,
) -> Losses:
    """The losses of all ranks' videos, the same on every rank; z, out and labels are of its own share.

    Its backward gives z the gradient of the whole batch's loss by the rank's rows.
    """
    activations, whole = z.with_values(out.activations), others.whole
    p, embedding, mass, candidate = _gathered(video_scores(activations, config), out, config, others)
    keep = kept_videos(whole.lengths, whole.labels, config)
    updated = mixed_reference(reference, candidate, mass, keep, config.reference_momentum)
    drawn = None
    if config.classification == "Dis" and config.pairs == "random":
        drawn = torch.stack(permutations) if permutations else pair_keys(len(p), p.device, generator)
    scale = denoising_scale(config, iteration)
    total, classification, ds, dv = losses(
        p,
        embedding,
        mass,
        whole.labels,
        loss_options(config, scale > 0, tuple(p.shape))._replace(snippet=False),
        iteration=torch.tensor(iteration, device=p.device) if clock is None else clock,
        offsets=whole.offsets,
        lengths=whole.lengths,
        pairs_drawn=drawn,
    )
    skipped = torch.zeros((), dtype=torch.int64, device=p.device)
    if scores_snippets(config, iteration):
        # No candidate: the reference that is scored by is the one that all ranks' videos have updated.
        _, score = reference_score(
            z, updated, out.lowest, torch.zeros_like(out.mass), labels, streams=streams, momentum=1.0
        )
        assert score is not None
        own_keep = kept_videos(z.lengths, labels, config)
        values, counted = snippet_values(activations, out.attention, score, labels, own_keep, config)
        values, counted = others.gather(torch.stack([values, counted.to(values.dtype)], 1)).unbind(1)
        ds = masked_mean(values, counted > 0)
        total = total + scale * config.ds_weight * ds
    # L1 and BCE have no video-level form: they replace L_DS and leave L_DV out.
    if scale and config.denoising_kind == "DMI" and config.denoising in ("video", "both"):
        clamped = p.clamp(config.clamp, 1 - config.clamp) if config.clamp else p
        dv, skipped = video_loss(clamped, whole.labels, keep, config)
        total = total + scale * config.dv_weight * dv
    return Losses(total, classification, ds, dv, updated, skipped)


def _gathered(p: Tensor, out: Head, config: LossConfig, others: Others) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """p (n, C), embeddings (n, 2, D), masses (n, 2) and candidates of x_ref (n, D) of all videos, in one go."""
    lowest = config.reference_source == "lowest"
    width = out.embedding.shape[2]
    parts = [p, out.embedding.flatten(1), out.mass, *([out.lowest] if lowest else [])]
    sizes = [x.shape[1] for x in parts]
    found = [x.contiguous() for x in others.gather(torch.cat(parts, 1)).split(sizes, 1)]
    embedding = found[1].view(-1, 2, width)
    candidate = (found[3] if lowest else embedding[:, 1]).detach()
    return found[0], embedding, found[2].detach(), candidate
