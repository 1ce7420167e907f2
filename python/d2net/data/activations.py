"""Activations by video in an .npz: T as `<video>`, and λ' as `<video>.foreground` where it is known."""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import IO, NamedTuple

import numpy as np

from d2net.data.features.npy import header
from d2net.data.files import DataError, check_regular, reading, write_atomically

_FOREGROUND = ".foreground"


class VideoActivations(NamedTuple):
    """T (s, C), and λ' (s,) or None."""

    classes: np.ndarray
    foreground: np.ndarray | None


def check_activation_names(names: Iterable[str]) -> None:
    """Raises DataError where a video's name is none for an .npz, or what another's foreground scores are called."""
    names = set(names)
    for name in sorted(names):
        try:
            name.encode()
            if "\0" in name:
                raise ValueError
        except ValueError:
            raise DataError(
                f"activations: the name of video {name!r} is not Unicode or has a zero in it, which no .npz can hold; "
                "rename it, or leave --save-activations out"
            ) from None
    if both := sorted(n for n in names if n.removesuffix(_FOREGROUND) in names - {n}):
        other = both[0].removesuffix(_FOREGROUND)
        raise DataError(
            f"activations: the foreground scores of video {other!r} are stored as {both[0]!r}, which is a video too; "
            "rename one"
        )


def save_activations(path: str | os.PathLike, videos: dict[str, VideoActivations]) -> None:
    """Writes the .npz in one step."""
    check_activation_names(videos)

    # Not np.savez, whose own parameters are `file` and `allow_pickle`: videos may be called so.
    def write(file: IO[bytes]) -> None:
        with zipfile.ZipFile(file, "w") as archive:
            for name, a in videos.items():
                for key, array in ((name, a.classes), (name + _FOREGROUND, a.foreground)):
                    if array is not None:
                        with archive.open(zipfile.ZipInfo(f"{key}.npy"), "w", force_zip64=True) as entry:
                            np.lib.format.write_array(entry, np.asarray(array), allow_pickle=False)

    write_atomically(path, write)


def join_activations(path: str | os.PathLike, files: Sequence[str | os.PathLike]) -> None:
    """Writes one .npz of what `save_activations` wrote to several, in their order, as if it were written at once."""

    def write(out: IO[bytes]) -> None:
        with zipfile.ZipFile(out, "w") as archive:
            for file in files:
                with zipfile.ZipFile(file) as part:
                    for name in part.namelist():
                        info = zipfile.ZipInfo(name)
                        with part.open(name) as entry, archive.open(info, "w", force_zip64=True) as to:
                            shutil.copyfileobj(entry, to, 1 << 20)

    write_atomically(path, write)


class StoredActivations(Mapping[str, VideoActivations]):
    """Activations of a file, read when asked for.

    lengths: snippets of each video, known without reading the data.

    Raises:
        DataError: not there, truncated, pickled, or of another width; names file and video. So does reading a video
            that is damaged or not finite.
    """

    def __init__(self, path: str | os.PathLike, classes: int):
        self.path = path
        with reading(path, "an .npz of activations"):
            check_regular(path)
            shapes: dict[str, tuple[tuple[int, ...], np.dtype]] = {}
            with zipfile.ZipFile(path) as archive:
                for info in archive.infolist():
                    entry = info.filename
                    if not entry.endswith(".npy") or entry.rpartition("/")[2].startswith("."):
                        continue
                    name = entry.removesuffix(".npy")
                    if name in shapes:
                        raise DataError(f"{path}: {name!r} is in it twice")
                    with archive.open(entry) as file:
                        shapes[name] = header(file, info.file_size)
            if not shapes:
                raise DataError(f"{path}: no activations in it")
            self.names = [
                n for n in shapes if not (n.endswith(_FOREGROUND) and n.removesuffix(_FOREGROUND) in shapes)
            ]
            self.foreground = {n for n in self.names if n + _FOREGROUND in shapes}
            self.lengths = {n: _check_shapes(path, n, shapes, classes) for n in self.names}

    def __getitem__(self, name: str) -> VideoActivations:
        if name not in self.lengths:
            raise KeyError(name)
        with reading(self.path, "an .npz of activations"), zipfile.ZipFile(self.path) as archive:
            classes = _read(self.path, archive, name)
            return VideoActivations(
                classes, _read(self.path, archive, name + _FOREGROUND) if name in self.foreground else None
            )

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def load_activations(path: str | os.PathLike, classes: int) -> dict[str, VideoActivations]:
    """Reads all activations of `classes` classes into memory.

    Raises:
        DataError: as `StoredActivations`.
    """
    return dict(StoredActivations(path, classes))


def _check_shapes(
    path: str | os.PathLike, name: str, shapes: Mapping[str, tuple[tuple[int, ...], np.dtype]], classes: int
) -> int:
    """The video's snippets."""
    (shape, dtype), of_foreground = shapes[name], shapes.get(name + _FOREGROUND)
    if len(shape) != 2 or shape[1] != classes or shape[0] == 0:
        raise DataError(f"{path}: {name!r} must be (snippets, {classes}), got {shape}")
    if of_foreground is not None and of_foreground[0] != shape[:1]:
        raise DataError(f"{path}: {name + _FOREGROUND!r} must be {shape[:1]}, got {of_foreground[0]}")
    for key, kind in ((name, dtype), (name + _FOREGROUND, of_foreground[1] if of_foreground else dtype)):
        if kind.kind not in "fiub":
            raise DataError(f"{path}: {key!r} must hold numbers, got {kind}")
    return shape[0]


def _read(path: str | os.PathLike, archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """As float32."""
    with archive.open(f"{name}.npy") as file:
        array = np.lib.format.read_array(file, allow_pickle=False)
        file.read(1)  # the checksum is compared at the end
    with np.errstate(over="ignore"):
        single = array.astype(np.float32)
    if not np.isfinite(single).all():
        raise DataError(f"{path}: {name!r} holds NaN, infinity, or more than float32 holds")
    return single
