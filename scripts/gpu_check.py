"""Builds, tests and measures on a machine with a GPU; the most important first, whatever is done by then kept.

Each step is a command of its own with a time limit; OUT/gpu_check.json is rewritten after each, so that a run that is
cut short still says what it found. Exit 1 where a step failed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
PACKAGES = ("torch", "triton", "numpy", "cupy-cuda12x", "cupy-cuda13x", "numba", "pybind11", "pytest-benchmark")


@dataclass
class Record:
    """The JSON file, on disk after every step."""

    path: Path
    seconds: float
    began: float = field(default_factory=time.monotonic)
    tree: dict[str, Any] = field(default_factory=lambda: {"steps": {}})

    def left(self) -> float:
        return self.seconds - (time.monotonic() - self.began)

    def write(self) -> None:
        temporary = self.path.with_suffix(".part")
        temporary.write_text(json.dumps(self.tree, indent=1) + "\n")
        os.replace(temporary, self.path)

    def step(self, name: str, run: Callable[[float], dict[str, Any]], most: float) -> bool:
        """Runs a step for at most `most` seconds of those left; returns whether it passed or was not to be had."""
        limit = min(most, self.left())
        start = time.monotonic()
        if limit < 5:
            found: dict[str, Any] = {"status": "not run", "why": "no time left"}
        else:
            try:
                found = run(limit)
            except Exception as error:  # a step that breaks must not lose the others
                found = {"status": "failed", "why": f"{type(error).__name__}: {error}"}
        found["wall_s"] = round(time.monotonic() - start, 1)
        self.tree["steps"][name] = found
        self.write()
        print(f"== {name}: {found['status']} ({found['wall_s']} s) {found.get('why', '')}", flush=True)
        return found["status"] in ("passed", "unavailable")


def command(*arguments: str | os.PathLike, limit: float, env: dict[str, str] | None = None) -> dict[str, Any]:
    """Runs a command; status passed, failed or timed out, and the end of what it printed."""
    try:
        done = subprocess.run(
            [str(a) for a in arguments],
            cwd=ROOT,
            env={**os.environ, **(env or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=limit,
        )
    except subprocess.TimeoutExpired as error:
        printed = error.stdout or b""
        text = printed.decode(errors="replace") if isinstance(printed, bytes) else printed
        return {"status": "timed out", "why": f"over {limit:.0f} s", "tail": text[-4000:]}
    except OSError as error:
        return {"status": "failed", "why": str(error)}
    found: dict[str, Any] = {"status": "passed" if done.returncode == 0 else "failed", "tail": done.stdout[-4000:]}
    if done.returncode:
        found["why"] = f"exit {done.returncode}"
    return found


def facts() -> dict[str, Any]:
    """The machine, versions and the kernels' hashes."""
    import verified

    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    smi = shutil.which("nvidia-smi")
    query = "--query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit"
    gpu = command(smi, query, "--format=csv,noheader", limit=30)["tail"].strip() if smi else None
    nvcc = shutil.which("nvcc")
    return {
        "date": time.strftime("%Y-%m-%d"),
        "gpu": gpu,
        "cpu": platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "nvcc": command(nvcc, "--version", limit=30)["tail"].strip().splitlines()[-1] if nvcc else None,
        "versions": versions,
        "kernels": {name: {"sha256": digest, "passed": False} for name, digest in verified.kernels().items()},
    }


def build(limit: float) -> dict[str, Any]:
    return command(
        *(sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "-v", "-e", ROOT),
        limit=limit,
        env={"D2K_BUILD": "cuda"},
    )


def pytest(limit: float, report: Path, *arguments: str) -> dict[str, Any]:
    """Runs pytest and adds what each test did: {test: passed | failed | skipped}."""
    found = command(
        *(sys.executable, "-m", "pytest", "-q", "-ra", "-p", "no:cacheprovider", f"--junitxml={report}", *arguments),
        limit=limit,
        env={"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'python'}"},
    )
    found["tests"] = outcomes(report)
    if found["status"] == "passed" and not any(o == "passed" for o in found["tests"].values()):
        found |= {"status": "failed", "why": "no test ran"}
    return found


def outcomes(report: Path) -> dict[str, str]:
    """A JUnit file's tests; a test that was cut short is not in it."""
    if not report.exists():
        return {}
    found = {}
    for case in ElementTree.parse(report).iter("testcase"):
        tags = {child.tag for child in case}
        outcome = "failed" if tags & {"failure", "error"} else "skipped" if "skipped" in tags else "passed"
        found[f"{case.get('classname')}::{case.get('name')}"] = outcome
    return found


def judge(kernels: dict[str, dict[str, Any]], tests: dict[str, str]) -> None:
    """A kernel has passed when the GPU tests that name it all did, and there is one."""
    for name, entry in kernels.items():
        op, backend = name.split("/")
        named = re.compile(rf"[\[-]{op}-{backend}[\]-]")
        of_it = [o for test, o in tests.items() if named.search(test)]
        entry["passed"] = bool(of_it) and all(o == "passed" for o in of_it)


def sanitizer(limit: float, folder: Path) -> dict[str, Any]:
    """compute-sanitizer's tools on a binary without torch; 'unavailable' where the machine refuses it."""
    tool = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    if not Path(tool).exists():
        return {"status": "unavailable", "why": "compute-sanitizer is not installed"}
    end = time.monotonic() + limit
    binary = folder / "checks"
    sources = [*sorted((ROOT / "csrc/checks").glob("*.cu")), *sorted((ROOT / "csrc/cuda").glob("*.cu"))]
    made = command(
        *("nvcc", "-O2", "-lineinfo", "-std=c++17", "-arch=native", "--threads=0", "-DD2K_CUDA"),
        f"-I{ROOT / 'csrc/include'}",
        *(*sources, *sorted((ROOT / "csrc/cpu").glob("*.cpp")), "-o", binary),
        limit=limit,
    )
    if made["status"] != "passed":
        return made
    plain = command(binary, limit=max(5.0, end - time.monotonic()))
    if plain["status"] != "passed":
        return plain
    found: dict[str, Any] = {"status": "passed", "tools": {}}
    for name in ("memcheck", "racecheck", "synccheck", "initcheck"):
        one = command(tool, f"--tool={name}", "--error-exitcode=9", binary, limit=max(5.0, end - time.monotonic()))
        refused = "ERROR SUMMARY" not in one.get("tail", "") and "RACECHECK SUMMARY" not in one.get("tail", "")
        if refused and one["status"] != "timed out":
            one = {"status": "unavailable", "why": one.get("tail", "")[-400:].strip()}
        found["tools"][name] = one
        if one["status"] in ("failed", "timed out"):
            found |= {"status": one["status"], "why": f"{name}: {one.get('why')}"}
    if all(one["status"] == "unavailable" for one in found["tools"].values()):
        found["status"] = "unavailable"
    return found


# What matters most first: the time may run out.
BENCHES = ("step", "temporal_conv", "topk_pool", "head", "attention_pool", "localize", "condition_number", "pdmi")


def bench_files() -> list[Path]:
    first = [ROOT / f"benchmarks/bench_{name}.py" for name in BENCHES]
    return [*first, *sorted(set((ROOT / "benchmarks").glob("bench_*.py")) - set(first))]


def benchmarks(limit: float, folder: Path, files: Sequence[Path], device: str = "cuda") -> dict[str, Any]:
    """Rows as they come, so that running out of time keeps those that are there."""
    raw, rows = folder / "benchmarks.json", folder / "rows.jsonl"
    rows.unlink(missing_ok=True)
    found = command(
        *(sys.executable, "-m", "pytest", *files, "-q", "-o", "python_files=bench_*.py", f"--device={device}"),
        *("-p", "no:cacheprovider", "--benchmark-quiet", f"--benchmark-json={raw}", f"--rows={rows}"),
        limit=limit,
        env={"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'python'}"},
    )
    if raw.exists() and raw.stat().st_size:
        found["machine"] = json.loads(raw.read_text()).get("machine_info")
    if rows.exists():
        found["rows"] = [{"row": json.loads(line)} for line in rows.read_text().splitlines()]
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder for gpu_check.json")
    parser.add_argument("--seconds", type=float, default=470, help="for everything (default 470)")
    parser.add_argument("--steps", default="build,context,tests,sanitizer,benchmarks")
    given = parser.parse_args(arguments)
    steps = given.steps.split(",")
    given.out.mkdir(parents=True, exist_ok=True)
    record = Record(given.out / "gpu_check.json", given.seconds)
    record.tree |= facts()
    record.write()
    if record.tree["gpu"] is None:
        print("gpu_check: nvidia-smi sees no GPU; the steps below fail without one", file=sys.stderr)
    report = given.out / "pytest.xml"
    # Nothing counts when a kernel and torch do not share stream and context, so that is tried before all else.
    ok = True
    if "build" in steps:
        ok &= record.step("build", build, 150)
    if "context" in steps:
        ok &= record.step("context", lambda limit: pytest(limit, report, "-m", "gpu", "tests/gpu/test_context.py"), 90)
    if "tests" in steps:
        ok &= record.step("tests", lambda limit: pytest(limit, report, "-m", "gpu", "tests"), 180)
        judge(record.tree["kernels"], record.tree["steps"]["tests"].get("tests", {}))
        record.write()
    if "sanitizer" in steps:
        ok &= record.step("sanitizer", lambda limit: sanitizer(limit, given.out), 90)
    if "benchmarks" in steps:
        ok &= record.step("benchmarks", lambda limit: benchmarks(limit, given.out, bench_files()), 300)
    for name, entry in record.tree["kernels"].items():
        print(f"{name}: {'passed' if entry['passed'] else 'not verified'}")
    print(f"written: {record.path}")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
