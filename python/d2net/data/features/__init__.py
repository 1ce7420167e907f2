"""Feature arrays by video, opened by their layout."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

from d2net.data.features.extracted import LOG, ExtractedFeatures
from d2net.data.features.folder import FolderFeatures as FolderFeatures
from d2net.data.features.folder import open_folder
from d2net.data.features.hdf5 import Hdf5Features as Hdf5Features
from d2net.data.features.listing import listed
from d2net.data.features.npz import NpzFeatures as NpzFeatures
from d2net.data.features.shapes import Axis, Crops, LayoutWarning, taken_as
from d2net.data.features.shards import INDEX, are_shards, open_shards
from d2net.data.features.shards import ShardedFeatures as ShardedFeatures
from d2net.data.features.store import FeatureError as FeatureError
from d2net.data.features.store import FeatureStore as FeatureStore
from d2net.data.features.store import check_streams as check_streams
from d2net.data.features.tensors import SafetensorsFeatures as SafetensorsFeatures
from d2net.data.features.wtalc import WtalcFeatures as WtalcFeatures
from d2net.data.files import check_regular, reading
from d2net.data.layouts import named_reader

# By name, to read what the content does not tell as the user says.
LAYOUTS: dict[str, Callable[[Path], FeatureStore]] = {
    "npz": NpzFeatures,
    "hdf5": Hdf5Features,
    "safetensors": SafetensorsFeatures,
    "wtalc": WtalcFeatures,
    "folder": partial(open_folder, pairs=False),
    "streams": partial(open_folder, pairs=True),
    "extracted": ExtractedFeatures,
    "shards": open_shards,
}


def open_features(
    path: str | os.PathLike, *, crops: Crops = "mean", layout: str | None = None, axis: Axis | None = None
) -> FeatureStore:
    """Opens features by their layout.

    What ``d2net extract`` wrote; one ``.npz`` or ``.safetensors`` keyed by video; ``.h5``/``.hdf5`` with a dataset per
    video; a folder of ``<video>.npy`` (or ``.npz``, ``.pt``, ``.safetensors``, BMN's ``.csv``), of ``<video>_rgb.npy``
    and ``<video>_flow.npy``, or of ``{train,test}/{rgb,flow}/<video>.npy``; a folder of shards, each an ``.npz``,
    ``.h5`` or ``.safetensors`` of many videos; W-TALC's one ``.npy`` beside its
    ``*-Annotations`` folder. Arrays are (snippets, width); a batch axis of 1 is dropped, ten crops
    (snippets, 10, width) are one, (width, snippets) is turned where it is the only reading; both are said.

    Args:
        path: the file or folder.
        crops: what is made of ten crops: their mean, or the first (the centre, in most extractors).
        layout: one of LAYOUTS, whatever the path is called; `folder` takes every file for a video, `streams` joins
            `_rgb` and `_flow`.
        axis: `rows`, never turned, or `transposed`, all arrays are (width, snippets).

    Returns:
        a mapping of names to arrays (snippets, width), float16 or float32, each read when it is asked for.

    Raises:
        FeatureError: not there, truncated, pickled, empty, or of unequal widths.
    """
    if crops not in ("mean", "first"):
        raise FeatureError(f"crops must be mean or first, got {crops!r}")
    if axis not in (None, "rows", "transposed"):
        raise FeatureError(f"axis must be rows or transposed, got {axis!r}")
    with taken_as(axis):
        store = _opened(Path(path), layout)
    store.crops = crops
    for note in store.notes:
        used = f"; of each ten the {crops} is used" if "crops" in note else ""
        warnings.warn(f"{path}: {note}{used}", LayoutWarning, stacklevel=2)
    return store


def _opened(path: Path, layout: str | None) -> FeatureStore:
    with reading(path, "features", FeatureError):
        if not path.exists():
            raise FeatureError(f"no features at {path}")
        if not path.is_dir():
            check_regular(path, FeatureError)
        if layout is not None:
            return named_reader("features", path, layout, LAYOUTS)(path)
        if path.is_dir():
            if (path / LOG).exists():
                return ExtractedFeatures(path)
            listing = listed(path)
            return open_shards(path) if are_shards(listing) else open_folder(path, listing=listing)
    kind = path.suffix.lower()
    if path.name.endswith(INDEX):
        return open_shards(path)
    if kind in (".h5", ".hdf5"):
        return Hdf5Features(path)
    if kind == ".npz":
        return NpzFeatures(path)
    if kind == ".safetensors":
        return SafetensorsFeatures(path)
    if kind == ".npy":
        return WtalcFeatures(path)
    what = "an .npz, .h5 or .safetensors, or a folder of .npy files"
    raise FeatureError(f"{path}: features are {what}, not {kind or 'this'}; say --layout if it is one of them")
