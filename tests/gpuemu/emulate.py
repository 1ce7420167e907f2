#!/usr/bin/env python3
"""Runs the library's GPU code on the emulated GPU, for sm_80 and sm_90: `make emulate`. Exit 77: no tools for it.

What ran goes to build/gpuemu/record.json; the cache is beside it.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path += [str(ROOT / "tests"), str(ROOT / "benchmarks")]

from gpuemu import build  # noqa: E402

ARCHS = (80, 90)


class Part(NamedTuple):
    name: str
    command: list[str]
    results: Path  # JSON: op, or module of kernels, to whether it passed


def why_not() -> dict[str, str]:
    """What cannot run, "csrc/checks" or "Triton", to why."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return dict.fromkeys(("csrc/checks", "Triton"), f"generated code needs AVX2 and FMA, not {platform.machine()}")
    if not shutil.which(build.CXX):
        return dict.fromkeys(("csrc/checks", "Triton"), f"no {build.CXX} on PATH; set CXX")
    found = {}
    nvcc = os.environ.get("NVCC", "nvcc")
    if not shutil.which(nvcc):
        found["csrc/checks"] = f"no {nvcc} on PATH; set NVCC"
    for name in ("pytest", "torch", "triton"):
        if importlib.util.find_spec(name) is None:
            found["Triton"] = f"no {name} in {sys.executable}"
    return found


def parts(cache: Path, skipped: dict[str, str], jobs: int, whole: bool, orders: int) -> Iterator[Part]:
    if "csrc/checks" not in skipped:
        results = cache / "results-checks.json"
        command = [str(build.HERE / "csrc.py"), str(ROOT), *map(str, ARCHS), f"--orders={orders}", f"--jobs={jobs}"]
        yield Part("csrc/checks", [*command, f"--results={results}"], results)
    if "Triton" in skipped:
        return
    launched = (80, 90, 100, 120) if whole else ARCHS
    runs = [("tiles", ["tests/gpuemu/library_tests"], arch) for arch in ARCHS]
    runs += [("launches", ["--gpuemu-launches", "tests/gpuemu/launch_tests"], arch) for arch in launched]
    runs += [("kernels", [f"--gpuemu-part={i}/2", "tests/triton"], arch) for arch in ARCHS for i in (1, 2)]
    for number, (what, options, arch) in enumerate(reversed(runs)):
        results = cache / f"results-{number}.json"
        command = ["-m", "pytest", "-q", "-p", "gpuemu", "-p", "no:cacheprovider", "-W", "ignore"]
        command += [f"--gpuemu-arch={arch}", f"--gpuemu-results={results}", *([] if whole else ["--gpuemu-quick"])]
        yield Part(f"{what}, sm_{arch}", [*command, *options], results)


def run(part: Part) -> bool:
    """Whether the part passed; prints what it said."""
    part.results.unlink(missing_ok=True)
    paths = [str(ROOT / "tests"), str(ROOT), str(ROOT / "python"), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "CUDA_VISIBLE_DEVICES": ""}
    environment |= {"OMP_NUM_THREADS": "1", "GPUEMU_CACHE": str(part.results.parent)}
    environment.pop("TRITON_INTERPRET", None)
    start = time.monotonic()
    done = subprocess.run([sys.executable, *part.command], capture_output=True, text=True, cwd=ROOT, env=environment)
    passed = done.returncode == 0
    lines = (done.stdout + done.stderr).strip().splitlines()
    said = [line for line in lines if line.startswith(("gpuemu", "sm_", "  gpuemu")) or " passed" in line]
    print(f"{'passed' if passed else 'FAILED'}: {part.name}, {time.monotonic() - start:.0f} s")
    print("\n".join(f"  {line}" for line in (said if passed else lines)), flush=True)
    return passed


def record(ran: list[tuple[Part, bool]], before: dict[str, str], after: dict[str, str]) -> dict[str, dict[str, object]]:
    """Every kernel that was launched and run, by hashes before and after that are equal; see README.md."""
    passed: dict[str, bool] = {}
    broken: set[str] = set()  # backends of which a part failed and no kernel of it did
    for part, fine in ran:
        if part.name.startswith("launches"):
            continue
        backend = "native" if part.name == "csrc/checks" else "triton"
        found = json.loads(part.results.read_text()) if part.results.exists() else {}
        if not fine and all(found.values()):
            broken.add(backend)
        for name, good in found.items():
            # A module of Triton kernels is d2kernels.ops.OP.FILE.
            kernel = f"{name.split('.')[2] if backend == 'triton' else name}/{backend}"
            passed[kernel] = passed.get(kernel, True) and good
    return {
        name: {"hash": digest, "arch": list(ARCHS), "passed": passed[name] and name.split("/")[1] not in broken}
        for name, digest in before.items()
        if name in passed and after.get(name) == digest
    }


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--all", action="store_true", help="every test of tests/triton, every launch")
    arguments.add_argument("--orders", type=int, default=0, metavar="N", help="the checks N times more, any order")
    arguments.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    asked = arguments.parse_args()
    skipped = why_not()
    for what, why in skipped.items():
        print(f"skipped: {what}: {why}")
    if len(skipped) == 2:
        return 77
    from verified import kernels

    before = kernels(ROOT)
    start, cache = time.monotonic(), build.cache_folder(ROOT)
    todo = list(parts(cache, skipped, asked.jobs, asked.all, asked.orders))
    with ThreadPoolExecutor(asked.jobs) as pool:
        ran = list(zip(todo, pool.map(run, todo), strict=True))
    made = record(ran, before, kernels(ROOT))
    (cache / "record.json").write_text(json.dumps(made, indent=1) + "\n")
    wrong = [part.name for part, fine in ran if not fine]
    print(f"{len(ran) - len(wrong)} of {len(ran)} parts passed in {time.monotonic() - start:.0f} s", *wrong, sep="; ")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
