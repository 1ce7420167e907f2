#!/usr/bin/env python3
"""Puts defects into copies of the library and runs the part of `make emulate` that must find each. Exit 0 if all are.

planted.py [NAME ...]: some of them. With --apply, only whether each still has its place in the sources.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from gpuemu import build  # noqa: E402

HEADERS, OPS = "csrc/include/d2kernels", "d2kernels/ops"
CONV = f"{OPS}/temporal_conv"


class Defect(NamedTuple):
    edits: list[tuple[str, str, str]]  # file, pattern that is there once, replacement
    part: list[str]  # options of pytest; a sole name: the checks of that op
    found: str  # a pattern in what is then said


PLANTED = {
    "n - 1": Defect(
        [
            (f"{OPS}/_triton.py", r"(def sequence_of.*?)\(n - 1\)", r"\1(n - 1).to(low.dtype)"),
            (f"{OPS}/foreground_score/triton_kernels.py", r'do_not_specialize=\["n", "total"\](\)\ndef score)', r"\1"),
        ],
        ["tests/triton/test_pooling.py", "-k", "one_sequence_alone and 17"],
        r"'constexpr' object has no attribute 'to'|has no attribute|AttributeError",
    ),
    "fused products": Defect(
        [(f"{OPS}/_triton.py", r'"enable_fp_fusion": False', '"enable_fp_fusion": True')],
        ["tests/triton/test_pooling.py", "-k", "one_sequence_alone and 16-17"],
        r"gpuemu: note.*triton_kernels\.py",
    ),
    "weights at odd addresses": Defect(
        [(f"{CONV}/triton_product.py", r"by_tap\.data_ptr\(\) % 16 == 0", "True")],
        ["--gpuemu-launches", "--gpuemu-arch=90", "tests/gpuemu/launch_tests", "-k", "odd_addresses and bf16"],
        r"base must be 16-byte aligned|refused by the driver.*base",
    ),
    "too much shared memory": Defect(
        [(f"{CONV}/triton_configs.py", r'(\(90, "half"\): Config\(128, 256, 64, 8,) 3', r"\1 6")],
        ["--gpuemu-launches", "--gpuemu-arch=90", "tests/gpuemu/launch_tests", "-k", "test_layer and target-bf16"],
        r"out of resource: shared memory",
    ),
    "a tap past the rows": Defect(
        [(f"{CONV}/triton_convolve.py", r"(inside = \(\(before \+ shift >= 0\)) & \(after >= shift\)", r"\1")],
        ["tests/triton/test_temporal_conv_triton.py", "-k", "test_values_and_gradients and packed and dtype0"],
        r"gpuemu: out of bounds at .*triton_convolve\.py",
    ),
    "a bin too low": Defect(
        [(f"{HEADERS}/topk_block.h", r"above < rank && rank <= above \+ sum", "above <= rank && rank < above + sum")],
        ["topk_pool"],
        r"^  topk_pool.*: WRONG|gpuemu: .* in topk",
    ),
    "order of NaN": Defect(
        [
            (f"{HEADERS}/localize_item.h", r"if \(!score\(team, runs\)\) return kNotANumber;", "score(team, runs);"),
            (f"{HEADERS}/localize_item.h", r"if \(x > y \|\| x < y\) (return x > y;).*?x != x;", r"if (x != y) \1"),
        ],
        ["localize"],
        r"^  localize.*: WRONG|gpuemu: .*localize",
    ),
    "a barrier of team.h": Defect([(f"{HEADERS}/team.h", r"__syncthreads\(\);", ";")], ["nms"], r"^  gpuemu: race"),
}


def planted(defect: Defect) -> dict[str, str]:
    """The files that the defect changes, with it."""
    texts: dict[str, str] = {}
    for name, pattern, replacement in defect.edits:
        before = texts.get(name) or (ROOT / name).read_text()
        texts[name], count = re.subn(pattern, replacement, before, flags=re.S)
        if count != 1:
            raise SystemExit(f"planted.py: {name} has {count} places like {pattern!r}, not one: say where it is now")
    return texts


def copy(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    unwanted = shutil.ignore_patterns("__pycache__", "golden", "revision_*", ".*")
    for name in ("benchmarks", "csrc", "d2kernels", "python", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=unwanted)
    shutil.copy(ROOT / "pyproject.toml", folder)


def run(folder: Path, cache: Path, part: list[str]) -> tuple[int, str]:
    if len(part) == 1:
        command = [sys.executable, str(folder / "tests/gpuemu/csrc.py"), str(folder), "80", "--only", *part]
    else:
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "gpuemu", *part]
    paths = os.pathsep.join(str(folder / name) for name in ("tests", "", "python"))
    environment = {**os.environ, "PYTHONPATH": paths, "GPUEMU_CACHE": str(cache), "CUDA_VISIBLE_DEVICES": ""}
    environment.pop("TRITON_INTERPRET", None)
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)
    return done.returncode, done.stdout + done.stderr


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("names", nargs="*", metavar="NAME", help=", ".join(PLANTED))
    arguments.add_argument("--apply", action="store_true", help="run nothing")
    asked = arguments.parse_args()
    if unknown := set(asked.names) - PLANTED.keys():
        arguments.error(f"no such defect: {', '.join(sorted(unknown))}; there are {', '.join(PLANTED)}")
    cache, missed = build.cache_folder(ROOT), 0
    for name in asked.names or PLANTED:
        defect, start = PLANTED[name], time.monotonic()
        texts = planted(defect)
        if asked.apply:
            continue
        folder = cache / "planted" / re.sub(r"\W+", "_", name)
        copy(folder)
        for file, text in texts.items():
            (folder / file).write_text(text)
        status, said = run(folder, cache, defect.part)
        line = next((line for line in said.splitlines() if re.search(defect.found, line)), "")
        found = status == 1 and bool(line)
        missed += not found
        print(f"{'found ' if found else 'MISSED'} {name}, {time.monotonic() - start:.0f} s: {line.strip()[:200]}")
        if not found:
            print(said[-4000:])
        sys.stdout.flush()
        shutil.rmtree(folder)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
