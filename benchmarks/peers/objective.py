"""A training step's head and losses as compositions of the public ops, one after the other."""

from __future__ import annotations

import torch
from torch import Tensor

import d2kernels as d2k
from d2kernels.ops.losses import PAIRS, Options
from d2kernels.ops.losses import reference as equations


def losses(
    p: Tensor,
    embedding: Tensor,
    on: Tensor,
    off: Tensor,
    *,
    mass: Tensor,
    score: Tensor,
    labels: Tensor,
    keys: Tensor,
    rows: d2k.Ragged,
    options: Options,
) -> tuple[Tensor, ...]:
    """Total, classification loss, L_DS and L_DV; the schedules' factors are 1."""
    keep = equations.kept_videos(rows.lengths, labels, options.min_snippets)
    q = p.clamp(options.clamp, 1 - options.clamp) if options.clamp else p
    has_foreground, has_background = ((mass > 0) & keep[:, None]).unbind(1)
    kind = "torch" if options.torch_cosine else "release"
    lists = (*embedding.unbind(1), has_foreground, has_background, kind)
    if PAIRS[options.pairs] == "all":
        weights = equations.all_pairs(*lists)
    else:
        drawn = equations.permutations_of(keys, has_foreground, has_background)
        weights = equations.random_pairs(*lists, drawn)
    classification = equations.discriminative(q, labels, keep, weights, options)
    joint = d2k.pdmi_snippet(
        rows.with_values(on), score, background_attention=rows.with_values(off),
        foreground_threshold=options.foreground_threshold, background_threshold=options.background_threshold,
        normalization="joint" if options.joint else "side", floor=options.floor, rtol=options.rtol,
    )  # fmt: skip
    counted = keep
    if options.skip_one_sided:
        counted = counted & (joint.foreground_count > 0) & (joint.background_count > 0)
    counted = counted & joint.value.isfinite()
    ds = torch.where(counted, joint.value, 0).sum() / counted.sum().clamp(min=1)
    dv = d2k.pdmi_video(
        q, labels, keep=keep, relative_floor=options.relative_floor, normalize_rows=options.normalize_rows,
        label_normalization="class" if options.per_class else "batch", atol=options.video_atol, rtol=options.video_rtol,
    ).value  # fmt: skip
    total = classification + options.snippet_weight * ds + options.video_weight * dv
    return total, classification, ds, dv


def head(
    z: Tensor, logits: Tensor, *, streams: int, labels: Tensor, start: Tensor, rows: d2k.Ragged
) -> tuple[Tensor, ...]:
    """T, λ, λ of own labels, embeddings, masses and λ' of the released recipe, x_ref staying where it is."""
    activations = rows.with_values(torch.sigmoid(logits.unflatten(1, (streams, -1))).mean(1)).zero_gaps()
    attention = activations.values.amax(1)
    own = labels[activations.sequence_index()]
    best = activations.values.masked_fill(~own, float("-inf")).amax(1)
    x = rows.with_values(z.unflatten(1, (streams, -1)).mean(1))
    both = torch.stack([attention, 1 - attention], 1)
    pooled = d2k.attention_pool(x, both, threshold=(0.5, 0.5), inclusive=True, normalize=True)
    place = d2k.lowest_attention(x.with_values(attention.detach()))
    source = x.values.detach()[rows.offsets[:-1] + place]
    has = (pooled.mass[:, 1] > 0).detach()
    moved = torch.where(has[:, None], source, 0).sum(0) / has.sum().clamp(min=1)
    reference = torch.where(has.any(), start + 0 * moved, start)
    score = d2k.foreground_score(x.with_values(x.values.detach()), reference).values
    return activations.values, attention, torch.where(own.any(1), best, 0), pooled.embedding, pooled.mass, score
