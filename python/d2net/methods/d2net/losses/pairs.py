"""Pair weights of Eq. 3: how alike the foreground and background embeddings of a batch are."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Permutations(NamedTuple):
    """Positions within the lists of videos that have a foreground / background embedding; each (n,) int64.

    Only the first entries count: as many as the list is long (x_foreground, x_background: the shorter list).
    """

    foreground: Tensor
    background: Tensor
    x_foreground: Tensor
    x_background: Tensor


class PairWeights(NamedTuple):
    """Each (n,): 1 - cos among foregrounds, among backgrounds, and max(0, cos) across."""

    foreground: Tensor
    background: Tensor
    cross: Tensor


def cosine(a: Tensor, b: Tensor, kind: str) -> Tensor:
    """Cosine along the last dimension; ``release`` adds 1e-12 to each squared norm."""
    if kind == "torch":
        return F.cosine_similarity(a, b, dim=-1)
    return (a * b).sum(-1) / (((a * a).sum(-1) + 1e-12) * ((b * b).sum(-1) + 1e-12)).sqrt()


def random_permutations(
    has_foreground: Tensor, has_background: Tensor, generator: torch.Generator | None = None
) -> Permutations:
    """Uniform permutations of the two lists, drawn on the device without knowing their lengths on the host."""
    n = has_foreground.shape[0]
    keys = torch.rand(4, n, generator=generator, device=has_foreground.device)
    place = torch.arange(n, device=keys.device)
    counts = torch.stack([has.sum() for has in (has_foreground, has_background)] * 2)[:, None]
    order = keys.masked_fill(place >= counts, 2).argsort(1)
    return Permutations(*order.unbind())


def _listed(has: Tensor) -> Tensor:
    """Videos of the list, in batch order, then the others: a permutation of 0..n-1."""
    return (~has).to(torch.uint8).argsort(stable=True)


def _scatter(target: Tensor, values: Tensor, counted: Tensor) -> Tensor:
    # Counted targets are distinct, so the sum is exact; the others add 0 wherever they point.
    return torch.zeros_like(values).scatter_add(0, target, torch.where(counted, values, 0))


def random_pairs(
    foreground: Tensor,
    background: Tensor,
    has_foreground: Tensor,
    has_background: Tensor,
    kind: str,
    permutations: Permutations,
) -> PairWeights:
    """One partner for each video, possibly itself; the cross weight goes to the foreground's video.

    Args:
        foreground, background: (n, D) embeddings.
        has_foreground, has_background: (n,) bool, whether the video has that embedding; other weights are 0.
        kind: of cosine.
    """
    fg, bg = _listed(has_foreground), _listed(has_background)
    place = torch.arange(fg.shape[0], device=fg.device)
    n_fg, n_bg = has_foreground.sum(), has_background.sum()

    def within(x: Tensor, listed: Tensor, permutation: Tensor, count: Tensor) -> Tensor:
        return _scatter(listed, 1 - cosine(x[listed], x[listed[permutation]], kind), place < count)

    a, b = fg[permutations.x_foreground], bg[permutations.x_background]
    cross = cosine(foreground[a], background[b], kind).clamp(min=0)
    return PairWeights(
        within(foreground, fg, permutations.foreground, n_fg),
        within(background, bg, permutations.background, n_bg),
        _scatter(a, cross, place < torch.minimum(n_fg, n_bg)),
    )


def all_pairs(
    foreground: Tensor, background: Tensor, has_foreground: Tensor, has_background: Tensor, kind: str
) -> PairWeights:
    """Every other video of the batch that has the embedding, averaged. Arguments as `random_pairs`."""
    other = ~torch.eye(foreground.shape[0], dtype=torch.bool, device=foreground.device)

    def mean(values: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        counted = other & rows[:, None] & columns
        return torch.where(counted, values, 0).sum(1) / counted.sum(1).clamp(min=1)

    def table(a: Tensor, b: Tensor) -> Tensor:
        return cosine(a[:, None], b[None], kind)

    return PairWeights(
        mean(1 - table(foreground, foreground), has_foreground, has_foreground),
        mean(1 - table(background, background), has_background, has_background),
        mean(table(foreground, background).clamp(min=0), has_foreground, has_background),
    )
