"""Cross-fitted search: what is reported was chosen without the videos that it is measured on."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from d2net.evaluation.matching import Spans
from d2net.localization.tune_scoring import Metric, joined, of_videos, ranked, repeated
from d2net.localization.tune_space import Draw, neighbour, random_decoder
from d2net.sections import LocalizeConfig

GOOD = 6  # decoders whose neighbours are tried
RANDOM = 0.5  # of the settings; the rest are neighbours
DRAWS = 300
FEWEST = 4  # groups that an interval can be made of
LEVEL = 0.9  # of the interval: a gain of 0 lies below its lower end in one case of twenty
Z = 1.645  # the normal distribution's quantile of that


@dataclass(frozen=True)
class Outcome:
    """What the search found; every score is a fraction.

    Args:
        best: the decoder chosen on all videos; fitted: its score there, and present: the present decoder's.
        gain: over the present decoder, where each video is decoded as was best on the other folds.
        low, high: its bootstrap interval over groups of videos, widened for few groups as Student's t is; error: its
            standard error.
        tried: settings; seconds: of search and interval.
    """

    best: LocalizeConfig
    fitted: float
    present: float
    gain: float
    low: float
    high: float
    error: float
    videos: int
    groups: int
    folds: int
    tried: int
    seconds: float

    @property
    def accepted(self) -> bool:
        """Whether the gain is beyond its interval; of fewer than FEWEST groups none is."""
        return self.low > 0 and self.groups >= FEWEST

    def needed(self, gain: float) -> int:
        """Videos at which a gain of this size would be Z standard errors."""
        least = max(self.videos + 1, -(-FEWEST * self.videos // self.groups))
        return max(least, int(np.ceil(self.videos * (Z * self.error / gain) ** 2)))


def folds_of(groups: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    """(n,) the fold of each video; a group's videos stay together, and folds have nearly the same number of groups."""
    names = np.unique(groups)
    order = rng.permutation(len(names))
    fold = np.empty(len(names), np.int64)
    fold[order] = np.arange(len(names)) % min(most, len(names))
    return fold[np.searchsorted(names, groups)]


class _Ranking:
    """The decoders that are best on some of the videos."""

    def __init__(self, chosen: np.ndarray, truth: Spans, metric: Metric):
        self.chosen, self.truth, self.metric = chosen, of_videos(truth, chosen), metric
        self.best: list[tuple[float, LocalizeConfig]] = []

    def add(self, config: LocalizeConfig, found: Spans) -> float:
        value = self.metric(of_videos(found, self.chosen), self.truth)
        self.best.append((value, config))
        self.best.sort(key=lambda pair: -pair[0])
        del self.best[GOOD:]
        return value


def search(
    decode: Callable[[LocalizeConfig], Spans],
    truth: Spans,
    metric: Metric,
    present: LocalizeConfig,
    fields: dict[str, Draw],
    groups: np.ndarray,
    *,
    settings: int = 2000,
    folds: int = 5,
    seed: int = 0,
    seconds: float = float("inf"),
    step: Callable[[int], object] = lambda n: None,
) -> Outcome:
    """Tries `settings` decoders.

    Half are drawn at random and scored on all videos and on each fold's complement; the rest are neighbours of the
    best, those of a complement scored on it alone: no fold has a say in the decoder that it judges.

    Args:
        truth: of videos 0 .. n - 1; groups: (n,) int, which videos belong together.
        seconds: ends the search earlier; step: called with the number of settings tried since.
    """
    rng = np.random.default_rng([seed, 7])
    began = time.perf_counter()
    n = len(groups)
    fold = folds_of(groups, folds, rng)
    count = int(fold.max()) + 1
    everything = np.ones(n, bool)
    rankings = [_Ranking(fold != k, truth, metric) for k in range(count)]
    whole = _Ranking(everything, truth, metric)
    tried = 0

    def time_left(share: float) -> bool:
        return time.perf_counter() - began < seconds * share

    of_present = decode(present)
    base = whole.add(present, of_present)
    for ranking in rankings:
        ranking.add(present, of_present)
    for _ in range(max(1, int(RANDOM * settings))):
        config = random_decoder(present, fields, rng)
        found = decode(config)
        for ranking in (whole, *rankings):
            ranking.add(config, found)
        tried += 1
        step(1)
        if not time_left(RANDOM):
            break
    turns = 0
    while tried < settings and time_left(1.0):
        ranking = (whole, *rankings)[turns % (count + 1)]
        config = neighbour([c for _, c in ranking.best], fields, rng)
        ranking.add(config, decode(config))
        turns, tried = turns + 1, tried + 1
        step(1)
    fitted, best = whole.best[0]
    chosen = [decode(ranking.best[0][1]) for ranking in rankings]
    gain, draws = _gains(chosen, of_present, truth, metric, fold, groups, rng)
    tails = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    members = len(np.unique(groups))
    # Student's t of as many groups, to first order, over the normal quantile; and the bootstrap's missing n / (n - 1).
    widen = (1 + (Z**2 + 1) / (4 * (members - 1))) * np.sqrt(members / (members - 1))
    low, high = gain + widen * (tails - gain)
    return Outcome(
        best, fitted, base, gain, float(low), float(high), float(widen * draws.std()), n, members, count, tried,
        time.perf_counter() - began,
    )  # fmt: skip


def _gains(
    chosen: list[Spans],
    present: Spans,
    truth: Spans,
    metric: Metric,
    fold: np.ndarray,
    groups: np.ndarray,
    rng: np.random.Generator,
) -> tuple[float, np.ndarray]:
    """The gain over the present decoder of each fold's videos by that fold's decoder, all folds scored together, and
    DRAWS bootstrap draws of it, which take as many groups, with replacement."""
    fitted = joined([of_videos(ranked(found), fold == k) for k, found in enumerate(chosen)])

    def gain(videos: np.ndarray) -> float:
        own = repeated(truth, videos)
        return metric(repeated(fitted, videos), own) - metric(repeated(present, videos), own)

    members = [np.flatnonzero(groups == g) for g in np.unique(groups)]
    draws = [
        gain(np.concatenate([members[i] for i in rng.integers(len(members), size=len(members))])) for _ in range(DRAWS)
    ]
    return gain(np.arange(len(groups))), np.array(draws)
