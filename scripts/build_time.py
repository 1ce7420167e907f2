"""What building costs in processor time, file by file, in a copy of this tree and without ccache.

python scripts/build_time.py [auto|cpu|cuda] [--most SECONDS]     exit status 1 where it takes more than that
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOG = "D2K_BUILD_TIME_LOG"


def used() -> float:
    """CPU seconds of all processes that this one has waited for, theirs included."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def launch(command: list[str]) -> int:
    """Runs one compiler and notes what it took; CMake puts this script before each."""
    status = subprocess.run(command).returncode
    source = next((a for a in reversed(command) if a.endswith((".cpp", ".cu", ".cxx"))), command[-1])
    with open(os.environ[LOG], "a") as log:
        log.write(json.dumps([Path(source).parent.name + "/" + Path(source).name, used()]) + "\n")
    return status


def build(choice: str, folder: Path) -> tuple[dict[str, float], float, float]:
    """CPU seconds of each source file, of everything, and seconds by the clock."""
    skip = shutil.ignore_patterns("__pycache__", "*.so", "_build_info.json")
    for name in ("csrc", "scripts", "d2kernels", "python"):
        shutil.copytree(ROOT / name, folder / name, ignore=skip)
    for name in ("setup.py", "pyproject.toml", "CMakeLists.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    log = folder / "log.jsonl"
    launcher = f"{sys.executable};{Path(__file__).resolve()};--run"
    env = {**os.environ, "D2K_BUILD": choice, "CCACHE_DISABLE": "1", LOG: str(log)}
    env |= {"CMAKE_CXX_COMPILER_LAUNCHER": launcher, "CMAKE_CUDA_COMPILER_LAUNCHER": launcher}
    start, before = time.monotonic(), used()
    command = [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", "lib", "--build-temp", "temp"]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"build_time: building failed\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
    files: dict[str, float] = {}
    for line in log.read_text().splitlines() if log.exists() else []:
        name, seconds = json.loads(line)
        files[name] = files.get(name, 0) + seconds
    return files, used() - before, time.monotonic() - start


def main() -> int:
    if sys.argv[1:2] == ["--run"]:
        return launch(sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("choice", nargs="?", default="auto", choices=("auto", "cpu", "cuda"), help="D2K_BUILD")
    parser.add_argument("--most", type=float, metavar="SECONDS", help="fail where building takes more CPU seconds")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files, total, wall = build(asked.choice, Path(folder))
    for name, seconds in sorted(files.items(), key=lambda item: -item[1]):
        print(f"{seconds:7.1f}  {name}")
    print(f"{total:7.1f}  CPU seconds in all with D2K_BUILD={asked.choice}, {wall:.0f} by the clock")
    return int(asked.most is not None and total > asked.most)


if __name__ == "__main__":
    sys.exit(main())
