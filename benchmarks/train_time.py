"""`d2net train` all in, process start to exit, by this tree and by another revision in turn.

python benchmarks/train_time.py BASE [--iterations 2000] [--runs 2] [--threads 1]

Recordings like HAPT's are made up (61 of 60 to 200 snippets, 128 features of two sensors, 12 classes); the preset is
`hapt`.
Prints each run's seconds and CPU seconds, and the ratio of the fastest of both sides. A BASE that is a folder is a tree
that is already built.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from compare import ROOT, checkout

VIDEOS, WIDTH, CLASSES, SECONDS = 61, 128, 12, 0.32


def make(folder: Path) -> None:
    """features.npz and annotations.json: each class is a direction, each recording some stretches of a few of them."""
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((CLASSES, WIDTH)).astype(np.float32)
    features, database = {}, {}
    for i in range(VIDEOS):
        rows, name = int(rng.integers(60, 200)), f"recording_{i:02}"
        x = rng.standard_normal((rows, WIDTH)).astype(np.float32)
        segments = []
        for a in range(5, rows - 20, 25):
            label = int(rng.integers(CLASSES))
            x[a : a + 15] += directions[label]
            segments.append({"label": f"c{label}", "segment": [a * SECONDS, (a + 15) * SECONDS]})
        features[name] = x
        database[name] = {"subset": "train", "duration_second": rows * SECONDS, "annotations": segments}
    np.savez(folder / "features.npz", **features)  # type: ignore[arg-type]
    tree = {"classes": [f"c{c}" for c in range(CLASSES)], "database": database}
    (folder / "annotations.json").write_text(json.dumps(tree))


def train(tree: Path, folder: Path, iterations: int, threads: int) -> tuple[float, float]:
    """Seconds and CPU seconds of one process.

    Raises:
        SystemExit: it failed.
    """
    paths = os.pathsep.join([str(tree), str(tree / "python")])
    command = [sys.executable, "-m", "d2net", "train", "--preset", "hapt", "--set", f"train.iterations={iterations}"]
    settings = "model.streams=2", "model.classifier_kernel_size=3", "model.classifier_dilation=1"  # as BASE has them
    command += [word for setting in settings for word in ("--set", setting)]
    command += ["--features", str(folder / "features.npz"), "--annotations", str(folder / "annotations.json")]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    with tempfile.TemporaryDirectory(dir=folder) as out:
        done = subprocess.run(
            [*command, "--out", f"{out}/run"],
            cwd=tree,
            env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": str(threads)},
            capture_output=True,
            text=True,
        )
    took, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"train_time: d2net train of {tree} failed:\n{done.stderr[-2000:]}")
    return took, sum(getattr(after, name) - getattr(before, name) for name in ("ru_utime", "ru_stime"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", help="git revision, or a folder with a built tree")
    parser.add_argument("--iterations", type=int, default=2000)
    parser.add_argument("--runs", type=int, default=2, help="of each side (default 2)")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder)
        base = Path(given.base).resolve() if Path(given.base).is_dir() else checkout(ROOT, given.base, folder / "base")
        least: dict[Path, list[float]] = {}
        for _ in range(given.runs):
            for tree in (base, ROOT):
                took = train(tree, folder, given.iterations, given.threads)
                best = least.setdefault(tree, list(took))
                least[tree] = [min(pair) for pair in zip(best, took, strict=True)]
                print(f"{'base' if tree == base else 'this tree'}: {took[0]:.1f} s, CPU {took[1]:.1f} s", flush=True)
        for what, old, new in zip(("seconds", "CPU seconds"), least[base], least[ROOT], strict=True):
            print(f"{what}: {old:.1f} -> {new:.1f}, {old / new:.2f} times as fast")


if __name__ == "__main__":
    main()
