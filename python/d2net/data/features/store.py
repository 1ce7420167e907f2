"""Feature arrays by video, read when asked for; never unpickles anything."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from d2net.data.files import DataError, reading, shown, some
from d2net.data.names import hint


class FeatureError(DataError):
    """Features that cannot be used; names the file or video, the value and what to do."""


class FeatureStore(ABC):
    """(s, d) arrays by video name, read when asked for.

    names: sorted; lengths: s of each video, known without reading the data; width: d, the same for all.
    stated: what the file says of its timing: fps, stride, snippet_frames or snippet_seconds.
    """

    stated: Mapping[str, float] = MappingProxyType({})

    def __init__(self, source: str, shapes: Mapping[str, tuple[tuple[int, ...], np.dtype]]):
        self.source = source
        if not shapes:
            raise FeatureError(f"{source}: no feature arrays in it")
        if (nameless := next((n for n in shapes if not n.strip()), None)) is not None:
            raise FeatureError(f"{source}: {nameless!r} is no name of a video")
        self.names = sorted(shapes)
        first = self.names[0]
        for name in self.names:
            shape, dtype = shapes[name]
            if dtype.kind == "O":
                raise FeatureError(f"{source}: {name!r} is an object array, a pickle; save plain arrays instead")
            if len(shape) != 2 or dtype.kind != "f":
                raise FeatureError(f"{source}: {name!r} must be float (snippets, width), got {dtype} {shape}")
            if shape[0] < 1:
                raise FeatureError(f"{source}: {name!r} has no rows; extract it again or drop the video")
            if shape[1] != shapes[first][0][1]:
                raise FeatureError(f"{source}: {name!r} has width {shape[1]}, but {first!r} has {shapes[first][0][1]}")
        self.lengths = {name: shapes[name][0][0] for name in self.names}
        self.width = shapes[first][0][1]

    @abstractmethod
    def _read(self, name: str) -> np.ndarray: ...

    def __getitem__(self, name: str) -> np.ndarray:
        """(s, d) float16 or float32; NaN and infinities are an error that names the first row."""
        if name not in self.lengths:
            raise FeatureError(f"{self.source}: no features of video {name!r}")
        with reading(self.source, f"a whole array of {name!r}", FeatureError):
            array = self._read(name)
            opened = (self.lengths[name], self.width)
            if array.shape != opened or array.dtype.kind != "f":
                raise FeatureError(
                    f"{self.source}: {name!r} changed while it was in use: it was float {opened}, and is now "
                    f"{array.dtype} {array.shape}; put it back, or start again"
                )
            if array.dtype not in (np.float16, np.float32):
                with np.errstate(over="ignore"):
                    array = array.astype(np.float32)
            finite = np.isfinite(array).all(1)
            if not finite.all():
                row = int(np.flatnonzero(~finite)[0])
                raise FeatureError(f"{self.source}: {name!r} holds NaN or infinity in row {row}; extract it again")
        return array

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
