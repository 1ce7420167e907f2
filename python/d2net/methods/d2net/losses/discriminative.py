"""Embeddings of Eq. 2 and the pair weights of Eq. 3."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

import d2kernels as d2k
from d2kernels.ops.attention_pool import AttentionPool
from d2net.methods.d2net.losses.pairs import PairWeights, Permutations, all_pairs, random_pairs, random_permutations
from d2net.sections import LossConfig


class Embeddings(NamedTuple):
    """Class-agnostic foreground and background embeddings (n, D) of Eq. 2 and which videos have them (n,)."""

    foreground: Tensor
    background: Tensor
    has_foreground: Tensor
    has_background: Tensor


def pooled_embeddings(x: d2k.Ragged, attention: Tensor, config: LossConfig) -> AttentionPool:
    """Foreground and background embeddings (n, 2, D) and masses (n, 2); attention: λ (total,)."""
    return d2k.attention_pool(
        x,
        torch.stack([attention, 1 - attention], 1),
        threshold=(config.foreground_threshold, config.background_threshold),
        inclusive=config.inclusive,
        normalize=config.normalize_embeddings,
    )


def embeddings(x: d2k.Ragged, attention: Tensor, keep: Tensor, config: LossConfig) -> Embeddings:
    """x: rows (total, D); attention: λ (total,); keep: (n,) bool, videos that take part."""
    pooled = pooled_embeddings(x, attention, config)
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
