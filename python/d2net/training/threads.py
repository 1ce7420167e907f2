"""How many threads a training takes on the CPU."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from d2net.config import Config
from d2net.data.features import FeatureStore

# Waking a second thread for each of a step's operations costs as much as it saves on this much work, 1 to 2 ms.
NARROW = 0.05e9


def step_work(config: Config, store: FeatureStore, names: Sequence[str], classes: int, streams: int) -> float:
    """Floating-point operations of a step's convolutions, forward and backward, on an average batch."""
    model, train = config.model, config.train
    longest = train.max_snippets or max(store.lengths.values())
    lengths = [min(store.lengths[v], longest) for v in names]
    rows = train.batch_size * sum(lengths) / max(1, len(lengths))
    hidden = 2 * 2 * model.kernel_size * store.width**2 / streams
    classifier = 2 * model.classifier_kernel_size * store.width * classes
    return 3 * rows * (hidden + classifier)


def training_threads(config: Config, store: FeatureStore, names: Sequence[str], classes: int, streams: int) -> int:
    """One for a narrow network, else torch's number, which is the user's where OMP_NUM_THREADS is set."""
    if "OMP_NUM_THREADS" in os.environ or step_work(config, store, names, classes, streams) >= NARROW:
        return torch.get_num_threads()
    return 1


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Torch and our kernels take `count` threads within."""
    before = torch.get_num_threads()
    if count == before:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
