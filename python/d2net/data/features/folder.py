"""Features in a folder of .npy files, a file a video or a file a stream."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np

from d2net.data.features.store import FeatureError, FeatureStore, header
from d2net.data.files import check_regular, reading, some


class FolderFeatures(FeatureStore):
    """Files of one or more streams for each video, joined along the width."""

    def __init__(self, path: Path, files: dict[str, tuple[Path, ...]]):
        self.files = files
        shapes = {}
        for name, parts in files.items():
            headers = [_header(p) for p in parts]
            if any(len(shape) != 2 for shape, _ in headers):
                shapes[name] = next(h for h in headers if len(h[0]) != 2)
                continue
            if len({shape[0] for shape, _ in headers}) > 1:
                rows = " and ".join(
                    f"{p.relative_to(path)} has {shape[0]}" for p, (shape, _) in zip(parts, headers, strict=True)
                )
                raise FeatureError(f"{path}: the streams of {name!r} differ in rows: {rows}")
            odd = next((dtype for _, dtype in headers if dtype.kind != "f"), headers[0][1])
            shapes[name] = ((headers[0][0][0], sum(shape[1] for shape, _ in headers)), odd)
        super().__init__(str(path), shapes)

    def _read(self, name: str) -> np.ndarray:
        parts = [_array(p) for p in self.files[name]]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def _header(path: Path) -> tuple[tuple[int, ...], np.dtype]:
    with reading(path, "a NumPy array", FeatureError):
        check_regular(path, FeatureError)
        with open(path, "rb") as file:
            return header(file, os.fstat(file.fileno()).st_size)


def _array(path: Path) -> np.ndarray:
    with reading(path, "a NumPy array", FeatureError), open(path, "rb") as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _arrays(folder: Path) -> dict[str, Path]:
    """The .npy files of a folder by name, without hidden ones, such as macOS leaves beside copies (`._v.npy`)."""
    if not folder.is_dir():
        return {}
    found = sorted(e.path for e in os.scandir(folder) if e.name.lower().endswith(".npy") and not e.name.startswith("."))
    return {Path(p).stem: Path(p) for p in found}


def open_folder(path: Path) -> FolderFeatures:
    """Opens `<video>.npy`, `<video>_rgb.npy` with `<video>_flow.npy`, `{rgb,flow}/` or `{train,test}/{rgb,flow}/`.

    Raises:
        FeatureError: a stream is missing, a video is there twice, or two of these layouts are mixed.
    """
    with reading(path, "a folder of features", FeatureError):
        places = [p for p in (path, path / "train", path / "test") if (p / "rgb").is_dir() or (p / "flow").is_dir()]
        flat = _arrays(path)
        if not places:
            return FolderFeatures(path, _flat(path, flat))
        if flat:
            raise FeatureError(
                f"{path} holds {len(flat)} .npy files ({some(list(flat))}) beside the folders; keep one layout"
            )
        files: dict[str, tuple[Path, ...]] = {}
        for place in places:
            streams = {kind: _arrays(place / kind) for kind in ("rgb", "flow")}
            for name in sorted({*streams["rgb"], *streams["flow"]}):
                parts = tuple(place / kind / f"{name}.npy" for kind in ("rgb", "flow"))
                if name in files:
                    raise FeatureError(f"{path}: video {name!r} is in {files[name][0].parent} and in {parts[0].parent}")
                there = [streams[kind].get(name) for kind in ("rgb", "flow")]
                files[name] = tuple(_part(path, name, found, p) for found, p in zip(there, parts, strict=True))
        return FolderFeatures(path, files)


def _part(path: Path, name: str, found: Path | None, wanted: Path) -> Path:
    if found is None:
        raise FeatureError(f"{path}: video {name!r} lacks its stream {wanted.relative_to(path)}")
    return found


def _flat(path: Path, arrays: dict[str, Path]) -> dict[str, tuple[Path, ...]]:
    """Pairs of streams as one video each; what is no pair is a video by itself."""
    if not arrays:
        kinds = Counter(Path(e.name).suffix.lower() for e in os.scandir(path) if not e.name.startswith("."))
        held = ", ".join(f"{count} {kind or 'without extension or folders'}" for kind, count in kinds.most_common(3))
        what = f"it holds {held}; convert them to .npy, a file a video, or to one .npz" if held else "it is empty"
        raise FeatureError(f"{path}: no .npy feature arrays in it: {what}")
    pairs = [n for n in arrays if n.endswith(("_rgb", "_flow"))]
    stems = sorted({n.removesuffix("_rgb").removesuffix("_flow") for n in pairs})
    files: dict[str, tuple[Path, ...]] = {}
    for stem in stems:
        names = [f"{stem}_{kind}" for kind in ("rgb", "flow")]
        files[stem] = tuple(_part(path, stem, arrays.get(n), path / f"{n}.npy") for n in names)
    for name in arrays:
        if name in pairs:
            continue
        if name in files:
            raise FeatureError(f"{path}: video {name!r} is there as {name}.npy and as {name}_rgb.npy; keep one")
        files[name] = (arrays[name],)
    return files
