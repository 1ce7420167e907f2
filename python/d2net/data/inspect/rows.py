"""One pass over the features: sizes, odd rows, dead columns, copies, and how long rows stay alike."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np

from d2net.data.features.store import FeatureError, FeatureStore
from d2net.data.inspect.findings import LISTED, Finding, Level, listed, spread

LAGS = (1, 2, 4, 8, 16, 32, 64, 128)
_COLUMNS = 64  # that persistence is measured on
_ROWS = 65_536  # a chunk's


class RowFacts:
    """Sums over the videos that are `add`ed, one at a time; nothing of their arrays is kept."""

    def __init__(self, width: int):
        self.width, self.videos, self.snippets = width, 0, 0
        self.finite = 0  # rows
        self.odd: dict[str, int] = dict.fromkeys(_KINDS, 0)
        self.holding: dict[str, int] = dict.fromkeys(_KINDS, 0)  # videos
        self.where: dict[str, list[str]] = {kind: [] for kind in _KINDS}
        self.total = self.squares = 0.0
        self.largest = 0.0
        self.least, self.most = np.full(width, np.inf, np.float32), np.full(width, -np.inf, np.float32)
        self.products = np.zeros(len(LAGS) + 1)
        self.seen: dict[bytes, str] = {}
        self.copied, self.copies = 0, list[str]()
        self.damaged: list[str] = []

    def add(self, name: str, array: np.ndarray) -> None:
        """array: (s, d) as stored."""
        self.videos += 1
        self.snippets += len(array)
        digest = hashlib.blake2b(digest_size=16)
        counts = dict.fromkeys(_KINDS, 0)
        previous: np.ndarray | None = None
        for first in range(0, len(array), _ROWS):
            part = array[first : first + _ROWS]
            digest.update(np.ascontiguousarray(part).view(np.uint8).data)
            for kind, n in self._chunk(part, previous).items():
                counts[kind] += n
            previous = part[-1:]
        for kind, n in counts.items():
            self.odd[kind] += n
            self.holding[kind] += n > 0
            if n and len(self.where[kind]) < LISTED:
                self.where[kind].append(name)
        key = digest.digest() + str(array.shape).encode()
        first_name = self.seen.setdefault(key, name)
        if first_name != name:
            self.copied += 1
            if len(self.copies) < LISTED:
                self.copies.append(f"{name} = {first_name}")
        self._persistence(array)

    def _chunk(self, part: np.ndarray, previous: np.ndarray | None) -> dict[str, int]:
        x = part.astype(np.float32)
        finite = np.isfinite(x).all(1)
        bad = int(len(x) - finite.sum())
        nan = int(np.isnan(x[~finite]).any(1).sum()) if bad else 0
        good = x if not bad else x[finite]
        low, high = good.min(1, initial=np.inf), good.max(1, initial=-np.inf)
        zero = (low == 0) & (high == 0)
        constant = (low == high) & ~zero if self.width > 1 else np.zeros(len(good), bool)
        before = np.concatenate([previous.astype(np.float32), x[:-1]]) if previous is not None else x[:-1]
        after = x[-len(before) :] if len(before) else x[:0]
        same = (before == after).all(1) & ~((after == after[:, :1]).all(1))
        if len(good):
            self.finite += len(good)
            self.total += float(good.sum(dtype=np.float64))
            self.squares += float(np.einsum("ij,ij->", good, good, dtype=np.float64))
            self.largest = max(self.largest, float(max(-low.min(), high.max())))
            np.minimum(self.least, good.min(0), out=self.least)
            np.maximum(self.most, good.max(0), out=self.most)
        return {"NaN": nan, "infinite": bad - nan, "zero": int(zero.sum()), "constant": int(constant.sum()),
                "repeated": int(same.sum())}  # fmt: skip

    def _persistence(self, array: np.ndarray) -> None:
        """Adds the video's centred products at each lag, over some of the columns."""
        x = array[:100_000, :: -(-self.width // _COLUMNS)].astype(np.float32)
        if len(x) < 4 or not np.isfinite(x).all():
            return
        x = x - x.mean(0)
        scale = float(np.abs(x).max())
        if scale == 0:
            return
        x /= scale
        self.products[0] += 1
        power = float(np.einsum("ij,ij->", x, x)) / len(x)
        for i, lag in enumerate(LAGS, 1):
            # As many products at every lag: what lies past the end counts as no likeness.
            self.products[i] += float(np.einsum("ij,ij->", x[:-lag], x[lag:])) / len(x) / power if lag < len(x) else 0.0

    def persistence(self) -> float | None:
        """Snippets after which the rows' correlation has fallen to a half, None where no video is long enough."""
        if not self.products[0]:
            return None
        likeness = np.concatenate([[1.0], self.products[1:] / self.products[0]])
        lags = np.array([0, *LAGS], float)
        below = np.flatnonzero(likeness < 0.5)
        if not len(below):
            return float(lags[-1])
        i = int(below[0])
        share = (likeness[i - 1] - 0.5) / (likeness[i - 1] - likeness[i])
        return float(lags[i - 1] + share * (lags[i] - lags[i - 1]))

    def rms(self) -> float | None:
        """Root mean square of the finite rows' values."""
        return float(np.sqrt(self.squares / (self.finite * self.width))) if self.finite else None

    def constant_columns(self) -> int:
        return int((self.least == self.most).sum())

    def tree(self) -> dict[str, Any]:
        """The sums as plain values."""
        entries = max(self.finite * self.width, 1)
        return {
            "snippets": self.snippets,
            "mean": self.total / entries,
            "rms": self.rms(),
            "largest": self.largest,
            "constant_columns": self.constant_columns(),
            "persistence_snippets": self.persistence(),
            "rows": dict(self.odd),
            "copies": self.copied,
        }

    def findings(self) -> list[Finding]:
        found = listed("error", "damaged", "videos cannot be read", self.damaged)
        for kind, (level, what, remedy) in _KINDS.items():
            if n := self.odd[kind]:
                what = f"videos hold {n} {what}"
                found += listed(level, f"{kind} rows", what, self.where[kind], remedy, self.holding[kind])
        what = "videos have the same features as another"
        found += listed("warning", "copies", what, self.copies, count=self.copied)
        if (dead := self.constant_columns()) and self.finite > 1:
            text = f"{dead} of {self.width} columns have one value in all rows; they say nothing"
            found.append(Finding("warning", "constant columns", text, dead))
        rms = self.rms()
        if rms is not None and not 0.01 <= rms <= 30:
            text = f"values have a root mean square of {rms:.3g}, and about 1 is expected: divide the features by it"
            found.append(Finding("warning", "scale", text))
        return found


_KINDS: dict[str, tuple[Level, str, str]] = {
    "NaN": ("error", "rows with NaN", "extract them again, or drop the videos"),
    "infinite": ("error", "rows with infinities", "extract them again; float16 ends at 65504"),
    "zero": ("warning", "rows of zeros", "an extractor that failed, or padding"),
    "constant": ("warning", "rows of one value", "an extractor that failed, or padding"),
    "repeated": ("warning", "rows that repeat the one before", "frozen frames, or padding by the last row"),
}


def read_rows(store: FeatureStore, names: list[str], step: Callable[[], object] | None = None) -> RowFacts:
    """One pass over these videos in their order; what cannot be read is kept by name. step: called after each."""
    facts = RowFacts(store.width)
    for name in names:
        try:
            facts.add(name, store.raw(name))
        except FeatureError as error:
            facts.damaged.append(f"{name}: {error}")
        if step is not None:
            step()
    return facts


def describe(store: FeatureStore, facts: RowFacts | None) -> dict[str, Any]:
    """The features' numbers as plain values."""
    return {
        "source": store.source,
        "layout": store.layout,
        "videos": len(store),
        "width": store.width,
        "lengths": spread(list(store.lengths.values())),
        **({} if facts is None else facts.tree()),
    }
