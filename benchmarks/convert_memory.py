"""Peak memory and time of d2net convert on many made-up videos, whose files are sparse and take no room.

    python benchmarks/convert_memory.py [--videos 5000] [--most 20]

Each format is written from a folder by a process of its own. Exits 1 where the peak beyond that of 100 videos is more
than `--most` KiB a video: names, shapes and checksums are kept, data are not.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

FORMATS = ("f.npz", "f.h5", "f.safetensors", "folder")
FEW = 100

MEASURED = """
import resource, sys, time
from d2net.data.convert import convert
began = time.perf_counter()
convert(sys.argv[1], sys.argv[2])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter() - began)
"""


def make(folder: Path, videos: int, snippets: int, width: int) -> int:
    """Files of zeros that no block holds; returns their bytes."""
    folder.mkdir()
    total = 0
    for i in range(videos):
        head = io.BytesIO()
        shape = (snippets + i % 7, width)
        np.lib.format.write_array_header_1_0(head, {"descr": "<f2", "fortran_order": False, "shape": shape})
        size = len(head.getvalue()) + shape[0] * shape[1] * 2
        with open(folder / f"video_{i:07}.npy", "wb") as file:
            file.write(head.getvalue())
            file.truncate(size)
        total += size
    return total


def measure(source: Path, out: Path) -> tuple[int, float]:
    """(peak KiB, seconds) of one conversion."""
    command = [sys.executable, "-c", MEASURED, source, out]
    own_cache = {**os.environ, "XDG_CACHE_HOME": str(out.parent)}
    done = subprocess.run(command, capture_output=True, text=True, env=own_cache)
    if done.returncode:
        raise RuntimeError(done.stderr)
    peak, seconds = done.stdout.split()
    return int(peak), float(seconds)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=5000)
    parser.add_argument("--snippets", type=int, default=50)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--most", type=float, default=20.0, help="KiB a video beyond the peak of 100")
    parser.add_argument("--formats", nargs="+", default=FORMATS, choices=FORMATS)
    asked = parser.parse_args()
    base, worst = Path(tempfile.mkdtemp()), 0.0
    try:
        make(base / "few", FEW, asked.snippets, asked.width)
        size = make(base / "many", asked.videos, asked.snippets, asked.width)
        print(f"{asked.videos} videos, {size / 1e6:.0f} MB; peak resident memory")
        for name in asked.formats:
            small, _ = measure(base / "few", base / f"few_{name}")
            peak, seconds = measure(base / "many", base / f"many_{name}")
            each = (peak - small) / max(1, asked.videos - FEW)
            worst = max(worst, each)
            few = f"of {FEW} videos {small / 1024:.0f} MiB"
            print(f"{name:15}{peak / 1024:6.0f} MiB, {few}: {each:.2f} KiB a video; {seconds:.1f} s", flush=True)
            for out in (base / f"few_{name}", base / f"many_{name}"):
                shutil.rmtree(out) if out.is_dir() else out.unlink()
    finally:
        shutil.rmtree(base)
    if worst > asked.most:
        print(f"more than {asked.most:g} KiB a video")
    return int(worst > asked.most)


if __name__ == "__main__":
    sys.exit(main())
