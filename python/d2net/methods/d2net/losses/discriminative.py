"""L_Dis (Eqs. 2 to 4), and L_CE and L_F, which are L_Dis without its weights."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

import d2kernels as d2k
from d2net.config import LossConfig
from d2net.methods.d2net.losses.pairs import PairWeights, Permutations, all_pairs, random_pairs, random_permutations


class Embeddings(NamedTuple):
    """Class-agnostic foreground and background embeddings (n, D) of Eq. 2 and which videos have them (n,)."""

    foreground: Tensor
    background: Tensor
    has_foreground: Tensor
    has_background: Tensor


def embeddings(x: d2k.Ragged, attention: Tensor, keep: Tensor, config: LossConfig) -> Embeddings:
    """x: rows (total, D); attention: λ (total,); keep: (n,) bool, videos that take part."""
    both = torch.stack([attention, 1 - attention], 1)
    thresholds = (config.foreground_threshold, config.background_threshold)
    pooled = d2k.attention_pool(
        x, both, threshold=thresholds, inclusive=config.inclusive, normalize=config.normalize_embeddings
    )
    foreground, background = pooled.embedding.unbind(1)
    has = (pooled.mass > 0) & keep[:, None]
    return Embeddings(foreground, background, has[:, 0], has[:, 1])


def pair_weights(
    e: Embeddings,
    config: LossConfig,
    permutations: Permutations | None = None,
    generator: torch.Generator | None = None,
) -> PairWeights:
    """Eq. 3 before γ, by the configuration's way of pairing."""
    if config.pairs == "all":
        return all_pairs(*e, config.cosine)
    if permutations is None:
        permutations = random_permutations(e.has_foreground, e.has_background, generator)
    return random_pairs(*e, config.cosine, permutations)


def discriminative_loss(
    p: Tensor, labels: Tensor, keep: Tensor, weights: PairWeights | None, config: LossConfig, pair_scale: float = 1.0
) -> Tensor:
    """Eq. 4, normalised as the recipe does.

    Args:
        p: (n, C) video-level scores, already clamped.
        labels: (n, C) bool.
        keep: (n,) bool, videos that count.
        weights: None for L_CE and L_F.
        pair_scale: factor on the pair weights while they warm up.
    """
    beta = 0.0 if config.classification == "CE" else config.beta
    positive = negative = p.new_zeros(p.shape[0], 1)
    if weights is not None:
        w_ff, w_bb, w_fb = (w[:, None].to(p.dtype) * pair_scale for w in weights)
        positive, negative = w_fb + config.gamma * w_ff, w_fb + config.gamma * w_bb
    tiny = 1e-12 if p.dtype == torch.float64 else 1e-7
    log_p, log_q = p.clamp(min=tiny).log(), (1 - p).clamp(min=tiny).log()
    on = -(1 - p + positive).pow(beta) * log_p
    off = -(p + negative).pow(beta) * log_q
    count = keep.sum().clamp(min=1)
    if config.normalization == "release":
        on = on * p.shape[1]
        count = count * p.shape[1]
    entries = torch.where(labels, on, off)
    return torch.where(keep[:, None], entries, 0).sum() / count
