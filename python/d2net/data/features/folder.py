"""Features in a folder of arrays, a file a video or a file a stream."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from d2net.data.features.files import KINDS, TEXT, array_header, read_array, read_rows, reads_rows
from d2net.data.features.index import LEAST, Index, folder_state
from d2net.data.features.store import FeatureError, FeatureStore
from d2net.data.features.timing import FILE, timing_of_file
from d2net.data.files import read_json, reading, some

MOVE = "unlike the {} files beside it; if it is no video's features, move it elsewhere"


class FolderFeatures(FeatureStore):
    """Files of one or more streams for each video, joined along the width."""

    def __init__(self, path: Path, files: dict[str, tuple[Path, ...]]):
        self.files = files
        self.widths: dict[str, list[int]] = {}  # of the streams
        shapes = {}
        every = [part for parts in files.values() for part in parts]
        index = Index(path, folder_state(every)) if len(every) >= LEAST else None
        at = len(str(path))
        for name, parts in files.items():
            read = [partial(self._header, path, p, every) for p in parts]
            headers = [index.header(str(p)[at:], r) if index else r() for p, r in zip(parts, read, strict=True)]
            if len(parts) == 1:
                shapes[name] = headers[0]
                continue
            if odd := next((h for h in zip(parts, headers, strict=True) if len(h[1][0]) != 2), None):
                raise FeatureError(f"{odd[0]}: a stream must be (snippets, width), got {odd[1][0]}")
            if len({shape[0] for shape, _ in headers}) > 1:
                rows = " and ".join(
                    f"{p.relative_to(path)} has {shape[0]}" for p, (shape, _) in zip(parts, headers, strict=True)
                )
                raise FeatureError(f"{path}: the streams of {name!r} differ in rows: {rows}")
            kinds = [dtype for _, dtype in headers]
            kind = next((dtype for dtype in kinds if dtype.kind != "f"), None) or np.result_type(*kinds)
            self.widths[name] = [shape[1] for shape, _ in headers]
            shapes[name] = ((headers[0][0][0], sum(shape[1] for shape, _ in headers)), kind)
        try:
            super().__init__(str(path), shapes)
        except FeatureError as error:
            raise FeatureError(f"{error}{_stray(path, files, shapes)}") from error
        if index:
            index.save()
        if os.path.lexists(path / FILE):
            self.stated = timing_of_file(path / FILE, read_json(path / FILE))
        pairs = sum(len(parts) > 1 for parts in files.values())
        self.layout = "a folder, " + ("a file a video" if not pairs else "a file a stream, joined along the width")

    @staticmethod
    def _header(path: Path, part: Path, every: Sequence[Path]) -> tuple[tuple[int, ...], np.dtype]:
        try:
            return array_header(part)
        except FeatureError as error:
            like = sum(p.suffix == part.suffix for p in every)
            # A file by itself among many of another kind is no video, perhaps.
            hint = f"; {MOVE.format(len(every) - like)}" if 4 * like < len(every) else ""
            raise FeatureError(f"{error}{hint}") from error

    def sources(self) -> list[Path]:
        return [part for parts in self.files.values() for part in parts]

    def _read(self, name: str) -> np.ndarray:
        parts = [read_array(p) for p in self.files[name]]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    def reads_rows(self, name: str) -> bool:
        return not self.turned and all(map(reads_rows, self.files[name]))

    def _read_rows(self, name: str, first: int, end: int) -> np.ndarray | None:
        files = self.files[name]
        if len(files) == 1:
            return read_rows(files[0], self.stored_shape(name), first, end)
        found = [
            read_rows(p, (self.lengths[name], width), first, end)
            for p, width in zip(files, self.widths[name], strict=True)
        ]
        return None if any(x is None for x in found) else np.concatenate(found, axis=1)  # type: ignore[arg-type]


def _stray(path: Path, files: Mapping[str, tuple[Path, ...]], shapes: Mapping[str, tuple[tuple[int, ...], Any]]) -> str:
    """That a few files are unlike all the others, where they are."""
    kinds = {name: (len(shape), shape[-1] if shape else 0, dtype.kind) for name, (shape, dtype) in shapes.items()}
    (most, count), *_ = Counter(kinds.values()).most_common()
    odd = [files[name][0].relative_to(path).as_posix() for name, kind in kinds.items() if kind != most]
    if not odd or 4 * len(odd) >= len(kinds):
        return ""
    return f"; {some(odd)}: {MOVE.format(count)}"


def _arrays(folder: Path) -> dict[str, Path]:
    """The arrays of a folder by name, without hidden ones, such as macOS leaves beside copies (`._v.npy`).

    Text counts only where there is nothing else: beside arrays it is a list or a table.
    """
    if not folder.is_dir():
        return {}
    found: dict[str, Path] = {}
    held = sorted(e.name for e in os.scandir(folder) if not e.name.startswith("."))
    split = [os.path.splitext(name) for name in held]
    kinds = {kind.lower() for _, kind in split}
    wanted = KINDS if kinds & set(KINDS) else TEXT
    for stem, kind in split:
        if kind.lower() not in wanted:
            continue
        if stem in found:
            raise FeatureError(f"{folder}: video {stem!r} is there as {found[stem].name} and as {stem}{kind}")
        found[stem] = folder / f"{stem}{kind}"
    return found


def open_folder(path: Path, pairs: bool | None = None) -> FolderFeatures:
    """Opens `<video>.npy`, `<video>_rgb.npy` with `<video>_flow.npy`, `{rgb,flow}/` or `{train,test}/{rgb,flow}/`.

    The last may lie in a folder `features`, beside which BaS-Net, CoLA and ASM-Loc have their annotations.

    Args:
        pairs: whether `_rgb` and `_flow` are streams of a video; True where there must be such, None where there may.

    Raises:
        FeatureError: a stream is missing, a video is there twice, or two of these layouts are mixed.
    """
    with reading(path, "a folder of features", FeatureError):
        places, flat = _places(path), _arrays(path)
        if pairs is False:
            if not flat:
                _flat(path, flat)  # raises, with what there is
            return FolderFeatures(path, {name: (file,) for name, file in flat.items()})
        if not places and not flat and (path / "features").is_dir():
            path = path / "features"
            places, flat = _places(path), _arrays(path)
        if not places:
            files = _flat(path, flat)
            if pairs and (alone := [name for name, parts in files.items() if len(parts) == 1]):
                raise FeatureError(f"{path}: layout streams, but {some(alone)} are no pairs of _rgb and _flow")
            return FolderFeatures(path, files)
        if flat:
            raise FeatureError(
                f"{path} holds {len(flat)} arrays ({some(list(flat))}) beside the folders; keep one layout"
            )
        files = {}
        for place in places:
            streams = {kind: _arrays(place / kind) for kind in ("rgb", "flow")}
            for name in sorted({*streams["rgb"], *streams["flow"]}):
                if name in files:
                    raise FeatureError(f"{path}: video {name!r} is in {files[name][0].parent} and in {place / 'rgb'}")
                own = [(streams[kind].get(name), place / kind / f"{name}.npy") for kind in ("rgb", "flow")]
                files[name] = tuple(_part(path, name, found, wanted) for found, wanted in own)
        return FolderFeatures(path, files)


def _places(path: Path) -> list[Path]:
    return [p for p in (path, path / "train", path / "test") if (p / "rgb").is_dir() or (p / "flow").is_dir()]


def _part(path: Path, name: str, found: Path | None, wanted: Path) -> Path:
    if found is None:
        raise FeatureError(f"{path}: video {name!r} lacks its stream {wanted.relative_to(path)}")
    return found


def _flat(path: Path, arrays: dict[str, Path]) -> dict[str, tuple[Path, ...]]:
    """Pairs of streams as one video each; what is no pair is a video by itself."""
    if not arrays:
        kinds = Counter(Path(e.name).suffix.lower() for e in os.scandir(path) if not e.name.startswith("."))
        held = ", ".join(f"{count} {kind or 'without extension or folders'}" for kind, count in kinds.most_common(3))
        what = f"it holds {held}; save each video's as .npy, .npz, .pt, .safetensors or .csv" if held else "it is empty"
        raise FeatureError(f"{path}: no feature arrays in it: {what}")
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
            raise FeatureError(f"{path}: video {name!r} is there as {arrays[name].name} and as {name}_rgb; keep one")
        files[name] = (arrays[name],)
    return files
