"""From features to activations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

import d2kernels as d2k
from d2net.data.dataset import pack
from d2net.methods.base import Network, Output, foreground_of
from d2net.methods.ensemble import Ensemble

SNIPPETS_AT_ONCE = 65_536


class Activations(NamedTuple):
    """T (total, C) ragged in (0, 1), and λ' (total,)."""

    classes: d2k.Ragged
    foreground: Tensor


def batches_of(lengths: Sequence[int], budget: int = SNIPPETS_AT_ONCE) -> Iterator[slice]:
    """Consecutive runs of videos with at most `budget` snippets in all, or one longer video."""
    start = total = 0
    for i, s in enumerate(lengths):
        if i > start and total + s > budget:
            yield slice(start, i)
            start, total = i, 0
        total += s
    if start < len(lengths):
        yield slice(start, len(lengths))


@torch.no_grad()
def network_activations(
    network: Network | Ensemble, arrays: Sequence[np.ndarray], precision: str = "fp32"
) -> Activations:
    """T and λ' of a batch of (s_i, d) arrays, in evaluation mode."""
    if isinstance(network, Ensemble):
        parts = [network_activations(member, arrays, precision) for member in network.members]
        classes = torch.stack([p.classes.values for p in parts]).mean(0)
        return Activations(parts[0].classes.with_values(classes), torch.stack([p.foreground for p in parts]).mean(0))
    out = _output(network, arrays, precision)
    return Activations(out.activations.to(torch.float32), foreground_of(network, out))


@torch.no_grad()
def network_embeddings(network: Network, arrays: Sequence[np.ndarray], precision: str = "fp32") -> list[np.ndarray]:
    """Embeddings x (s_i, D) float32 of each of a batch of (s_i, d) arrays, in evaluation mode."""
    embeddings = _output(network, arrays, precision).embeddings.to(torch.float32)
    return [x.cpu().numpy() for x in embeddings.unpack()]


def _output(network: Network, arrays: Sequence[np.ndarray], precision: str) -> Output:
    device = next(network.parameters()).device
    features = pack(arrays, np.zeros((len(arrays), 1))).to(device).ragged()
    training = network.training
    network.eval()
    try:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            return network(features)
    finally:
        network.train(training)
