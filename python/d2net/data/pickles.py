"""Pickles of arrays and plain containers, read without executing anything that they hold.

No name in a pickle reaches Python's own objects: the few that NumPy's arrays need stand for classes of this file, which
build arrays from checked values; any other name is an error.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from d2net.data.files import DataError

_CODES = {f"{kind}{size}" for kind, sizes in {"f": "248", "i": "1248", "u": "1248", "b": "1"}.items() for size in sizes}


class _Dtype:
    """numpy.dtype('f8', False, True), and its state."""

    def __init__(self, code: Any = None, *_: Any):
        code = code.decode("ascii") if isinstance(code, bytes) else code
        if not isinstance(code, str):
            raise DataError(f"it holds an array of type {code!r:.40}")
        self.code, self.order = code.lstrip("<>=|"), "="

    def __setstate__(self, state: Any) -> None:
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
        order = order.decode("ascii") if isinstance(order, bytes) else order
        if order not in ("<", ">", "=", "|"):
            raise DataError("it holds an array of an odd type")
        self.order = order

    def numpy(self) -> np.dtype:
        if self.code in ("O8", "O4", "O"):
            return np.dtype(object)
        text = self.code[:1] in ("S", "U") and self.code[1:].isdigit() and int(self.code[1:]) <= 1 << 20
        if not text and self.code not in _CODES:
            raise DataError(f"it holds an array of type {self.code!r:.40}")
        return np.dtype(("" if self.order == "|" else self.order) + self.code)


class _Array:
    """numpy.ndarray as pickled: made empty, then filled by its state (version, shape, dtype, order, data)."""

    def __init__(self, *_: Any):
        self.array = np.zeros(0)

    def __setstate__(self, state: Any) -> None:
        if not (isinstance(state, tuple) and len(state) == 5):
            raise DataError("it holds an array of an unknown version")
        _, shape, dtype, fortran, data = state
        whole = isinstance(shape, tuple) and all(isinstance(n, int) and 0 <= n < 1 << 48 for n in shape)
        if not whole or len(shape) > 8 or not isinstance(dtype, _Dtype):
            raise DataError(f"it holds an array of shape {shape!r:.60}")
        kind, count = dtype.numpy(), math.prod(shape)
        if kind.hasobject:
            if not isinstance(data, list) or len(data) != count:
                raise DataError(f"it holds an array of shape {shape!r:.60} with other contents")
            flat = np.empty(count, object)
            for i, item in enumerate(data):
                flat[i] = item
        else:
            raw = data.encode("latin1") if isinstance(data, str) else data
            if not isinstance(raw, bytes) or len(raw) != count * kind.itemsize:
                raise DataError(f"it holds an array of shape {shape!r:.60} with other contents")
            flat = np.frombuffer(raw, kind)
        self.array = flat.reshape(shape, order="F" if fortran else "C")


def _scalar(dtype: Any, data: Any = b"") -> Any:
    raw = data.encode("latin1") if isinstance(data, str) else data
    kind = dtype.numpy() if isinstance(dtype, _Dtype) else None
    if kind is None or kind.hasobject or not isinstance(raw, bytes) or len(raw) != kind.itemsize:
        raise DataError("it holds a number of an odd type")
    return np.frombuffer(raw, kind)[0].item()


def _encode(text: Any, codec: Any = "latin1") -> bytes:
    """_codecs.encode, as Python 3 writes bytes in Python 2's protocols."""
    if not isinstance(text, str) or codec not in ("latin1", "latin-1"):
        raise DataError("it holds text in an odd encoding")
    return text.encode("latin1")


class _Named:
    """What a name in a pickle stands for: it can be called, and not be changed."""

    __slots__ = ("make",)

    def __init__(self, make: Callable[..., Any]):
        self.make = make

    def __call__(self, *args: Any) -> Any:
        return self.make(*args)

    def __setstate__(self, state: Any) -> None:
        raise DataError("it changes a function")


_NAMES = {
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Named(_Array) for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _Named(_scalar) for core in ("core", "_core")},
    ("numpy", "ndarray"): _Named(_Array),
    ("numpy", "dtype"): _Named(_Dtype),
    ("_codecs", "encode"): _Named(_encode),
    ("collections", "OrderedDict"): _Named(dict),
}


class _Rest:
    """What is left of a file, so that no count in it asks for more than is there."""

    def __init__(self, file: IO[bytes]):
        at = file.tell()
        self.file, self.left = file, file.seek(0, 2) - at
        file.seek(at)

    def read(self, count: int = -1) -> bytes:
        data = self.file.read(self.left if count < 0 else min(count, self.left))
        self.left -= len(data)
        return data

    def readline(self) -> bytes:
        line = self.file.readline()
        self.left -= len(line)
        return line


class _Unpickler(pickle._Unpickler):  # type: ignore[name-defined, misc]
    """The one in Python: in C, a reference numbered 2³¹ makes a table of 16 GiB."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _NAMES:
            return _NAMES[module, name]
        raise DataError(f"it holds {module}.{name}, which is not an array or plain container; nothing was executed")


class _Plain:
    """Arrays out of their stand-ins, bytes as text. Each object once: a pickle's references can double without end."""

    def __init__(self) -> None:
        self.done: dict[int, Any] = {}
        self.open: set[int] = set()

    def __call__(self, value: Any) -> Any:
        if value is None or isinstance(value, (str, int, float)):
            return value
        if isinstance(value, bytes):
            return value.decode("utf-8", "replace")
        key = id(value)
        if key in self.open or len(self.open) > 50:
            raise DataError("it holds itself, or is nested more than 50 deep")
        if key not in self.done:
            self.open.add(key)
            self.done[key] = self._of(value)
            self.open.remove(key)
        return self.done[key]

    def _of(self, value: Any) -> Any:
        if isinstance(value, _Array):
            if not value.array.dtype.hasobject:
                return value.array
            flat = np.empty(value.array.size, object)
            for i, item in enumerate(value.array.reshape(-1)):
                flat[i] = self(item)
            return flat.reshape(value.array.shape)
        if isinstance(value, dict):
            return {self(k): self(v) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [self(v) for v in value]
        raise DataError(f"it holds a {type(value).__name__}, which is not an array or plain container")


def load_pickle(file: IO[bytes]) -> Any:
    """Arrays, numbers, text, lists and dicts out of a pickle; Python 2's too. Anything else raises DataError."""
    return _Plain()(_Unpickler(_Rest(file), encoding="latin1").load())


def load_npy(file: IO[bytes]) -> np.ndarray:
    """A .npy whose data may be pickled objects, by the same rules."""
    read: Any = npy.read_array_header_1_0 if npy.read_magic(file)[0] == 1 else npy.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if not dtype.hasobject:
        file.seek(0)
        return npy.read_array(file, allow_pickle=False)
    if dtype != np.dtype(object):
        raise DataError("it is an array of records that hold objects")
    found = load_pickle(file)
    if not isinstance(found, np.ndarray) or found.dtype != np.dtype(object) or found.size != math.prod(shape):
        raise DataError(f"its pickle is not an array of the shape {shape} that it states")
    return found.reshape(shape, order="F" if fortran else "C")
