"""Activations by video in an .npz: T as `<video>`, and λ' as `<video>.foreground` where it is known."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from d2net.data.files import DAMAGED, DataError, write_atomically

_FOREGROUND = ".foreground"


class VideoActivations(NamedTuple):
    """T (s, C), and λ' (s,) or None."""

    classes: np.ndarray
    foreground: np.ndarray | None


def save_activations(path: str | os.PathLike, videos: dict[str, VideoActivations]) -> None:
    """Writes the .npz in one step."""
    arrays = {}
    for name, a in videos.items():
        arrays[name] = a.classes
        if a.foreground is not None:
            arrays[name + _FOREGROUND] = a.foreground
    write_atomically(path, lambda file: np.savez(file, **arrays))


def load_activations(path: str | os.PathLike, classes: int) -> dict[str, VideoActivations]:
    """Reads activations of `classes` classes.

    Raises:
        DataError: not there, truncated, pickled, not finite, or of another width; names file and video.
    """
    if not Path(path).exists():
        raise DataError(f"no activations at {path}")
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except DAMAGED as error:
        raise DataError(f"{path} is truncated, pickled or not an .npz: {error}") from error
    videos = {}
    for name, array in arrays.items():
        if name.endswith(_FOREGROUND) and name.removesuffix(_FOREGROUND) in arrays:
            continue
        foreground = arrays.get(name + _FOREGROUND)
        if array.ndim != 2 or array.shape[1] != classes or len(array) == 0:
            raise DataError(f"{path}: {name!r} must be (snippets, {classes}), got {array.shape}")
        if foreground is not None and foreground.shape != array.shape[:1]:
            raise DataError(f"{path}: {name + _FOREGROUND!r} must be {array.shape[:1]}, got {foreground.shape}")
        for part in (array, foreground):
            if part is not None and not np.isfinite(part).all():
                raise DataError(f"{path}: {name!r} holds NaN or infinity")
        videos[name] = VideoActivations(
            array.astype(np.float32), None if foreground is None else foreground.astype(np.float32)
        )
    return videos
