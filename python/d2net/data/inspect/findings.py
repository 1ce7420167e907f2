"""What inspection has to say: errors, warnings and notes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from d2net.data.files import some

Level = Literal["error", "warning", "note"]
LISTED = 20


@dataclass(frozen=True)
class Finding:
    """One line. kind: a fixed word for programs; count: how many; names: the first of them."""

    level: Level
    kind: str
    text: str
    count: int = 1
    names: tuple[str, ...] = field(default=())

    def tree(self) -> dict[str, Any]:
        return {**asdict(self), "names": list(self.names)}


def listed(
    level: Level, kind: str, what: str, names: Sequence[str], remedy: str = "", count: int | None = None
) -> list[Finding]:
    """`N WHAT: 'a', 'b' and 3 more; REMEDY`, or nothing where there are no names. count: N, where names are a part."""
    if not names:
        return []
    count = len(names) if count is None else count
    more = f" and {count - len(names[:3])} more" if count > len(names[:3]) else ""
    text = f"{count} {what}: {some(names[:3])}{more}" + (f"; {remedy}" if remedy else "")
    return [Finding(level, kind, text, count, tuple(names[:LISTED]))]


def spread(values: Sequence[float] | np.ndarray) -> dict[str, float] | None:
    """Least, quartiles, tenth and ninetieth percentile, greatest, mean and sum; None of no values."""
    if not len(values):
        return None
    array = np.asarray(values, np.float64)
    names = ("min", "p10", "p25", "median", "p75", "p90", "max")
    found = dict(zip(names, np.percentile(array, [0, 10, 25, 50, 75, 90, 100]).tolist(), strict=True))
    return found | {"mean": float(array.mean()), "sum": float(array.sum())}
