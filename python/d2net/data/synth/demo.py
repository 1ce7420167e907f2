"""Made-up two-stream features with weak labels and known segments, to try the whole path on."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from d2net.data.files import write_atomically, write_text

FPS, STRIDE = 25.0, 16.0


class Synthetic(NamedTuple):
    """Feature arrays (s, d) float16 by video, and an ActivityNet-style annotation tree."""

    features: dict[str, np.ndarray]
    annotations: dict[str, Any]


def smooth(x: np.ndarray, width: int) -> np.ndarray:
    """Moving average along time that keeps the variance of white noise."""
    sums = np.cumsum(np.pad(x, ((width, 0), (0, 0))), axis=0)
    return (sums[width:] - sums[:-width]) / np.sqrt(width)


def _segments(rng: np.random.Generator, s: int, n_classes: int) -> list[tuple[int, int, int]]:
    """(class, first, end) snippets of one or two classes, separated by background."""
    classes = rng.choice(n_classes, size=rng.integers(1, 3), replace=False)
    found, at = [], int(rng.integers(4, 14))
    while at < s - 8:
        length = int(rng.integers(6, 20))
        found.append((int(rng.choice(classes)), at, min(at + length, s - 2)))
        at += length + int(rng.integers(8, 30))
    return found


def make_synthetic(
    videos: int = 90, classes: int = 5, width: int = 64, *, noise: float = 0.9, test_share: float = 1 / 3, seed: int = 0
) -> Synthetic:
    """Videos of 40 to 200 snippets whose class and background patterns differ in both streams, under noise.

    Args:
        width: of both streams together, even.
    """
    if width % 2 or width < 2:
        raise ValueError(f"make_synthetic: width must be even, got {width}")
    rng = np.random.default_rng(seed)
    patterns = rng.standard_normal((classes, width))
    backgrounds = rng.standard_normal((4, width))
    features: dict[str, np.ndarray] = {}
    database: dict[str, Any] = {}
    names = [f"class_{c}" for c in range(classes)]
    for v in range(videos):
        s = int(rng.integers(40, 200))
        x = backgrounds[np.repeat(rng.integers(4, size=-(-s // 10)), 10)[:s]] * 0.7
        x = x + noise * smooth(rng.standard_normal((s, width)), 3)
        segments = _segments(rng, s, classes)
        for c, a, b in segments:
            x[a:b] += patterns[c]
        name = f"video_{v:03d}"
        features[name] = x.astype(np.float16)
        second = STRIDE / FPS
        database[name] = {
            "subset": "test" if v < test_share * videos else "train",
            "duration_second": round(s * second, 3),
            "annotations": [
                {"label": names[c], "segment": [round(a * second, 3), round(b * second, 3)]} for c, a, b in segments
            ],
        }
    streams = [[0, width // 2, "first"], [width // 2, width, "second"]]
    return Synthetic(features, {"version": "synthetic", "classes": names, "streams": streams, "database": database})


def write_synthetic(folder: str | os.PathLike, data: Synthetic) -> tuple[Path, Path]:
    """Writes features.npz and annotations.json into `folder`; returns their paths."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "features.npz", lambda file: np.savez(file, **data.features))  # type: ignore[arg-type]
    write_text(folder / "annotations.json", json.dumps(data.annotations))
    return folder / "features.npz", folder / "annotations.json"
