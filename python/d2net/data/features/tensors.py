"""safetensors: many videos in one file, or a file a video."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from d2net.data.features.npy import rows_at
from d2net.data.features.store import FeatureError, FeatureStore
from d2net.data.features.timing import timing_fields
from d2net.data.files import check_regular, reading, shown

BFLOAT16 = "BF16"
_TYPES = {"F16": "<f2", "F32": "<f4", "F64": "<f8", "BOOL": "?"} | {
    f"{kind}{8 * size}": f"<{kind.lower()}{size}" for kind in "IU" for size in (1, 2, 4, 8)
}


class Tensor(NamedTuple):
    """Where a tensor lies in the file, and what it is; bfloat16 is read as float32."""

    code: str
    shape: tuple[int, ...]
    offset: int

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.float32) if self.code == BFLOAT16 else np.dtype(_TYPES[self.code])


class Held(NamedTuple):
    """tensors by name; metadata: the file's own."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]


def tensor_headers(path: Path) -> Held:
    """What the file holds, without its data; checked by the package safetensors.

    Raises:
        FeatureError: no such package, or a type that is no number.
    """
    try:
        from safetensors import safe_open
    except ImportError as error:
        raise FeatureError(f"{path}: reading it needs the package safetensors; pip install safetensors") from error
    check_regular(path, FeatureError)
    with safe_open(path, "numpy"), open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        tree = json.loads(file.read(size))
    metadata = tree.pop("__metadata__", None) or {}
    tensors = {}
    for name, entry in tree.items():
        if entry["dtype"] != BFLOAT16 and entry["dtype"] not in _TYPES:
            raise FeatureError(f"{path}: {name!r} is {shown(entry['dtype'])}; save it as F16, BF16 or F32")
        tensors[name] = Tensor(entry["dtype"], tuple(entry["shape"]), 8 + size + entry["data_offsets"][0])
    return Held(tensors, metadata)


def read_tensor(path: Path, tensor: Tensor) -> np.ndarray:
    return read_tensor_rows(path, tensor, (1, *tensor.shape), 0, 1)[0]


def read_tensor_rows(path: Path, tensor: Tensor, shape: Sequence[int], first: int, end: int) -> np.ndarray:
    """Rows first..end - 1 of the tensor taken for an array of `shape`.

    Raises:
        ValueError: the file ends before them.
    """
    stored = np.dtype("<u2") if tensor.code == BFLOAT16 else tensor.dtype
    with open(path, "rb") as file:
        array = rows_at(file, tensor.offset, stored, shape, first, end)
    return from_bfloat16(array) if tensor.code == BFLOAT16 else array


def to_bfloat16(array: np.ndarray) -> np.ndarray:
    """The upper halves, uint16, of float32 that bfloat16 holds exactly."""
    return (np.ascontiguousarray(array).view(np.uint32) >> 16).astype(np.uint16)


def from_bfloat16(array: np.ndarray) -> np.ndarray:
    """float32 of the upper halves."""
    return (array.astype(np.uint32) << 16).view(np.float32)


class SafetensorsFeatures(FeatureStore):
    """One .safetensors keyed by video; its metadata may state fps, stride, snippet_frames or snippet_seconds."""

    layout = "safetensors keyed by video"

    def __init__(self, path: Path):
        self.path = path
        with reading(path, "safetensors", FeatureError):
            self.tensors, metadata = tensor_headers(path)
            self.stated = timing_fields(path, metadata)
        super().__init__(str(path), {name: (t.shape, t.dtype) for name, t in self.tensors.items()})
        if all(t.code == BFLOAT16 for t in self.tensors.values()):
            self.precision = "bfloat16"

    def _read(self, name: str) -> np.ndarray:
        return read_tensor(self.path, self.tensors[name])

    def reads_rows(self, name: str) -> bool:
        return not self.turned

    def _read_rows(self, name: str, first: int, end: int) -> np.ndarray | None:
        return read_tensor_rows(self.path, self.tensors[name], self.stored_shape(name), first, end)
