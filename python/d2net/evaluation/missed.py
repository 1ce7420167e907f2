"""Instances that no detection finds, by their characteristics and the buckets of Alwassel et al. (ECCV 2018)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from d2net.evaluation.matching import Spans

_SIZES = ("XS", "S", "M", "L", "XL")
_INF = float("inf")
# Upper ends, included; a bucket begins where the one before ends.
BUCKETS = {
    "activitynet": {
        "coverage": (0.2, 0.4, 0.6, 0.8, _INF),
        "length": (30.0, 60.0, 120.0, 180.0, _INF),
        "instances": (1.0, 4.0, 8.0, _INF),
    },
    "thumos14": {
        "coverage": (0.02, 0.04, 0.06, 0.08, _INF),
        "length": (3.0, 6.0, 12.0, 18.0, _INF),
        "instances": (1.0, 40.0, 80.0, _INF),
    },
}
CHARACTERISTICS = ("coverage", "length", "instances")


class Bucket(NamedTuple):
    """above < value <= upto (the first holds everything up to it); instances in it, and those missed at each IoU."""

    name: str
    above: float
    upto: float
    instances: int
    missed: list[int]


def characteristics(instances: Spans, durations: np.ndarray) -> dict[str, np.ndarray]:
    """Of each instance, (n,): length in seconds, its share of the video (NaN where the duration is unknown), and how
    many instances of its class its video has."""
    length = instances.end - instances.start
    with np.errstate(invalid="ignore"):
        coverage = np.where(np.isfinite(durations), length / durations, np.nan)
    pairs = np.stack([instances.video, instances.label])
    _, group, size = np.unique(pairs, axis=1, return_inverse=True, return_counts=True)
    return {"coverage": coverage, "length": length, "instances": size[group.reshape(-1)].astype(np.float64)}


def missed(partner: np.ndarray, instances: int) -> np.ndarray:
    """(T, n) bool: the instance that no detection takes; partner: (T, m) as `Scores` has it."""
    lost = np.ones((len(partner), instances), bool)
    rows, columns = np.nonzero(partner >= 0)
    lost[rows, partner[rows, columns]] = False
    return lost


def by_bucket(
    values: np.ndarray,
    lost: np.ndarray,
    upper: tuple[float, ...],
    summed: Callable[[np.ndarray], np.ndarray] = np.asarray,
) -> list[Bucket]:
    """Instances and missed ones in each bucket; values (n,), NaN in a last bucket "unknown" of its own.

    summed: adds up the counts of processes that have some of the instances each.
    """
    known = np.isfinite(values)
    place = np.where(known, np.searchsorted(upper[:-1], np.where(known, values, 0.0), "left"), len(upper))
    table = summed(np.array([[(place == k).sum(), *lost[:, place == k].sum(1)] for k in range(len(upper) + 1)]))
    out = []
    for k, end in enumerate((*upper, np.nan)):
        if k == len(upper) and not table[k, 0]:
            break
        above = 0.0 if k == 0 else upper[k - 1]
        name, above = ("unknown", np.nan) if k == len(upper) else (_SIZES[k], above)
        out.append(Bucket(name, above, float(end), int(table[k, 0]), table[k, 1:].tolist()))
    return out
