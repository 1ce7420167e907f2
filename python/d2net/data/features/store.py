"""Feature arrays by video, read when asked for; never unpickles anything."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from d2net.data.features.headers import Column, Headers, Shape
from d2net.data.features.index import forget
from d2net.data.features.shapes import Crops, FeatureError, arrange
from d2net.data.files import reading, shown, some
from d2net.data.names import hint


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

    def __init__(self, source: str, shapes: Mapping[str, Shape] | Headers):
        """shapes: of the arrays as they are stored, by video."""
        self.source = source
        headers = shapes if isinstance(shapes, Headers) else Headers.of(shapes)
        if not headers.names:
            raise FeatureError(f"{source}: no feature arrays in it")
        if (nameless := next((n for n in headers.names if not n.strip()), None)) is not None:
            raise FeatureError(f"{source}: {nameless!r} is no name of a video")
        self.headers, self.names = headers, headers.names
        self.held: Column[tuple[int, ...]] = headers.column(lambda kind: kind[0])
        self.dtypes: Column[np.dtype] = headers.column(lambda kind: kind[1])
        rows = arrange(headers)
        self.turned = rows.turned
        self.is_crops = Column(headers, [k in rows.crops for k in range(len(headers.kinds))])
        self.crops: Crops = "mean"
        self.notes = rows.notes
        self.width = self._check(rows.shapes)
        self.lengths: Column[int] = Column(headers, [shape[0] for shape in rows.shapes])

    def _check(self, shapes: Sequence[tuple[int, ...]]) -> int:
        """The width of all; raises FeatureError, which names the first array that is no (s, d) of it."""
        first = shapes[self.headers.code.item(0)]
        width = first[1] if len(first) == 2 else 0
        wrong = {
            k: text
            for k, (shape, (_, dtype)) in enumerate(zip(shapes, self.headers.kinds, strict=True))
            if (text := _fault(shape, dtype, width, self.names[0]))
        }
        if wrong:
            name = self.headers.first(wrong)
            raise FeatureError(f"{self.source}: {name!r} {wrong[self.headers.code.item(self.headers.place[name])]}")
        return width

    @abstractmethod
    def _read(self, name: str) -> np.ndarray: ...

    def _read_rows(self, name: str, first: int, end: int) -> np.ndarray | None:
        """Rows of an array as it is stored, without a batch axis; None where they cannot be read alone."""
        return None

    def reads_rows(self, name: str) -> bool:
        """Whether `rows` reads no more than it gives; else it reads the whole array."""
        return False

    def __getitem__(self, name: str) -> np.ndarray:
        """(s, d) float16 or float32; NaN and infinities are an error that names the first row."""
        return self._finite(name, self.raw(name), 0)

    def rows(self, name: str, first: int, end: int) -> np.ndarray:
        """(end - first, d): `self[name][first:end]`, of which no other row is read, or checked, where `reads_rows`."""
        length = self.raw_length(name)
        if not 0 <= first <= end <= length:
            raise FeatureError(f"{self.source}: rows {first} to {end} of {name!r} are not among its {length}")
        if end - first == length:
            return self[name]
        return self._finite(name, self.raw_rows(name, first, end), first)

    def raw_length(self, name: str) -> int:
        """s; raises FeatureError where there is no such video."""
        if name not in self.lengths:
            raise FeatureError(f"{self.source}: no features of video {name!r}")
        return self.lengths[name]

    def raw(self, name: str) -> np.ndarray:
        """(s, d) float16 or float32, NaN and infinities as they are stored."""
        self.raw_length(name)
        with self._honest(name):
            array = self._read(name)
            opened = self.held[name]
            if array.shape != opened or array.dtype.kind != "f":
                raise self.changed(name, array.shape, array.dtype)
            if array.ndim == 3 and not self.is_crops[name]:
                array = array[0]
            return self._converted(name, array)

    def raw_rows(self, name: str, first: int, end: int) -> np.ndarray:
        """Rows of `raw(name)`; first, end: in range."""
        with self._honest(name):
            array = None if self.turned else self._read_rows(name, first, end)
            if array is not None:
                wanted = (end - first, *self.stored_shape(name)[1:])
                if array.shape != wanted or array.dtype.kind != "f":
                    raise self.changed(name, array.shape, array.dtype)
                return self._converted(name, array)
        return self.raw(name)[first:end]

    def stored_shape(self, name: str) -> tuple[int, ...]:
        """Of the array as it is stored, without a batch axis."""
        held = self.held[name]
        return held[1:] if len(held) == 3 and not self.is_crops[name] else held

    def changed(self, name: str, shape: tuple[int, ...], dtype: np.dtype) -> FeatureError:
        return FeatureError(
            f"{self.source}: {name!r} changed while it was in use: it was float {self.held[name]}, and is now "
            f"{dtype} {shape}; put it back, or start again"
        )

    @contextmanager
    def _honest(self, name: str) -> Iterator[None]:
        """Kept headers that no longer hold do not outlive the error that they lead to."""
        try:
            with reading(self.source, f"a whole array of {name!r}", FeatureError):
                yield
        except FeatureError:
            forget(self.source)
            raise

    def _finite(self, name: str, array: np.ndarray, first: int) -> np.ndarray:
        with reading(self.source, f"a whole array of {name!r}", FeatureError):
            finite = np.isfinite(array).all(1)
            if not finite.all():
                row = first + int(np.flatnonzero(~finite)[0])
                raise FeatureError(f"{self.source}: {name!r} holds NaN or infinity in row {row}; extract it again")
        return array

    def _converted(self, name: str, array: np.ndarray) -> np.ndarray:
        if self.is_crops[name]:
            array = array.mean(1, dtype=np.float32) if self.crops == "mean" else array[:, 0]
        if self.turned:
            array = np.ascontiguousarray(array.T)
        if array.dtype not in (np.float16, np.float32):
            with np.errstate(over="ignore"):
                array = array.astype(np.float32)
        return array

    def dtype(self, name: str) -> np.dtype:
        """Of `self[name]`, known without reading the data."""
        averaged = self.is_crops[name] and self.crops == "mean"
        half = self.dtypes[name] == np.float16 and not averaged
        return np.dtype(np.float16 if half else np.float32)

    def sources(self) -> Sequence[Path]:
        """The files that are read."""
        return [Path(self.source)]

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


def _fault(shape: tuple[int, ...], dtype: np.dtype, width: int, first: str) -> str:
    """What is wrong with an array, nothing where it is as it must be; width: of the first one."""
    if dtype.kind == "O":
        return "is an object array, a pickle; save plain arrays instead"
    if len(shape) != 2 or dtype.kind != "f":
        return f"must be float (snippets, width), got {dtype} {shape}"
    if shape[0] < 1:
        return "has no rows; extract it again or drop the video"
    if shape[1] < 1:
        return "has width 0; extract it again or drop the video"
    if shape[1] != width:
        return f"has width {shape[1]}, but {first!r} has {width}"
    return ""


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
