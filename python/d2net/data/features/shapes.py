"""What the shapes of arrays mean: rows and width, batch axes, ten crops, and arrays that are turned."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, NamedTuple

from d2net.data.features.headers import Headers
from d2net.data.files import DataError


class FeatureError(DataError):
    """Features that cannot be used; names the file or video, the value and what to do."""


class LayoutWarning(UserWarning):
    """Arrays that are not (snippets, width) and what was made of them."""


CROPS = 10
Crops = Literal["mean", "first"]
Axis = Literal["rows", "transposed"]


class Arranged(NamedTuple):
    """(s, d) of each kind of array, whether they are (d, s), which kinds are ten crops, and what is to be said."""

    shapes: list[tuple[int, ...]]
    turned: bool
    crops: frozenset[int]
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


def arrange(headers: Headers) -> Arranged:
    """Batch axes (1, s, d) and ten crops (s, 10, d) as (s, d); (d, s) where that is said or the only reading.

    Unless said, arrays are turned only where their rows are equally many and their widths vary, which no network could
    take.
    """
    axis = _axis.get()
    held, counts, total = [shape for shape, _ in headers.kinds], headers.counts(), len(headers.names)
    notes = []
    deep = {k: shape for k, shape in enumerate(held) if len(shape) == 3}
    # (1, 10, d) is one snippet where all are ten crops, and not all have a first axis of 1.
    all_crops = all(shape[1] == CROPS for shape in deep.values()) and any(shape[0] != 1 for shape in deep.values())
    batch = {k for k, shape in deep.items() if shape[0] == 1 and not all_crops}
    crops = frozenset(k for k, shape in deep.items() if shape[1] == CROPS and k not in batch)
    shapes = [x[1:] if k in batch else (x[0], x[2]) if k in crops else x for k, x in enumerate(held)]
    if crops:
        many = sum(counts[k] for k in crops)
        notes.append(f"{many} arrays are (snippets, {CROPS} crops, width), such as {headers.first(crops)!r}")
    flat = all(len(shape) == 2 for shape in shapes)
    widths: Counter[int] = Counter()
    for shape, count in zip(shapes, counts, strict=True):
        if len(shape) == 2:
            widths[shape[1]] += count
    varied = total > 1 and max(widths.values(), default=0) <= total / 2
    turned = axis is None and varied and flat and len({shape[0] for shape in shapes}) == 1 and not deep
    if axis == "transposed":
        if crops:
            first = headers.first(crops)
            shape = held[headers.code[headers.place[first]]]
            raise FeatureError(f"layout transposed: {first!r} is {shape}, ten crops; transpose it first")
        return Arranged([shape[::-1] for shape in shapes], True, frozenset(), notes)
    if turned:
        notes.append(f"all {total} arrays have {shapes[0][0]} rows and differ in width: read as (width, snippets)")
        shapes = [shape[::-1] for shape in shapes]
    return Arranged(shapes, turned, crops, notes)
