"""Feature arrays by video, read when asked for; never unpickles anything."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, Literal, NamedTuple

import numpy as np
from numpy.lib import format as npy

from d2net.data.features.index import forget
from d2net.data.files import DataError, reading, shown, some
from d2net.data.names import hint


class FeatureError(DataError):
    """Features that cannot be used; names the file or video, the value and what to do."""


class LayoutWarning(UserWarning):
    """Arrays that are not (snippets, width) and what was made of them."""


CROPS = 10
Crops = Literal["mean", "first"]
Axis = Literal["rows", "transposed"]


class _Rows(NamedTuple):
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


def _rows(held: Mapping[str, tuple[int, ...]]) -> _Rows:
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
        return _Rows({n: shape[::-1] for n, shape in shapes.items()}, True, frozenset(), notes)
    if turned:
        shapes = {n: shape[::-1] for n, shape in shapes.items()}
        notes.append(f"all {len(held)} arrays have {flat[0][0]} rows and differ in width: read as (width, snippets)")
    return _Rows(shapes, turned, frozenset(crops), notes)


class FeatureStore(ABC):
    """(s, d) arrays by video name, read when asked for.

    names: sorted; lengths: s of each video, known without reading the data; width: d, the same for all.
    layout: in words. notes: what was made of other shapes; crops: what of ten crops.
    stated: what the file says of its timing: fps, stride, snippet_frames or snippet_seconds.
    durations: seconds by video, of those that the file states. streams: rows of [first, end, name], or None.
    identity: the backbone and settings that `d2net extract` made them with, or None.
    precision: bfloat16 where all arrays are, which are read as float32.
    """

    stated: Mapping[str, float] = MappingProxyType({})
    durations: Mapping[str, float] = MappingProxyType({})
    streams: list[list[Any]] | None = None
    identity: dict[str, Any] | None = None
    layout = "arrays by video"
    precision: str | None = None

    def __init__(self, source: str, shapes: Mapping[str, tuple[tuple[int, ...], np.dtype]]):
        self.source = source
        if not shapes:
            raise FeatureError(f"{source}: no feature arrays in it")
        if (nameless := next((n for n in shapes if not n.strip()), None)) is not None:
            raise FeatureError(f"{source}: {nameless!r} is no name of a video")
        self.names = sorted(shapes)
        self.held = {name: shape for name, (shape, _) in shapes.items()}
        self.dtypes = {name: dtype for name, (_, dtype) in shapes.items()}
        rows = _rows(self.held)
        self.turned, self.ten_crops = rows.turned, rows.crops
        self.crops: Crops = "mean"
        self.notes = rows.notes
        first = self.names[0]
        for name in self.names:
            shape, dtype = rows.shapes[name], shapes[name][1]
            if dtype.kind == "O":
                raise FeatureError(f"{source}: {name!r} is an object array, a pickle; save plain arrays instead")
            if len(shape) != 2 or dtype.kind != "f":
                raise FeatureError(f"{source}: {name!r} must be float (snippets, width), got {dtype} {shape}")
            if shape[0] < 1:
                raise FeatureError(f"{source}: {name!r} has no rows; extract it again or drop the video")
            if shape[1] < 1:
                raise FeatureError(f"{source}: {name!r} has width 0; extract it again or drop the video")
            if shape[1] != (width := rows.shapes[first][1]):
                raise FeatureError(f"{source}: {name!r} has width {shape[1]}, but {first!r} has {width}")
        self.lengths = {name: rows.shapes[name][0] for name in self.names}
        self.width = rows.shapes[first][1]

    @abstractmethod
    def _read(self, name: str) -> np.ndarray: ...

    def __getitem__(self, name: str) -> np.ndarray:
        """(s, d) float16 or float32; NaN and infinities are an error that names the first row."""
        array = self.raw(name)
        with reading(self.source, f"a whole array of {name!r}", FeatureError):
            finite = np.isfinite(array).all(1)
            if not finite.all():
                row = int(np.flatnonzero(~finite)[0])
                raise FeatureError(f"{self.source}: {name!r} holds NaN or infinity in row {row}; extract it again")
        return array

    def raw(self, name: str) -> np.ndarray:
        """(s, d) float16 or float32, NaN and infinities as they are stored."""
        if name not in self.lengths:
            raise FeatureError(f"{self.source}: no features of video {name!r}")
        try:
            return self._checked(name)
        except FeatureError:
            # Kept headers that no longer hold must not outlive the error that they lead to.
            forget(self.source)
            raise

    def _checked(self, name: str) -> np.ndarray:
        with reading(self.source, f"a whole array of {name!r}", FeatureError):
            array = self._read(name)
            opened = self.held[name]
            if array.shape != opened or array.dtype.kind != "f":
                raise FeatureError(
                    f"{self.source}: {name!r} changed while it was in use: it was float {opened}, and is now "
                    f"{array.dtype} {array.shape}; put it back, or start again"
                )
            if array.ndim == 3:
                array = self._one_crop(array) if name in self.ten_crops else array[0]
            if self.turned:
                array = np.ascontiguousarray(array.T)
            if array.dtype not in (np.float16, np.float32):
                with np.errstate(over="ignore"):
                    array = array.astype(np.float32)
        return array

    def dtype(self, name: str) -> np.dtype:
        """Of `self[name]`, known without reading the data."""
        averaged = name in self.ten_crops and self.crops == "mean"
        half = self.dtypes[name] == np.float16 and not averaged
        return np.dtype(np.float16 if half else np.float32)

    def sources(self) -> list[Path]:
        """The files that are read."""
        return [Path(self.source)]

    def _one_crop(self, array: np.ndarray) -> np.ndarray:
        return array.mean(1, dtype=np.float32) if self.crops == "mean" else array[:, 0]

    def summary(self) -> str:
        """What was understood, in one line."""
        shortest, longest = min(self.lengths.values()), max(self.lengths.values())
        return f"{self.layout}: {len(self)} videos of width {self.width}, {shortest} to {longest} snippets"

    def __contains__(self, name: object) -> bool:
        return name in self.lengths

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def require(self, names: Sequence[str]) -> None:
        """Raises FeatureError unless every one of these videos has features."""
        missing = [n for n in names if n not in self.lengths]
        if missing:
            near = hint(missing, self.lengths)
            todo = "rename them to agree" if near else "extract them, or take these videos out of the subset"
            raise FeatureError(
                f"{self.source}: no features of {len(missing)} annotated videos: {some(missing)}{near}; {todo}"
            )


def header(file: IO[bytes], size: int) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype of a .npy of `size` bytes, without reading its data.

    Raises:
        ValueError: not a .npy, or one whose data are not of the size that it states.
    """
    read: Callable = npy.read_array_header_1_0 if npy.read_magic(file)[0] == 1 else npy.read_array_header_2_0
    shape, _, dtype = read(file)
    # An object array's size says nothing; the store refuses it by name.
    if dtype.kind != "O" and file.tell() + math.prod(shape) * dtype.itemsize != size:
        raise ValueError(f"it states {dtype} {shape}, which its {size} bytes are not")
    return shape, dtype


def check_streams(streams: Any, width: int) -> None:
    """Raises FeatureError unless the streams, rows of [first, end, name], are contiguous, as wide and cover `width`."""
    try:
        streams = [(int(first), int(end), str(name)) for first, end, name in streams]
    except (TypeError, ValueError, OverflowError) as error:
        raise FeatureError(f"streams must be rows of [first, end, name], got {shown(streams)}") from error
    at = 0
    for first, end, name in streams:
        if first != at or end <= first:
            raise FeatureError(f"streams: {name!r} covers [{first}, {end}), but must begin at {at}")
        at = end
    widths = {name: end - first for first, end, name in streams}
    if len(set(widths.values())) > 1:
        raise FeatureError(f"streams: widths must be equal, got {widths}")
    if at != width:
        raise FeatureError(f"streams: they cover {at} features, but the features have width {width}")
