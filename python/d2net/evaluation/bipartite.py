"""Maximum matching of two sides by the pairs that may be matched."""

from __future__ import annotations

import numpy as np

FEW = 64  # pairs that are left for one that a round takes


def maximum_matching(i: np.ndarray, j: np.ndarray, n: int, m: int) -> np.ndarray:
    """As many of the pairs (i[k], j[k]) as can be without an i or a j used twice.

    Args:
        i, j: (e,) in 0 .. n - 1 and 0 .. m - 1, no pair twice.

    Returns:
        (m,) int64, the i of each j, or -1.
    """
    of_i, of_j = np.full(n, -1, np.int64), np.full(m, -1, np.int64)
    left = np.arange(len(i))
    while len(left):
        # Whoever has the fewest choices first (Karp and Sipser): what has one choice costs nobody.
        choices = np.minimum(np.bincount(i[left], minlength=n)[i[left]], np.bincount(j[left], minlength=m)[j[left]])
        left = left[np.lexsort((j[left], i[left], choices))]
        first = np.zeros(len(left), np.int64)
        for side in (i, j):
            first[np.unique(side[left], return_index=True)[1]] += 1
        taken = left[first == 2]  # the first pair is always one of them
        if len(taken) * FEW < len(left):  # in a crowd, one by one, and the rest by paths
            taken = left[_free_pairs(i[left], j[left])]
        of_i[i[taken]], of_j[j[taken]] = j[taken], i[taken]
        left = left[(of_i[i[left]] < 0) & (of_j[j[left]] < 0)]
    _augment(i, j, of_i, of_j)
    return of_j


def _free_pairs(i: np.ndarray, j: np.ndarray) -> list[int]:
    """Which pairs, in this order, have two sides that no earlier one has taken."""
    seen_i: set[int] = set()
    seen_j: set[int] = set()
    taken = []
    for k, (a, b) in enumerate(zip(i.tolist(), j.tolist(), strict=True)):
        if a not in seen_i and b not in seen_j:
            seen_i.add(a)
            seen_j.add(b)
            taken.append(k)
    return taken


def _augment(i: np.ndarray, j: np.ndarray, of_i: np.ndarray, of_j: np.ndarray) -> None:
    """Finds a longer matching from every j that is still free, by a path of alternating pairs."""
    by_j = np.argsort(j, kind="stable")
    bounds = np.searchsorted(j[by_j], np.arange(len(of_j) + 1))
    dead: set[int] = set()  # what a search without a path has reached, no later path leads through
    for root in np.flatnonzero((of_j < 0) & (np.diff(bounds) > 0)).tolist():
        came: dict[int, int] = {}
        queue, end = [root], -1
        while queue and end < 0:
            at = queue.pop()
            for k in i[by_j[bounds[at] : bounds[at + 1]]].tolist():
                if k in came or k in dead:
                    continue
                came[k] = at
                if of_i[k] < 0:
                    end = k
                    break
                queue.append(int(of_i[k]))
        if end < 0:
            dead |= came.keys()
        while end >= 0:
            at = came[end]
            of_i[end], of_j[at], end = at, end, int(of_j[at])
