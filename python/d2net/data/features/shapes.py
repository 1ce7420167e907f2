"""What the shapes of arrays mean: rows and width, batch axes, ten crops, and arrays that are turned."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, NamedTuple

from d2net.data.files import DataError


class FeatureError(DataError):
    """Features that cannot be used; names the file or video, the value and what to do."""


class LayoutWarning(UserWarning):
    """Arrays that are not (snippets, width) and what was made of them."""


CROPS = 10
Crops = Literal["mean", "first"]
Axis = Literal["rows", "transposed"]


class Arranged(NamedTuple):
    """(s, d) of each video, whether the arrays are (d, s), which are ten crops, and what is to be said."""

    shapes: dict[str, tuple[int, ...]]
    turned: bool
    crops: frozenset[str]
    notes: list[str]


# What arrays are taken for while a store is made; None: told from their shapes.
_axis: ContextVar[Axis | None] = ContextVar("axis", default=None)


@contextmanager
def taken_as(axis: Axis | None) -> Iterator[None]:
    """Stores made in the block take arrays for (snippets, width), `rows`, or (width, snippets), `transposed`."""
    token = _axis.set(axis)
    try:
        yield
    finally:
        _axis.reset(token)


def arrange(held: Mapping[str, tuple[int, ...]]) -> Arranged:
    """Batch axes (1, s, d) and ten crops (s, 10, d) as (s, d); (d, s) where that is said or the only reading.

    Unless said, arrays are turned only where their rows are equally many and their widths vary, which no network could
    take.
    """
    axis = _axis.get()
    shapes: dict[str, tuple[int, ...]] = {}
    notes = []
    deep = {n: shape for n, shape in held.items() if len(shape) == 3}
    # (1, 10, d) is one snippet where all are ten crops, and not all have a first axis of 1.
    all_crops = all(shape[1] == CROPS for shape in deep.values()) and any(shape[0] != 1 for shape in deep.values())
    batch = [n for n, shape in deep.items() if shape[0] == 1 and not all_crops]
    crops = [n for n, shape in deep.items() if shape[1] == CROPS and n not in set(batch)]
    shapes = dict(held) | {n: held[n][1:] for n in batch} | {n: (held[n][0], held[n][2]) for n in crops}
    if crops:
        notes.append(f"{len(crops)} arrays are (snippets, {CROPS} crops, width), such as {crops[0]!r}")
    flat = [shape for shape in shapes.values() if len(shape) == 2]
    widths = Counter(shape[1] for shape in flat)
    varied = len(held) > 1 and max(widths.values(), default=0) <= len(held) / 2
    turned = (
        axis is None
        and varied
        and len(flat) == len(held)
        and len({shape[0] for shape in flat}) == 1
        and not batch
        and not crops
    )
    if axis == "transposed":
        if crops:
            raise FeatureError(f"layout transposed: {crops[0]!r} is {held[crops[0]]}, ten crops; transpose it first")
        return Arranged({n: shape[::-1] for n, shape in shapes.items()}, True, frozenset(), notes)
    if turned:
        shapes = {n: shape[::-1] for n, shape in shapes.items()}
        notes.append(f"all {len(held)} arrays have {flat[0][0]} rows and differ in width: read as (width, snippets)")
    return Arranged(shapes, turned, frozenset(crops), notes)
