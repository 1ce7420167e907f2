"""Features in a folder of .npy files, a file a video or a file a stream."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from d2net.data.features.store import FeatureError, FeatureStore, header


class FolderFeatures(FeatureStore):
    """Files of one or more streams for each video, joined along the width."""

    def __init__(self, path: Path, files: dict[str, tuple[Path, ...]]):
        self.files = files
        shapes = {}
        for name, parts in files.items():
            headers = [header(open(p, "rb"), str(p)) for p in parts]  # noqa: SIM115
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


def open_folder(path: Path) -> FolderFeatures:
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
