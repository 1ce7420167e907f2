"""Which videos of a batch are compared with each other (Eq. 3)."""

from __future__ import annotations

import torch
from torch import Tensor

from d2kernels.ops.losses.reference import PairWeights, Permutations, all_pairs, permutations_of, random_pairs

__all__ = ["PairWeights", "Permutations", "all_pairs", "pair_keys", "random_pairs", "random_permutations"]


def pair_keys(n: int, device: torch.device, generator: torch.Generator | None = None) -> Tensor:
    """(4, n) random numbers, whose order within the batch's lists is that of `random_permutations`."""
    return torch.rand(4, n, generator=generator, device=device, dtype=torch.float32)


def random_permutations(
    has_foreground: Tensor, has_background: Tensor, generator: torch.Generator | None = None
) -> Permutations:
    """Uniform permutations of the two lists, drawn on the device without knowing their lengths on the host."""
    keys = pair_keys(has_foreground.shape[0], has_foreground.device, generator)
    return permutations_of(keys, has_foreground, has_background)
