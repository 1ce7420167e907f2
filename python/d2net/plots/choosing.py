"""Which videos, classes and detections a picture has room for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from d2net.data.files import DataError, some
from d2net.data.names import aliases, hint

MOST_CLASSES = 6


def chosen_videos(wanted: Sequence[str], there: Mapping[str, object] | Sequence[str], source: str) -> list[str]:
    """The names as `there` has them; spellings that match one to one are taken for each other.

    Raises:
        DataError: a video that is not there, with the nearest name.
    """
    alias = aliases(wanted, there)
    names = [alias.get(v, v) for v in wanted]
    if missing := [v for v in names if v not in there]:
        raise DataError(
            f"{source}: no video {missing[0]!r}, and no run's folder of that name, among {len(there)} videos "
            f"({some(list(there))}){hint(missing, list(there))}"
        )
    return list(dict.fromkeys(names))


def chosen_classes(wanted: Sequence[str], there: Sequence[str]) -> list[str]:
    """`wanted`, each of which must be there.

    Raises:
        DataError: a class that is not, with the nearest name.
    """
    if missing := [c for c in wanted if c not in there]:
        raise DataError(
            f"--classes: no class {missing[0]!r} among {len(there)} ({some(there)}){hint(missing, list(there))}"
        )
    return list(dict.fromkeys(wanted))


def classes_that_matter(
    labels: Sequence[str], scores: Sequence[Mapping[str, float]], peaks: Sequence[Mapping[str, float]],
    most: int = MOST_CLASSES,
) -> list[str]:  # fmt: skip
    """Those that a video has, then those that are detected in it, the surest first; else the most active.

    Args:
        labels: of the ground truth. scores: of each run, {class: its best detection}; peaks: likewise {class: max T}.
    """

    def rising(runs: Sequence[Mapping[str, float]]) -> list[str]:
        best: dict[str, float] = {}
        for run in runs:
            for c, value in run.items():
                best[c] = max(value, best.get(c, -np.inf))
        return sorted(best, key=lambda c: -best[c])

    found = list(dict.fromkeys([*labels, *rising(scores)])) or rising(peaks)[:3]
    return found[:most]


def thinned(values: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Means, least and largest values of runs of `size` neighbours, and that size, so that at most `most` are left.

    Args:
        values: (s, k), s of at least 1.
    """
    size = -(-len(values) // most)
    at = np.arange(0, len(values), size)
    count = np.diff([*at, len(values)])[:, None]
    return (
        np.add.reduceat(values, at) / count,
        np.minimum.reduceat(values, at),
        np.maximum.reduceat(values, at),
        size,
    )
