"""Training batches: which videos, which crop. Batch i depends on the seed and i alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from d2net.data.batch import Batch, Whole, offsets_of, pack
from d2net.data.cache import CachedFeatures
from d2net.data.rounding import rounded
from d2net.sections import TrainConfig

if TYPE_CHECKING:
    from d2net.data.annotations import Annotations
    from d2net.data.features import FeatureStore


def shares(lengths: Sequence[int], ranks: int) -> list[int]:
    """How many videos each rank takes, in the batch's order and at least one each, so that the most rows that one has
    are as few as can be.

    Raises:
        ValueError: fewer videos than ranks.
    """
    if len(lengths) < ranks:
        raise ValueError(
            f"train.batch_size: {len(lengths)} videos cannot be shared by {ranks} processes; start at most "
            f"{len(lengths)}, or raise it"
        )

    def dealt(most: int) -> list[int]:
        counts, rows = [0], 0
        for i, n in enumerate(lengths):
            left = ranks - len(counts)
            if counts[-1] and left and (rows + n > most or len(lengths) - i == left):
                counts.append(0)
                rows = 0
            counts[-1] += 1
            rows += n
        return counts if rows <= most else []

    low, high = max(lengths), sum(lengths)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if dealt(middle) else (middle + 1, high)
    return dealt(low)


def spread(store: FeatureStore, names: Sequence[str], room: int, most: int = 16) -> list[str]:
    """The names where their features fit in `room` bytes as float32, else some of them, evenly spaced."""
    if sum(store.lengths[v] for v in names) * store.width * 4 <= room:
        return list(names)
    return [names[i] for i in dict.fromkeys(np.linspace(0, len(names) - 1, min(most, len(names))).astype(int))]


class TrainingBatches(Dataset):
    """Item i is iteration i's batch, i from 0.

    Args:
        store: feature arrays by video, or what of them another training has read; names: the training videos; labels:
            (n, C); gap: zero rows between videos.
        pairs: videos 2i and 2i + 1 of a batch share a class, for i below this; counts: (n, C), NaN where unknown.

    `rank` and `ranks` say whose share is read; by default all videos are. `rounds`: numbers of rows are rounded up, by
    zero rows behind the last ones.
    """

    rank, ranks = 0, 1
    rounds = False

    def __init__(
        self,
        store: FeatureStore | CachedFeatures,
        names: Sequence[str],
        labels: np.ndarray,
        config: TrainConfig,
        gap: int = 0,
        pairs: int = 0,
        counts: np.ndarray | None = None,
    ):
        read = isinstance(store, CachedFeatures)
        # Each reading process has a copy of its own.
        self.features = store if read else CachedFeatures(store, config.cache_gigabytes / max(1, config.workers))
        self.names, self.labels, self.config, self.gap = list(names), labels, config, gap
        self.pairs, self.counts = pairs, counts
        of_class = [np.flatnonzero(column) for column in labels.T] if pairs else []
        self._paired = [videos for videos in of_class if len(videos) > 1]

    def read_ahead(self) -> Iterator[tuple[str, np.ndarray]]:
        """Every video where all fit in the cache, so that a damaged one is an error before training, else some."""
        store = self.features.store
        for name in spread(store, self.names, self.features.room):
            # Workers would each get a copy of what is kept here.
            yield name, store[name] if self.config.workers else self.features[name]

    def videos(self, iteration: int) -> np.ndarray:
        """Indices of the batch's videos."""
        paired = self._pairs(iteration)
        drawn = self._drawn(iteration, self.config.batch_size - len(paired))
        return np.concatenate([paired, drawn]) if len(paired) else drawn

    def _pairs(self, iteration: int) -> np.ndarray:
        """(2 pairs,) two different videos of a class each, the class drawn among those that have two; none without."""
        if not self._paired:
            return np.zeros(0, np.int64)
        rng = np.random.default_rng([self.config.seed, 5, iteration])
        classes = rng.integers(len(self._paired), size=self.pairs)
        return np.concatenate([rng.choice(self._paired[c], 2, replace=False) for c in classes.tolist()])

    def _drawn(self, iteration: int, size: int) -> np.ndarray:
        """(size,) of all videos, as the configuration samples them."""
        n, seed = len(self.names), self.config.seed
        if self.config.sampling == "uniform":
            return np.random.default_rng([seed, 1, iteration]).integers(n, size=size)
        positions = np.arange(iteration * size, (iteration + 1) * size)
        orders = {e: np.random.default_rng([seed, 2, e]).permutation(n) for e in set((positions // n).tolist())}
        return np.array([orders[p // n][p % n] for p in positions.tolist()])

    def __getitem__(self, iteration: int) -> Batch:
        """The batch, or the rank's share of it."""
        return self._packed(*self.chosen(iteration))

    def whole(self, iteration: int) -> Batch:
        """The batch with all its videos."""
        videos = self.videos(iteration)
        crops = self._crops(videos, iteration)
        return self._packed(videos, crops, self._instances(videos, crops), None)

    def chosen(self, iteration: int) -> tuple[np.ndarray, list[tuple[int, int]], Tensor | None, Whole | None]:
        """The videos of the batch or of the rank's share of it, (start, end) of each one's rows, and `Batch`'s counts
        and whole."""
        videos = self.videos(iteration)
        crops = self._crops(videos, iteration)
        if self.ranks == 1:
            return videos, crops, self._instances(videos, crops), None
        lengths = np.array([end - start for start, end in crops])
        counts = shares(lengths.tolist(), self.ranks)
        first = sum(counts[: self.rank])
        own = slice(first, first + counts[self.rank])
        offsets, labels = offsets_of(lengths, self.gap), self.labels[videos].astype(bool)
        parts = offsets, lengths, labels, offsets[first : first + 1] - self.gap
        return videos[own], crops[own], None, Whole(*map(torch.from_numpy, parts), counts)

    def _packed(
        self, videos: np.ndarray, crops: Sequence[tuple[int, int]], counts: Tensor | None, whole: Whole | None
    ) -> Batch:
        rows = self.rows([end - start for start, end in crops])
        batch = pack(self._read(videos, crops), self.labels[videos], self.gap, rows)
        return batch._replace(counts=counts, whole=whole)

    def rows(self, lengths: Sequence[int]) -> int:
        """Of a batch of sequences of these lengths, zero rows included."""
        rows = sum(lengths) + self.gap * (len(lengths) + 1)
        return rounded(rows) if self.rounds else rows

    def _instances(self, videos: np.ndarray, crops: Sequence[tuple[int, int]]) -> Tensor | None:
        """(n, C) of what is known of the crops: one may have left instances out."""
        if self.counts is None:
            return None
        whole = np.array([end - start for start, end in crops]) == self._lengths(videos)
        return torch.from_numpy(np.where(whole[:, None], self.counts[videos], np.nan).astype(np.float32))

    def _lengths(self, videos: np.ndarray) -> list[int]:
        return [int(self.features.store.lengths[self.names[v]]) for v in videos]

    def _crops(self, videos: np.ndarray, iteration: int) -> list[tuple[int, int]]:
        """(start, end) of the rows that are taken of each video."""
        rng, longest = np.random.default_rng([self.config.seed, 3, iteration]), self.config.max_snippets
        crops = []
        for n in self._lengths(videos):
            start = 0
            if longest is not None and n > longest:
                start, n = int(rng.integers(n - longest + 1)), longest
            crops.append((start, start + n))
        return crops

    def _read(self, videos: np.ndarray, crops: Sequence[tuple[int, int]]) -> list[np.ndarray]:
        return [self.features.rows(self.names[v], start, end) for v, (start, end) in zip(videos, crops, strict=True)]

    def loader(
        self,
        first: int,
        last: int,
        pin: bool,
        prepare: Callable[[int], None] | None = None,
        source: Dataset | None = None,
    ) -> DataLoader:
        """Batches of iterations first..last-1, in order. prepare(number): called first in each reading process.

        source: has them in this one's place, without processes.
        """
        # A generator of its own: the loader draws from the global one, which dropout's exact resumption needs.
        return DataLoader(
            self if source is None else source,
            batch_size=None,
            sampler=range(first, last),
            num_workers=0 if source is not None else self.config.workers,
            pin_memory=pin,
            generator=torch.Generator(),
            worker_init_fn=prepare,
        )


def split_holdout(annotations: Annotations, names: Sequence[str], config: TrainConfig) -> tuple[list[str], list[str]]:
    """(training, held-out) names; groups that share the annotation field `holdout_by` stay together."""
    if config.holdout == 0:
        return list(names), []
    if config.holdout_by:
        missing = [v for v in names if config.holdout_by not in annotations.videos[v].info]
        if missing:
            raise ValueError(f"holdout_by: video {missing[0]!r} has no field {config.holdout_by!r} in its annotation")
    group = {v: str(annotations.videos[v].info[config.holdout_by]) if config.holdout_by else v for v in names}
    groups = sorted(set(group.values()))
    count = max(1, round(config.holdout * len(groups)))
    if count >= len(groups):
        raise ValueError(f"holdout: {config.holdout} of {len(groups)} groups leaves nothing to train on")
    out = set(np.random.default_rng([config.holdout_seed, 4]).permutation(groups)[:count].tolist())
    return [v for v in names if group[v] not in out], [v for v in names if group[v] in out]
