"""Whether a step waits for its batch: python benchmarks/loader_wait.py [--steps 60] [--device cpu].

HAPT- and THUMOS-shaped features in a file of float16; for each way of getting at them the milliseconds a step that the
trainer waits for the loader, lays the batch out on the device, and computes.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import workloads as shapes

from d2net.config import make_config
from d2net.data.dataset import TrainingBatches
from d2net.data.features import open_features
from d2net.training.loop import Run
from d2net.training.step import train_step

VIDEOS = {"HAPT": 60, "THUMOS": 40}
WAYS = {
    "resident": {"train.resident": "on"},
    "read once, copied by a thread": {"train.resident": "off"},
    "read each time by a thread": {"train.resident": "off", "train.cache_gigabytes": 0},
}


def features_of(work: shapes.Workload, folder: Path) -> Path:
    """An .npz whose videos have the workload's lengths."""
    rng, path = np.random.default_rng(0), folder / "features.npz"
    lengths = np.resize(work.lengths, VIDEOS[work.name])
    np.savez(path, **{f"v{i}": rng.standard_normal((s, work.width), np.float32).astype(np.float16)
                      for i, s in enumerate(lengths)})  # fmt: skip
    return path


def measure(work: shapes.Workload, path: Path, way: dict[str, Any], device: torch.device, steps: int, out: Path) -> str:
    """One line of the table."""
    settings = {"train.iterations": steps, "train.batch_size": len(work.lengths), "loss.denoising_start": 0} | way
    config = make_config("hapt" if work.name == "HAPT" else "thumos14", "release", settings)
    store = open_features(path)
    labels = np.eye(work.classes, dtype=bool)[np.arange(len(store.names)) % work.classes]
    meta = {"classes": [str(i) for i in range(work.classes)], "width": work.width, "streams": 2, "timing": None}
    batches = TrainingBatches(store, store.names, labels, config.train, config.model.gap)
    run = Run(config, batches, out, meta, device, work.groups, progress=False)
    state = run.start(overwrite=True)
    parts: tuple[list[float], ...] = ([], [], [])
    with run._reading(0) as source:
        for _ in range(steps):
            marks = [time.perf_counter()]
            batch = next(source)
            marks.append(time.perf_counter())
            placed = run._placed(batch)
            _wait(device)
            marks.append(time.perf_counter())
            train_step(state, placed, config)
            _wait(device)
            marks.append(time.perf_counter())
            for part, a, b in zip(parts, marks, marks[1:], strict=False):
                part.append(1e3 * (b - a))
    run.log.close()  # type: ignore[union-attr]
    run.lock.release()  # type: ignore[union-attr]
    warm = [part[len(part) // 5 :] for part in parts]
    share = sum(warm[0]) / sum(map(sum, warm))
    middle = "".join(f"{statistics.median(part):9.3f}" for part in warm)
    return f"{middle}{max(warm[0]):9.3f}{100 * share:8.2f} %"


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args()
    device = torch.device(given.device)
    warnings.simplefilter("ignore")
    print(f"{given.steps} steps on {device}, {torch.get_num_threads()} threads; medians in ms, longest wait, its share")
    print(f"{'':40}{'wait':>9}{'lay out':>9}{'step':>9}{'longest':>9}{'waits':>10}")
    for work in (shapes.HAPT, shapes.THUMOS):
        with tempfile.TemporaryDirectory() as folder:
            path = features_of(work, Path(folder))
            for name, way in WAYS.items():
                line = measure(work, path, way, device, given.steps, Path(folder) / "run")
                print(f"{work.name + ', ' + name:40}{line}", flush=True)


if __name__ == "__main__":
    main()
