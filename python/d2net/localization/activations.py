"""From features to activations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

import d2kernels as d2k
from d2kernels.nn import TemporalConv1d
from d2net.data.batch import pack
from d2net.methods.base import Network, Output, foreground_of
from d2net.methods.ensemble import Ensemble

SNIPPETS_AT_ONCE = 65_536
_BLOCK = 256  # windows begin and end at multiples: of few rows, or at other places, libraries add in another order
WINDOW = 16_384  # snippets of a long video that are read, and go through the network, at a time


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


def reach(network: Network | Ensemble) -> int:
    """Snippets to either side that T and λ' of a snippet may depend on: rows meet in temporal convolutions alone."""
    if isinstance(network, Ensemble):
        return max(reach(member) for member in network.members)
    layers = [m for m in network.modules() if isinstance(m, TemporalConv1d)]
    return sum(layer.dilation * (layer.weight.shape[2] // 2) for layer in layers)


def windowed_activations(
    network: Network | Ensemble,
    rows: Callable[[int, int], np.ndarray],
    length: int,
    precision: str = "fp32",
    window: int = WINDOW,
) -> Activations:
    """As `network_activations` of one video, of which `window` snippets and, beyond both ends, what convolutions reach
    are in memory at a time.

    Args:
        rows: (first, end) to (end - first, d).
    """
    beyond, parts = reach(network), []
    for first in range(0, length, window):
        end = min(first + window, length)
        low = max(0, (first - beyond) // _BLOCK * _BLOCK)
        high = min(length, -(-(end + beyond) // _BLOCK) * _BLOCK)
        a = network_activations(network, [rows(low, high)], precision)
        own = slice(first - low, end - low)
        parts.append((a.classes.values[own].clone(), a.foreground[own].clone()))
    classes, foreground = (torch.cat(column) for column in zip(*parts, strict=True))
    return Activations(d2k.Ragged.pack([classes]), foreground)
