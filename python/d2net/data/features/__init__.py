"""Feature arrays by video, opened by their layout."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

from d2net.data.features.extracted import LOG, ExtractedFeatures
from d2net.data.features.folder import FolderFeatures as FolderFeatures
from d2net.data.features.folder import open_folder
from d2net.data.features.hdf5 import Hdf5Features as Hdf5Features
from d2net.data.features.npz import NpzFeatures as NpzFeatures
from d2net.data.features.store import Crops, LayoutWarning
from d2net.data.features.store import FeatureError as FeatureError
from d2net.data.features.store import FeatureStore as FeatureStore
from d2net.data.features.store import check_streams as check_streams
from d2net.data.features.tensors import SafetensorsFeatures as SafetensorsFeatures
from d2net.data.features.wtalc import WtalcFeatures as WtalcFeatures
from d2net.data.files import check_regular, reading


def open_features(path: str | os.PathLike, *, crops: Crops = "mean") -> FeatureStore:
    """Opens features by their layout.

    What ``d2net extract`` wrote; one ``.npz`` or ``.safetensors`` keyed by video; ``.h5``/``.hdf5`` with a dataset per
    video; a folder of ``<video>.npy`` (or ``.npz``, ``.pt``, ``.safetensors``, BMN's ``.csv``), of ``<video>_rgb.npy``
    and ``<video>_flow.npy``, or of ``{train,test}/{rgb,flow}/<video>.npy``; W-TALC's one ``.npy`` beside its
    ``*-Annotations`` folder. Arrays are (snippets, width); a batch axis of 1 is dropped, ten crops
    (snippets, 10, width) are one, (width, snippets) is turned where it is the only reading; both are said.

    Args:
        crops: what is made of ten crops: their mean, or the first (the centre, in most extractors).

    Raises:
        FeatureError: not there, truncated, pickled, empty, or of unequal widths.
    """
    if crops not in ("mean", "first"):
        raise FeatureError(f"crops must be mean or first, got {crops!r}")
    store = _opened(Path(path))
    store.crops = crops
    for note in store.notes:
        used = f"; of each ten the {crops} is used" if "crops" in note else ""
        warnings.warn(f"{path}: {note}{used}", LayoutWarning, stacklevel=2)
    return store


def _opened(path: Path) -> FeatureStore:
    with reading(path, "features", FeatureError):
        if path.is_dir():
            return ExtractedFeatures(path) if (path / LOG).exists() else open_folder(path)
        if not path.exists():
            raise FeatureError(f"no features at {path}")
        check_regular(path, FeatureError)
    kind = path.suffix.lower()
    if kind in (".h5", ".hdf5"):
        return Hdf5Features(path)
    if kind == ".npz":
        return NpzFeatures(path)
    if kind == ".safetensors":
        return SafetensorsFeatures(path)
    if kind == ".npy":
        return WtalcFeatures(path)
    what = "an .npz, .h5 or .safetensors, or a folder of .npy files"
    raise FeatureError(f"{path}: features are {what}, not {kind or 'this'}")
