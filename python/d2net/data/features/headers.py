"""Shapes and types of many arrays by name, in columns: a million arrays are of a few thousand shapes."""

from __future__ import annotations

from collections.abc import Callable, Collection, ItemsView, Iterator, Mapping, Sequence, ValuesView
from typing import TypeVar

import numpy as np

T = TypeVar("T")
Shape = tuple[tuple[int, ...], np.dtype]


class Headers:
    """Which of a few kinds each of n arrays is.

    names: n of them, sorted; code: (n,) int32, the place in `kinds` of each; kinds: shapes and types.
    """

    def __init__(self, names: list[str], code: np.ndarray, kinds: Sequence[Shape]):
        self.names, self.code, self.kinds = names, code, list(kinds)
        self.place = dict(zip(names, range(len(names)), strict=True))

    @classmethod
    def of(cls, shapes: Mapping[str, Shape]) -> Headers:
        names = sorted(shapes)
        codes: dict[Shape, int] = {}
        code = np.fromiter((codes.setdefault(shapes[n], len(codes)) for n in names), np.int32, len(names))
        return cls(names, code, list(codes))

    def counts(self) -> list[int]:
        """How many arrays are of each kind."""
        return np.bincount(self.code, minlength=len(self.kinds)).tolist()

    def first(self, kinds: Collection[int]) -> str:
        """The first name of one of these kinds, of which there must be one."""
        return self.names[int(np.isin(self.code, list(kinds)).argmax())]

    def column(self, of: Callable[[Shape], T]) -> Column[T]:
        """What `of` makes of each array's kind, by name."""
        return Column(self, [of(kind) for kind in self.kinds])


class Column(Mapping[str, T]):
    """A value for each array, by name, of which one is kept for each kind."""

    def __init__(self, headers: Headers, of_kind: Sequence[T]):
        self.headers, self.of_kind = headers, of_kind

    def __getitem__(self, name: str) -> T:
        return self.of_kind[self.headers.code.item(self.headers.place[name])]

    def __contains__(self, name: object) -> bool:
        return name in self.headers.place

    def __iter__(self) -> Iterator[str]:
        return iter(self.headers.names)

    def __len__(self) -> int:
        return len(self.headers.names)

    def values(self) -> ValuesView[T]:
        return _Values(self)

    def items(self) -> ItemsView[str, T]:
        return _Items(self)

    def each(self) -> Iterator[T]:
        return map(self.of_kind.__getitem__, self.headers.code.tolist())


class _Values(ValuesView):
    _mapping: Column

    def __iter__(self) -> Iterator:
        return self._mapping.each()


class _Items(ItemsView):
    _mapping: Column

    def __iter__(self) -> Iterator:
        return zip(self._mapping.headers.names, self._mapping.each(), strict=True)
