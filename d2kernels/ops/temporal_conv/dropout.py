"""The mask of dropout from a counter and a seed, so that the backward makes it again instead of keeping it.

Philox-4x32 with 7 rounds (Salmon et al., SC 2011): the seed is the key, and word j of counter row · ⌈c / 4⌉ + i is
that of channel 4i + j. An element stays where its word is at least p · 2³². Rows count from where the batch begins in
a larger one, so that the parts of a batch drop what the whole would.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from d2kernels.ops._library import watched

ROUNDS = 7
_CHUNK = 1 << 15  # counters at a time: what they make stays in a core's cache
_LOW = 0xFFFFFFFF
_first: Tensor | None = None  # no ContextVar: torch.compile cannot read one


class rows_from:
    """Batches within are the part of a larger one that begins at its row `first`, (1,) int64 on their device."""

    def __init__(self, first: Tensor | None):
        self._first = first

    def __enter__(self) -> None:
        global _first
        self._before, _first = _first, self._first

    def __exit__(self, *_: object) -> None:
        global _first
        _first = self._before


def placed(seed: Tensor, first: Tensor | None) -> Tensor:
    """(2,): the seed (1,) and the row of a larger batch that counting begins at, that of `rows_from` where None."""
    first = _first if first is None else first
    if first is None and (not seed.is_cpu or watched()):
        return F.pad(seed, (0, 1))
    return torch.cat([seed, _no_row() if first is None else first])


@lru_cache(maxsize=1)
def _no_row() -> Tensor:
    """(1,) of 0 on the CPU: with it a seed is placed in half the time of padding."""
    with torch.inference_mode(False):
        return torch.zeros(1, dtype=torch.int64, device="cpu")


def threshold(p: float) -> int:
    """The least word that stays."""
    return min(round(p * 2.0**32), _LOW)


def philox(counter: Tensor, seed: Tensor, rounds: int = ROUNDS) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Four words of 32 bits, as int64, for each int64 counter; `seed` is one int64 number."""
    c0, c1, c2, c3 = counter & _LOW, counter >> 32 & _LOW, torch.zeros_like(counter), torch.zeros_like(counter)
    k0, k1 = seed & _LOW, seed >> 32 & _LOW
    for _ in range(rounds):
        a, b = c0 * 0xD2511F53, c2 * 0xCD9E8D57  # wraps at 64 bits, as an unsigned product would
        c0, c1, c2, c3 = (b >> 32 & _LOW) ^ c1 ^ k0, b & _LOW, (a >> 32 & _LOW) ^ c3 ^ k1, a & _LOW
        k0, k1 = (k0 + 0x9E3779B9) & _LOW, (k1 + 0xBB67AE85) & _LOW
    return c0, c1, c2, c3


def keep(seed: Tensor, rows: int, channels: int, p: float) -> Tensor:
    """(rows, channels) bool; seed: (1,), or (2,) of `placed`."""
    blocks = (channels + 3) // 4
    least, parts = threshold(p), []
    number, first = seed[:1], seed[1:].sum()
    for counter in torch.arange(rows * blocks, device=seed.device).split(_CHUNK):
        parts.append(torch.stack([word >= least for word in philox(counter + first * blocks, number)], 1))
    words = torch.cat(parts) if parts else torch.zeros((0, 4), dtype=torch.bool, device=seed.device)
    return words.view(rows, 4 * blocks)[:, :channels]


def drop(x: Tensor, p: float, seed: Tensor | None) -> Tensor:
    """x / (1 − p) where `keep`, else zero; x itself where p is 0."""
    if p == 0:
        return x
    assert seed is not None
    rows, channels = x.shape
    return torch.where(keep(seed, rows, channels, p), x * (1 / (1 - p)), 0)
