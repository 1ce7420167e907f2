"""Feature arrays by video, from an .npz, a folder of .npy, or HDF5; never unpickles anything."""

from __future__ import annotations

import os
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from d2net.data.files import DAMAGED, DataError


class FeatureError(DataError):
    """Features that cannot be used; names the file or video, the value and what to do."""


class FeatureStore(ABC):
    """(s, d) arrays by video name, read when asked for.

    names: sorted; lengths: s of each video, known without reading the data; width: d, the same for all.
    """

    def __init__(self, source: str, shapes: Mapping[str, tuple[tuple[int, ...], np.dtype]]):
        self.source = source
        if not shapes:
            raise FeatureError(f"{source}: no feature arrays in it")
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
        try:
            array = self._read(name)
        except DAMAGED as error:
            raise FeatureError(f"{self.source}: {name!r} is truncated or damaged: {error}") from error
        if array.dtype not in (np.float16, np.float32):
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
            some = ", ".join(repr(n) for n in missing[:3])
            raise FeatureError(
                f"{self.source}: no features of {len(missing)} annotated videos: {some}; extract them, or "
                "take these videos out of the subset"
            )


class NpzFeatures(FeatureStore):
    """One .npz keyed by video."""

    def __init__(self, path: Path):
        self.path = path
        try:
            with zipfile.ZipFile(path) as archive:
                names = [n for n in archive.namelist() if n.endswith(".npy")]
                shapes = {n.removesuffix(".npy"): _header(archive.open(n), f"{path}: {n}") for n in names}
        except FeatureError:
            raise
        except DAMAGED as error:
            raise FeatureError(f"{path} is truncated or not an .npz: {error}") from error
        super().__init__(str(path), shapes)
        self._archive: np.lib.npyio.NpzFile | None = None

    def _read(self, name: str) -> np.ndarray:
        if self._archive is None:
            self._archive = np.load(self.path, allow_pickle=False)
        return self._archive[name]

    def __getstate__(self) -> dict:
        # A worker process opens its own handle.
        return {**self.__dict__, "_archive": None}


class FolderFeatures(FeatureStore):
    """Files of one or more streams for each video, joined along the width."""

    def __init__(self, path: Path, files: dict[str, tuple[Path, ...]]):
        self.files = files
        shapes = {}
        for name, parts in files.items():
            headers = [_header(open(p, "rb"), str(p)) for p in parts]  # noqa: SIM115
            if any(len(shape) != 2 for shape, _ in headers):
                shapes[name] = headers[0]
                continue
            if len({shape[0] for shape, _ in headers}) > 1:
                rows = " and ".join(f"{p.name} has {shape[0]}" for p, (shape, _) in zip(parts, headers, strict=True))
                raise FeatureError(f"{path}: the streams of {name!r} differ in rows: {rows}")
            shapes[name] = ((headers[0][0][0], sum(shape[1] for shape, _ in headers)), headers[0][1])
        super().__init__(str(path), shapes)

    def _read(self, name: str) -> np.ndarray:
        parts = [np.load(p, allow_pickle=False) for p in self.files[name]]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


class Hdf5Features(FeatureStore):
    """An HDF5 file with a dataset per video."""

    def __init__(self, path: Path):
        self.path = path
        shapes: dict[str, tuple[tuple[int, ...], np.dtype]] = {}

        def visit(name: str, item: Any) -> None:
            if hasattr(item, "shape"):
                shapes[name] = (item.shape, item.dtype)

        with self._open() as file:
            file.visititems(visit)
        super().__init__(str(path), shapes)

    def _open(self):
        try:
            import h5py
        except ImportError as error:
            raise FeatureError(f"{self.path}: reading HDF5 needs the package h5py; pip install h5py") from error
        try:
            return h5py.File(self.path, "r")
        except OSError as error:
            raise FeatureError(f"{self.path} is truncated or not HDF5: {error}") from error

    def _read(self, name: str) -> np.ndarray:
        with self._open() as file:
            return file[name][()]


def _header(file: Any, where: str) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype of a .npy without reading its data."""
    with file:
        try:
            read: Callable = npy.read_array_header_1_0 if npy.read_magic(file)[0] == 1 else npy.read_array_header_2_0
            shape, _, dtype = read(file)
        except DAMAGED as error:
            raise FeatureError(f"{where} is truncated or not a NumPy array: {error}") from error
    return shape, dtype


def _folder(path: Path) -> FolderFeatures:
    nested = sorted(p for split in ("train", "test") for p in (path / split / "rgb").glob("*.npy"))
    if nested or (path / "rgb").is_dir():
        rgb = nested or sorted((path / "rgb").glob("*.npy"))
        files: dict[str, tuple[Path, ...]] = {p.stem: (p, p.parent.parent / "flow" / p.name) for p in rgb}
    else:
        arrays = sorted(path.glob("*.npy"))
        pairs = [p for p in arrays if p.stem.endswith("_rgb")]
        flows = [p for p in arrays if p.stem.endswith("_flow")]
        if pairs or flows:
            stems = {p.stem.removesuffix("_rgb") for p in pairs} | {p.stem.removesuffix("_flow") for p in flows}
            files = {s: (path / f"{s}_rgb.npy", path / f"{s}_flow.npy") for s in sorted(stems)}
        else:
            files = {p.stem: (p,) for p in arrays}
    for name, parts in files.items():
        for p in parts:
            if not p.exists():
                raise FeatureError(f"{path}: video {name!r} lacks its stream {p.name}")
    return FolderFeatures(path, files)


def open_features(path: str | os.PathLike) -> FeatureStore:
    """Opens features by their layout.

    One ``.npz`` keyed by video; ``.h5``/``.hdf5`` with a dataset per video; a folder of ``<video>.npy``, of
    ``<video>_rgb.npy`` and ``<video>_flow.npy``, or of ``{train,test}/{rgb,flow}/<video>.npy``.

    Raises:
        FeatureError: not there, truncated, pickled, empty, or of unequal widths.
    """
    path = Path(path)
    if path.is_dir():
        return _folder(path)
    if not path.exists():
        raise FeatureError(f"no features at {path}")
    if path.suffix in (".h5", ".hdf5"):
        return Hdf5Features(path)
    if path.suffix == ".npz":
        return NpzFeatures(path)
    raise FeatureError(f"{path}: features are an .npz, an .h5 or a folder of .npy files, not {path.suffix or 'this'}")


def check_streams(streams: Sequence[tuple[int, int, str]], width: int) -> None:
    """Raises FeatureError unless the streams are contiguous, of equal width, and cover `width`."""
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
