"""What is to be written: names, shapes and types, all known before the first array is read."""

from __future__ import annotations

import hashlib
import io
import json
import os
import warnings
import zlib
from abc import ABC, abstractmethod
from pathlib import Path
from typing import NamedTuple

import numpy as np

from d2net.data.features.store import FeatureError, FeatureStore
from d2net.data.files import is_unicode, some

TYPES: dict[str, np.dtype] = {"float16": np.dtype("<f2"), "bfloat16": np.dtype("<u2"), "float32": np.dtype("<f4")}


class Plan(NamedTuple):
    """names, in the order of writing; their lengths and types (of TYPES); job: what makes two runs the same.

    size: bytes of data. folder: whether the output is one.
    """

    names: list[str]
    lengths: list[int]
    dtypes: list[str]
    width: int
    timing: dict[str, float]
    notes: list[str]
    job: str
    folder: bool

    def bytes_of(self, i: int) -> int:
        return self.lengths[i] * self.width * TYPES[self.dtypes[i]].itemsize

    @property
    def size(self) -> int:
        return sum(map(self.bytes_of, range(len(self.names))))


class Writer(ABC):
    """An output that is laid out in full before it is filled, so that it can be filled from any video on.

    Used as a context while it is filled.
    """

    folder = False
    holds_bfloat16 = False

    def __init__(self, path: Path, plan: Plan):
        self.path, self.plan = path, plan

    @abstractmethod
    def lay_out(self) -> None:
        """Writes all but the data; raises FeatureError for what the format cannot hold."""

    @abstractmethod
    def holds(self, done: int) -> bool:
        """Whether what an earlier run laid out is there, and as large as its first `done` videos need."""

    @abstractmethod
    def write(self, i: int, raw: bytes) -> None: ...

    @abstractmethod
    def flush(self) -> None:
        """Returns when what was written is on the disk."""

    def finish(self, sums: list[int]) -> None:  # noqa: B027 nothing is left to do for most
        """sums: `checksum` of each video; to be called when all are written."""

    def checksum(self, i: int, raw: bytes) -> int:
        return zlib.crc32(raw)

    @abstractmethod
    def open(self) -> FeatureStore: ...

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def check(self) -> None:
        """Raises FeatureError unless what is laid out is read as what was planned."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            got = self.open()
        lengths = dict(zip(self.plan.names, self.plan.lengths, strict=True))
        if got.lengths != lengths:
            lost = [n for n in self.plan.names if n not in got.lengths] or [n for n in got.names if n not in lengths]
            raise FeatureError(
                f"{self.path.suffix or 'a folder'} cannot hold videos of such names: {some(lost)}; rename them, or "
                "write another format"
            )
        if dict(got.stated) != self.plan.timing:
            raise FeatureError(f"{self.path}: the timing is read as {dict(got.stated)}, not as {self.plan.timing}")


class OneFile(Writer):
    """A file whose data lie at known places."""

    offsets: list[int]

    def __enter__(self) -> OneFile:
        self.file = open(self.path, "r+b", buffering=0)
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def holds(self, done: int) -> bool:
        try:
            with self:
                ends = [offset + self.plan.bytes_of(i) for i, offset in enumerate(self.offsets)]
                return max(ends) <= os.fstat(self.file.fileno()).st_size
        except (OSError, KeyError):
            return False

    def write(self, i: int, raw: bytes) -> None:
        self.file.seek(self.offsets[i])
        rest = memoryview(raw)
        while len(rest):
            rest = rest[self.file.write(rest) :]

    def flush(self) -> None:
        os.fsync(self.file.fileno())


def make_plan(store: FeatureStore, out: Path, dtype: str | None, timing: dict[str, float], make: type[Writer]) -> Plan:
    """Raises FeatureError for a type that there is not, or that the format lacks."""
    if dtype is not None and dtype not in TYPES:
        raise FeatureError(f"dtype must be {', '.join(TYPES)}, got {dtype!r}")
    if dtype == "bfloat16" and not make.holds_bfloat16:
        raise FeatureError(f"{out}: only .safetensors hold bfloat16; write that, or float16 or float32")
    if dtype is None and store.precision == "bfloat16" and make.holds_bfloat16:
        dtype = "bfloat16"
    names = store.names
    if not make.folder and (odd := [n for n in names if not is_unicode(n)]):
        raise FeatureError(f"{out}: the name of video {odd[0]!r} is not Unicode; rename it, or write a folder")
    dtypes = [dtype or store.dtype(name).name for name in names]
    notes = []
    if wide := [name for name in names if store.dtypes[name].itemsize > 4]:
        notes.append(f"{len(wide)} arrays of float64 are rounded to {dtypes[names.index(wide[0])]}")
    lengths = [store.lengths[name] for name in names]
    job = hashlib.sha256()
    stats = [(str(p), s.st_size, s.st_mtime_ns) for p in store.sources() for s in [os.stat(p)]]
    form = (out.suffix, store.source, store.crops, store.width, sorted(timing.items()))
    for part in (form, names, lengths, dtypes, stats):
        job.update(json.dumps(part).encode() + b"\n")
    return Plan(names, lengths, dtypes, store.width, timing, notes, job.hexdigest(), make.folder)


def npy_header(plan: Plan, i: int) -> bytes:
    """What stands before the data of a .npy."""
    file = io.BytesIO()
    shape, dtype = (plan.lengths[i], plan.width), TYPES[plan.dtypes[i]]
    np.lib.format.write_array_header_1_0(file, {"descr": dtype.str, "fortran_order": False, "shape": shape})
    return file.getvalue()


def converted(array: np.ndarray, dtype: str, what: str) -> bytes:
    """The array's bytes in this type, rounded to nearest.

    Raises:
        FeatureError: a value is beyond the type's range.
    """
    if dtype == "bfloat16":
        bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
        rounded = ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype("<u2")
        beyond = (rounded & 0x7F80) == 0x7F80
        data = rounded
    else:
        with np.errstate(over="ignore"):
            data = np.ascontiguousarray(array, TYPES[dtype])
        beyond = ~np.isfinite(data) if data.dtype.itemsize < array.dtype.itemsize else np.zeros(0, bool)
    if beyond.any():
        value = np.asarray(array)[beyond].flat[0]
        raise FeatureError(f"{what} holds {value:g}, beyond what {dtype} holds; write float32, or scale the features")
    return data.tobytes()
