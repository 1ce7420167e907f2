"""What localize's GPU code executes on 210 videos as in bench_localize.py, and the time that it predicts for an H200.

python benchmarks/localize_work.py     needs nvcc, g++ and nvdisasm as Triton carries it, no GPU; two minutes

A kernel takes the longest of three: its instructions at the rate that schedulers keep up, the work of all its blocks on
the places that there are for them, and its slowest turn, alone. scripts/executed.py says how instructions are counted.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import workloads as shapes
from peers import localize as by

ROOT = Path(__file__).resolve().parents[1]
sys.path += [str(ROOT / "scripts"), str(ROOT / "tests")]
from executed import executed, machine_code  # noqa: E402
from gpuemu import build, csrc  # noqa: E402
from kernel_table import ISSUE, KEPT_UP  # noqa: E402

VIDEOS, ARCH, LAUNCH = 210, "90", 2.0  # µs a launch
CLOCK, MULTIPROCESSORS = 1.755e3, 132  # cycles a µs
RESIDENT = 5  # blocks of item_kernel on a multiprocessor


def nvdisasm() -> str:
    import triton

    return shutil.which("nvdisasm") or str(Path(triton.__file__).parent / "backends/nvidia/bin/nvdisasm")


def program(cache: Path) -> tuple[Path, Path]:
    """The traced program, and the PTX of localize.cu that is in it."""
    sources = [
        ROOT / "benchmarks/localize_work.cu",
        *(ROOT / f"csrc/cuda/{name}.cu" for name in ("localize", "device")),
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        parts = csrc.program(cache, ROOT, sources, [ARCH], pool, trace=True)[ARCH]
    ptx = csrc.with_nvcc(cache, ROOT, sources[1], [ARCH]) / f"localize.{ARCH}.ptx"
    return csrc.link(cache, parts), ptx


def run(binary: Path, folder: Path, chosen: int) -> int:
    """The number of detections; one trace a launch is left in the folder."""
    work = shapes.Workload("THUMOS14 test", tuple(shapes.thumos_lengths(VIDEOS)))
    arrays = {
        "lengths": np.asarray(work.lengths, np.int64),
        "activations": shapes.smooth_activations(work.total, work.classes).numpy().astype(np.float32),
        "thresholds": np.asarray(by.SETTINGS["thresholds"], np.float64),
        "mask": np.asarray(shapes.class_mask(VIDEOS, work.classes, chosen), np.uint8),
    }
    (folder / "traces").mkdir()
    for name, array in arrays.items():
        array.tofile(folder / name)
    rules = map(str, (by.MIN_SCORE, by.MIN_LENGTH, by.IOU, by.KEEP))
    environment = {
        **os.environ,
        "GPUEMU_ARCH": ARCH,
        "GPUEMU_SHARED": str(build.SHARED[int(ARCH)] << 10),
        "GPUEMU_NO_RACES": "1",
        "GPUEMU_SECONDS": "1800",
        "GPUEMU_TRACE": str(folder / "traces"),
    }
    command = [str(binary), *(str(folder / name) for name in arrays), *rules]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return int(done.stdout)


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--cache", help="folder for build products; else $GPUEMU_CACHE, else build/gpuemu")
    cache = build.cache_folder(ROOT, arguments.parse_args().cache)
    if not shutil.which("nvcc") or not shutil.which(build.CXX):
        print(f"localize_work: needs nvcc and {build.CXX} on PATH", file=sys.stderr)
        return 77
    binary, ptx = program(cache)
    print("| classes | kernel | 10⁶ of warps' instructions | cycles each | issue | all blocks | longest turn | µs |")
    print("| --- " * 8 + "|")
    for chosen in (20, 2):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            found = run(binary, folder, chosen)
            cubin = folder / "localize.cubin"
            build.run(["ptxas", "-lineinfo", f"-arch=sm_{ARCH}", ptx, "-o", cubin])
            code, total = machine_code(cubin, nvdisasm()), 0.0
            for trace in sorted((folder / "traces").iterdir()):
                kernel = trace.name.split(".", 1)[1]
                short = next(part for part in ("place", "item", "write") if f"{part}_kernel" in kernel)
                ran = executed(ptx.read_text(), code[kernel], kernel, trace)
                turns, issue = ran.turns / CLOCK, ran.instructions * 32 / (ISSUE * KEPT_UP) * 1e6
                # One block places; those of item_kernel take turns, and those of write_kernel are all there at once.
                longest = turns.sum() if short == "place" else turns.max()
                every = turns.sum() / (MULTIPROCESSORS * RESIDENT) if short == "item" else 0
                took = max(issue, every, longest)
                total += took + LAUNCH
                cells = f"{ran.instructions / 1e6:.2f} | {ran.cycles:.1f} | {issue:.0f} | {every:.0f} | {longest:.0f}"
                print(f"| {chosen} | `{short}_kernel` | {cells} | {took:.0f} |")
            print(f"| {chosen} | {found} detections, with launches | | | | | | {total:.0f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
