"""Small trainings and their batches, for tests of a step."""

from __future__ import annotations

import numpy as np
import torch

from d2net.config import make_config
from d2net.data.batch import pack
from d2net.data.rounding import rounded
from d2net.training.state import new_state

CLASSES, VIDEOS = 5, 6
SETTINGS = {
    "train.batch_size": VIDEOS, "loss.denoising_start": 3, "loss.denoising_every": 2, "loss.denoising_warmup": 40,
    "loss.pair_warmup": 40,
}  # fmt: skip


def prepared(recipe="release", width=64, device="cpu", **overrides):
    """A state whose L_D has begun by iteration 4, and its configuration."""
    config = make_config("thumos14", recipe, SETTINGS | overrides)
    state = new_state(config, width, 2, CLASSES, torch.device(device))
    with torch.no_grad():
        state.network.classifier.weight.mul_(30)
    return state, config


def batches(count, config, width=64, rounds=True, sizes=((8, 40), (40, 90))):
    """Of two numbers of rows in turn, where they are rounded."""
    random = np.random.default_rng(0)
    labels = np.eye(CLASSES, dtype=bool)[np.arange(VIDEOS) % CLASSES]
    made = []
    for i in range(count):
        lengths = random.integers(*sizes[i % 3 == 2], VIDEOS)
        arrays = [random.standard_normal((s, width)).astype(np.float32) for s in lengths]
        rows = int(lengths.sum()) + config.model.gap * (VIDEOS + 1)
        rows = rounded(rows) if rounds else rows
        made.append(pack(arrays, labels[random.permutation(VIDEOS)], config.model.gap, rows))
    return made
