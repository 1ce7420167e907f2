"""W-TALC's features: one .npy that is an object array, in the order of the annotations' videoname.npy."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from d2net.data.features.store import FeatureError, FeatureStore
from d2net.data.files import check_regular, reading, some
from d2net.data.pickles import load_npy

NAMES = "videoname.npy"


class WtalcFeatures(FeatureStore):
    """`*-I3D-JOINTFeatures.npy` beside `*-Annotations/videoname.npy`; held in memory, as the file is one pickle."""

    layout = "W-TALC's object array in the order of videoname.npy"

    def __init__(self, path: Path):
        with reading(path, "W-TALC's object array of features", FeatureError):
            check_regular(path, FeatureError)
            with open(path, "rb") as file:
                found = load_npy(file)
            if found.dtype != object or found.ndim != 1:
                raise FeatureError(
                    f"{path} is one array of {found.dtype} {found.shape}; name the folder that holds it, a file a video"
                )
            names = _names(path)
            if len(names) != len(found):
                count = f"{len(found)} arrays, but {_names_file(path)} names {len(names)} videos"
                raise FeatureError(f"{path} holds {count}")
            arrays = {name: np.asarray(x) for name, x in zip(names, found.tolist(), strict=True)}
            if len(arrays) < len(names):
                twice = next(n for n in names if names.count(n) > 1)
                raise FeatureError(f"{_names_file(path)}: video {twice!r} is in it twice")
        self.arrays = arrays
        super().__init__(str(path), {name: (x.shape, x.dtype) for name, x in arrays.items()})

    def _read(self, name: str) -> np.ndarray:
        return self.arrays[name]


def _names_file(path: Path) -> Path:
    """videoname.npy in the annotations' folder that belongs to the features, else beside them."""
    start = path.name.partition("-")[0].lower()
    folders = sorted(p.parent for p in path.parent.glob(f"*-Annotations/{NAMES}"))
    own = [f for f in folders if f.name.lower().startswith(start)] or folders
    if len(own) > 1:
        raise FeatureError(f"{path}: its names may be in {some([f.name for f in own])}; keep one beside it")
    return own[0] / NAMES if own else path.parent / NAMES


def _names(path: Path) -> list[str]:
    place = _names_file(path)
    with reading(place, "an array of names", FeatureError):
        check_regular(place, FeatureError)
        with open(place, "rb") as file:
            return text_list(load_npy(file))


def text_list(array: np.ndarray) -> list[str]:
    """Names of a 1-D array, Python 2's byte strings included."""
    return [x.decode("utf-8", "replace") if isinstance(x, bytes) else str(x) for x in array.reshape(-1).tolist()]
