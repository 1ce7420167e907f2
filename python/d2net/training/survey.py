"""What is odd about the training data, counted and named before training."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from d2net.config import Config
from d2net.data.annotations import Annotations
from d2net.data.dataset import TrainingBatches
from d2net.data.files import some
from d2net.data.inspect.labels import spelling
from d2net.training.errors import TrainingError


def usable_videos(batches: TrainingBatches, config: Config) -> np.ndarray:
    """(n,) bool: whether the video can enter a loss: with a label, and long enough after the loader's crop."""
    lengths = np.array([batches.features.store.lengths[v] for v in batches.names], np.int64)
    longest = config.train.max_snippets
    kept = lengths if longest is None else lengths.clip(max=longest)
    return (kept >= config.loss.min_snippets) & batches.labels.astype(bool).any(1)


def check_videos(batches: TrainingBatches, config: Config) -> None:
    """Raises TrainingError where no video can enter a loss."""
    if usable_videos(batches, config).any():
        return
    least, longest = config.loss.min_snippets, config.train.max_snippets
    if longest is not None and longest < least:
        why = f"train.max_snippets is {longest} and loss.min_snippets {least}; raise one or lower the other"
    else:
        lengths = [batches.features.store.lengths[v] for v in batches.names]
        why = (
            f"of {len(lengths)} videos none has a label and loss.min_snippets = {least} snippets (the longest has "
            f"{max(lengths, default=0)}); lower loss.min_snippets or take longer clips"
        )
    raise TrainingError(f"nothing could be trained: {why}")


def training_facts(batches: TrainingBatches, classes: Iterable[str], config: Config) -> list[str]:
    """Videos that enter no loss, and classes without a video."""
    labels, names = batches.labels.astype(bool), batches.names
    found = []
    if bare := [v for v, row in zip(names, labels, strict=True) if not row.any()]:
        found.append(f"{len(bare)} of {len(names)} training videos have no label and enter no loss: {some(bare)}")
    used = labels.any(0)
    if unused := [c for c, has in zip(classes, used, strict=True) if not has]:
        found.append(f"{len(unused)} of {len(used)} classes have no training video: {some(unused)}")
    able = usable_videos(batches, config)
    if short := [v for v, ok, row in zip(names, able, labels, strict=True) if row.any() and not ok]:
        found.append(
            f"{len(short)} of {len(names)} training videos are shorter than loss.min_snippets = "
            f"{config.loss.min_snippets} and enter no loss: {some(short)}"
        )
    return [*found, *_read_whole(batches, config)]


def _read_whole(batches: TrainingBatches, config: Config) -> list[str]:
    """Videos of which every crop costs more reading than it takes, where the cache cannot hold them all."""
    features, longest = batches.features, config.train.max_snippets
    store = features.store
    if longest is None or sum(map(features.size, batches.names)) <= features.room:
        return []
    whole = [v for v in batches.names if store.lengths[v] > longest and not store.reads_rows(v)]
    if not whole:
        return []
    times = sum(store.lengths[v] for v in whole) / (len(whole) * longest)
    return [
        f"{len(whole)} of {len(batches.names)} training videos are longer than train.max_snippets = {longest}, and "
        f"each crop reads all of one ({times:.1f} times as much), since {store.layout} holds them compressed, turned "
        "or as text and train.cache_gigabytes is too small for all: d2net convert writes .safetensors, of which "
        f"crops read their rows alone ({some(whole)})"
    ]


def annotation_facts(annotations: Annotations) -> list[str]:
    """Segments given twice, and names that look like one name in two spellings."""
    found = []
    twice = {v: n for v, x in annotations.videos.items() if (n := len(x.segments) - len(set(x.segments)))}
    if twice:
        found.append(f"{sum(twice.values())} segments are given twice, in {len(twice)} videos: {some(list(twice))}")
    return [*found, *(f.text for f in spelling(annotations))]
