"""Activations by video in an .npz: T as `<video>`, and λ' as `<video>.foreground` where it is known."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable
from typing import IO, NamedTuple

import numpy as np

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
                        with archive.open(f"{key}.npy", "w", force_zip64=True) as entry:
                            np.lib.format.write_array(entry, np.asarray(array), allow_pickle=False)

    write_atomically(path, write)


def load_activations(path: str | os.PathLike, classes: int) -> dict[str, VideoActivations]:
    """Reads activations of `classes` classes.

    Raises:
        DataError: not there, truncated, pickled, not finite, or of another width; names file and video.
    """
    with reading(path, "an .npz of activations"):
        check_regular(path)
        arrays: dict[str, np.ndarray] = {}
        with zipfile.ZipFile(path) as archive:
            for entry in archive.namelist():
                if not entry.endswith(".npy") or entry.rpartition("/")[2].startswith("."):
                    continue
                name = entry.removesuffix(".npy")
                if name in arrays:
                    raise DataError(f"{path}: {name!r} is in it twice")
                with archive.open(entry) as file:
                    arrays[name] = np.lib.format.read_array(file, allow_pickle=False)
                    file.read(1)  # the checksum is compared at the end
        if not arrays:
            raise DataError(f"{path}: no activations in it")
        return {
            name: _video(path, name, array, arrays.get(name + _FOREGROUND), classes)
            for name, array in arrays.items()
            if not (name.endswith(_FOREGROUND) and name.removesuffix(_FOREGROUND) in arrays)
        }


def _video(
    path: str | os.PathLike, name: str, array: np.ndarray, foreground: np.ndarray | None, classes: int
) -> VideoActivations:
    if array.ndim != 2 or array.shape[1] != classes or len(array) == 0:
        raise DataError(f"{path}: {name!r} must be (snippets, {classes}), got {array.shape}")
    if foreground is not None and foreground.shape != array.shape[:1]:
        raise DataError(f"{path}: {name + _FOREGROUND!r} must be {array.shape[:1]}, got {foreground.shape}")
    return VideoActivations(_single(path, name, array), None if foreground is None else _single(path, name, foreground))


def _single(path: str | os.PathLike, name: str, array: np.ndarray) -> np.ndarray:
    """As float32."""
    if array.dtype.kind not in "fiub":
        raise DataError(f"{path}: {name!r} must hold numbers, got {array.dtype}")
    with np.errstate(over="ignore"):
        single = array.astype(np.float32)
    if not np.isfinite(single).all():
        raise DataError(f"{path}: {name!r} holds NaN, infinity, or more than float32 holds")
    return single
