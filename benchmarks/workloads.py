"""The shapes that benchmarks run on; data is random, never zeros, and seeded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

import d2kernels as d2k

# Snippets of THUMOS14's videos at these quantiles, geometric between them: 43 % of a cropped, padded batch is real.
QUANTILES = (0.0, 0.05, 0.5, 0.95, 1.0)
SNIPPETS = (20, 48, 235, 1094, 2202)
CROP = 750


def thumos_lengths(n: int, crop: int | None = None) -> list[int]:
    """n lengths at evenly spaced quantiles, in a fixed shuffled order."""
    lengths = np.exp(np.interp((np.arange(n) + 0.5) / n, QUANTILES, np.log(SNIPPETS))).round().astype(int)
    if crop is not None:
        lengths = lengths.clip(max=crop)
    return np.random.default_rng(0).permutation(lengths).tolist()


@dataclass(frozen=True)
class Workload:
    """A batch: lengths in snippets, width d in `groups` streams, C classes, and the convolutions' kernel."""

    name: str
    lengths: tuple[int, ...]
    classes: int = 20
    width: int = 2048
    groups: int = 2
    kernel: int = 3
    dilation: int = 1

    @property
    def total(self) -> int:
        return sum(self.lengths)

    @property
    def longest(self) -> int:
        return max(self.lengths, default=0)

    @property
    def embedding(self) -> int:
        return self.width // self.groups

    def offsets(self, device: torch.device) -> Tensor:
        return torch.tensor([0, *np.cumsum(self.lengths)], dtype=torch.int64, device=device)

    def mask(self, device: torch.device) -> Tensor:
        """(n, longest) bool."""
        lengths = torch.tensor(self.lengths, device=device)
        return torch.arange(self.longest, device=device) < lengths[:, None]

    def ragged(self, values: Tensor) -> d2k.Ragged:
        return d2k.Ragged(values, self.offsets(values.device), max_length=self.longest)

    def gapped(self, values: Tensor, gap: int) -> d2k.Ragged:
        """(total, ...) packed rows with `gap` zero rows before, between and after the sequences."""
        return d2k.Ragged.pack(list(values.split(self.lengths)), gap=gap)

    def padded(self, values: Tensor) -> Tensor:
        """(total, ...) packed rows as a dense (n, longest, ...) batch, zero outside."""
        out = values.new_zeros((len(self.lengths), self.longest, *values.shape[1:]))
        out[self.mask(values.device)] = values
        return out

    def packed(self, dense: Tensor) -> Tensor:
        return dense[self.mask(dense.device)]


FULL = Workload("Full", (CROP,) * 10)
THUMOS = Workload("THUMOS", tuple(thumos_lengths(10, CROP)))
ACTIVITYNET = Workload("ActivityNet", (200,) * 10, classes=100, kernel=5, dilation=2)
HAPT = Workload("HAPT", tuple(np.random.default_rng(1).integers(60, 200, 20).tolist()), classes=12, width=128)
LARGE = Workload("Large", (CROP,) * 256)
BATCHES = (FULL, THUMOS, ACTIVITYNET)


def random(*shape: int, seed: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Uniform in (0, 1), the same numbers on every device before rounding to dtype."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, generator=generator).to(device, dtype)


def ranked(w: Workload, classes: int, seed: int, device: torch.device) -> Tensor:
    """(total, C) float32 in (0, 1) in random order, without ties within a sequence and class."""
    generator = torch.Generator(device).manual_seed(seed)
    parts = [torch.rand(s, classes, generator=generator, device=device).argsort(0) for s in w.lengths]
    return torch.cat([(part.float() + 0.5) / len(part) for part in parts])


def normal(*shape: int, seed: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to(device, dtype)


def smooth_activations(total: int, classes: int, seed: int = 0) -> Tensor:
    """(total, C) float32 in (0, 1) that rise and fall over some ten snippets, as a trained network's do."""
    noise = torch.randn(classes, total + 8, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.avg_pool1d(noise, 9, 1).mul(3).sigmoid().t().contiguous()


def class_mask(n: int, classes: int, chosen: int) -> Tensor:
    """(n, C) bool with `chosen` classes of each video."""
    order = torch.rand(n, classes, generator=torch.Generator().manual_seed(1)).argsort(1)
    return order < chosen
