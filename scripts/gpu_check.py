"""Builds, tests and measures on a machine with a GPU; the most important first, whatever is done by then kept.

Each step is a process of its own with a time limit. OUT gets gpu_check.json (rewritten after each step), tests.jsonl (a
line as each test begins and ends), rows.jsonl (a line a benchmark) and log.txt, so that a run that is cut short still
says what it found. A step whose process dies, hangs or loses its CUDA context goes on after the test that did it.

Several parts are joined, each GPU apart, by `gpu_check.py --join FILE... --into benchmarks/results`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "scripts")]
os.environ.setdefault("D2K_LINES", os.devnull)
os.environ.setdefault("D2K_STEP", "")

import gpu_lines  # noqa: E402
import verified  # noqa: E402

PACKAGES = ("torch", "triton", "numpy", "cupy-cuda12x", "cupy-cuda13x", "numba", "pybind11", "pytest-benchmark")
SECONDS = 500.0  # for a part; commands on lent machines end at 10 minutes, starting and copying included
QUIET = 150.0  # seconds in which a test must end: one that takes longer hangs
Found = dict[str, Any]


@dataclass
class Run:
    """One part: where its files are, how much time is left, and whether this is the dry run on a CPU."""

    out: Path
    seconds: float
    dry: bool = False
    began: float = field(default_factory=time.monotonic)
    tree: Found = field(default_factory=lambda: {"steps": {}})

    def __post_init__(self) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        self.lines, self.rows, self.log = (self.out / name for name in ("tests.jsonl", "rows.jsonl", "log.txt"))
        for path in (self.lines, self.rows, self.log):
            path.unlink(missing_ok=True)

    def left(self) -> float:
        return self.seconds - (time.monotonic() - self.began)

    def write(self) -> None:
        temporary = self.out / "gpu_check.part"
        temporary.write_text(json.dumps(self.tree, indent=1) + "\n")
        os.replace(temporary, self.out / "gpu_check.json")

    def step(self, name: str, run: Callable[[Run, str, float], Found], most: float) -> bool:
        """Runs a step for at most `most` seconds of those left; returns whether it passed or was not to be had."""
        limit, start = min(most, self.left()), time.monotonic()
        if limit < 5:
            found: Found = {"status": "not run", "why": "no time left"}
        else:
            try:
                found = run(self, name, limit)
            except Exception as error:  # a step that breaks must not lose the others
                found = {"status": "failed", "why": f"{type(error).__name__}: {error}"}
        found["wall_s"] = round(time.monotonic() - start, 1)
        self.tree["steps"][name] = found
        judge(self.tree["kernels"], tests_of(self.tree))
        self.write()
        print(f"== {name}: {found['status']} ({found['wall_s']} s) {found.get('why', '')}", flush=True)
        return found["status"] in ("passed", "unavailable")


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(10)


def _size(path: Path | None) -> int:
    return path.stat().st_size if path is not None and path.exists() else 0


def command(
    log: Path, *arguments: str | os.PathLike, limit: float, env: dict[str, str] | None = None, watch: Path | None = None
) -> Found:
    """Runs a command, its output at the end of `log`; status passed, failed, timed out or hangs, and the output's end.

    watch: a file that grows while all is well; once it has begun to, the command hangs where it has not for QUIET
    seconds. How long it takes to start is for `limit`.
    """
    with open(log, "ab") as output:
        output.write(f"\n$ {' '.join(map(str, arguments))}\n".encode())
        output.flush()
        first, start = output.tell(), time.monotonic()
        try:
            process = subprocess.Popen(
                [str(a) for a in arguments],
                cwd=ROOT,
                env={**os.environ, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            return {"status": "failed", "why": str(error), "tail": "", "exit": 127}
        status, why = "passed", ""
        size, grew = _size(watch), None
        try:
            while process.poll() is None:
                now = time.monotonic()
                if (bytes_now := _size(watch)) != size:
                    size, grew = bytes_now, now
                if now - start > limit:
                    status, why = "timed out", f"over {limit:.0f} s"
                    break
                if grew is not None and now - grew > QUIET:
                    status, why = "hangs", f"no test ended in {QUIET:.0f} s"
                    break
                time.sleep(0.1)
        finally:
            _end(process)
    with open(log, "rb") as text:
        text.seek(max(first, log.stat().st_size - 4000))
        tail = text.read().decode(errors="replace")
    if status == "passed" and process.returncode:
        status, why = "failed", f"exit {process.returncode}"
    found: Found = {"status": status, "tail": tail, "exit": process.returncode}
    return found | ({"why": why} if why else {})


def environment(run: Run, step: str) -> dict[str, str]:
    """Both packages and the plugin can be imported; the tests are the check, so no kernel waits for another."""
    paths = [ROOT, ROOT / "python", ROOT / "scripts", *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",
        "D2K_VERIFY": "off",
        "D2K_LINES": str(run.lines),
        "D2K_STEP": step,
    }


def pytest(run: Run, step: str, limit: float, *arguments: str | os.PathLike) -> Found:
    """Runs pytest; where its process is lost, again for what has not run. Adds each test's outcome."""
    end, found = time.monotonic() + limit, {}
    while (left := end - time.monotonic()) > 3:
        found = command(
            run.log,
            *(sys.executable, "-m", "pytest", "-q", "-ra", "-p", "no:cacheprovider", "-p", "gpu_lines", *arguments),
            limit=left,
            env=environment(run, step),
            watch=run.lines,
        )
        lines = gpu_lines.read(run.lines, step)
        begun = [test for test, line in lines.items() if line["outcome"] == "begun"]
        for test in begun:
            why = found.get("why", "") if found["status"] != "timed out" else f"cut short: {found['why']}"
            with open(run.lines, "a") as file:
                file.write(json.dumps({"step": step, "test": test, "outcome": "failed", "why": why}) + "\n")
        lost = found["status"] == "hangs" or found["exit"] == gpu_lines.LOST or found["exit"] < 0
        if found["status"] == "timed out" or not lost or not (begun or found["exit"] == gpu_lines.LOST):
            break
    tests = gpu_lines.read(run.lines, step)
    found["tests"] = {test: line["outcome"] for test, line in tests.items()}
    found["why_not"] = {t: line["why"] for t, line in tests.items() if line["outcome"] in ("failed", "skipped")}
    if found["status"] not in ("passed", "failed"):
        return found
    outcomes = set(found["tests"].values())
    missing = [why for why in found["why_not"].values() if "d2net needs" in why]
    if "failed" in outcomes or found["exit"] not in (0, 5):  # 5: nothing was left to run
        found["status"] = "failed"
    elif outcomes & ({"skipped", "waits", "passed"} if run.dry and not missing else {"passed"}):
        found = {key: value for key, value in found.items() if key != "why"} | {"status": "passed"}
    elif missing:
        found |= {"status": "unavailable", "why": missing[0]}
    else:
        found |= {"status": "failed", "why": "no test ran"}
    return found


def tests_of(tree: Found) -> dict[str, str]:
    """All outcomes of a record; a test that several steps ran has the worst."""
    worst = ("passed", "skipped", "waits", "begun", "failed")
    found: dict[str, str] = {}
    for step in tree["steps"].values():
        for test, outcome in step.get("tests", {}).items():
            found[test] = max(found.get(test, "passed"), outcome, key=worst.index)
    return found


def judge(kernels: dict[str, Found], tests: dict[str, str]) -> None:
    """A kernel has passed when the GPU tests that name it all did, none is left to run, and there is one."""
    for name, entry in kernels.items():
        op, backend = name.split("/")
        named = re.compile(rf"[\[-]{op}-{backend}[\]-]")
        of_it = [o for test, o in tests.items() if named.search(test)]
        entry["passed"] = bool(of_it) and all(o == "passed" for o in of_it)


def facts(run: Run) -> Found:
    """The machine, versions and the kernels' hashes."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    smi, nvcc = shutil.which("nvidia-smi"), shutil.which("nvcc")
    query = "--query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit,compute_cap"
    gpu = None
    if smi and (asked := command(run.log, smi, query, "--format=csv,noheader", limit=30))["status"] == "passed":
        gpu = asked["tail"].strip().splitlines()[0]
    cells = [cell.strip() for cell in gpu.split(",")] if gpu else []
    return {
        "date": time.strftime("%Y-%m-%d"),
        "gpu": gpu,
        "device": cells[0] if cells else None,
        "arch": f"sm_{cells[-1].replace('.', '')}" if cells else None,
        "cpu": platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "nvcc": command(run.log, nvcc, "--version", limit=30)["tail"].strip().splitlines()[-1] if nvcc else None,
        "versions": versions,
        "kernels": {name: {"sha256": digest, "passed": False} for name, digest in verified.kernels().items()},
    }


def build(run: Run, step: str, limit: float) -> Found:
    """Compiles in place, unless what is there was compiled from these very sources for a GPU."""
    if run.dry:
        return command(run.log, sys.executable, "setup.py", "--version", limit=limit)
    kept = (
        "from d2kernels import _native; from d2kernels.verify import hashes, machine; import sys; "
        "sys.exit(machine.build().get('cuda') != hashes.cuda_files(machine.PACKAGE.parent) or "
        "not _native.module().has_cuda)"
    )
    env = environment(run, step)
    if command(run.log, sys.executable, "-c", kept, limit=60, env=env)["status"] == "passed":
        return {"status": "passed", "why": "what is there is of these sources"}
    return command(
        run.log,
        *(sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"),
        limit=limit,
        env=env | {"D2K_BUILD": "cuda"},
    )


def tests(*paths: str, collect: bool = False) -> Callable[[Run, str, float], Found]:
    """The GPU tests of files. collect: on a CPU they would really run, so the dry run stops once they are collected."""

    def step(run: Run, name: str, limit: float) -> Found:
        only = ["--collect-only"] if run.dry and collect else []
        return pytest(run, name, limit, *([] if collect else ["-m", "gpu"]), *only, *paths)

    return step


def verify(run: Run, step: str, limit: float) -> Found:
    """The users' own check of every kernel, from an empty cache."""
    folder = run.out / "cache"
    shutil.rmtree(folder, ignore_errors=True)
    env = environment(run, step) | {"XDG_CACHE_HOME": str(folder), "D2K_VERIFY": "on"}
    found = command(run.log, sys.executable, "-m", "d2kernels", "verify", "--again", limit=limit, env=env)
    for log in sorted(folder.rglob("*.log")):
        with open(run.log, "a") as file:
            file.write(log.read_text(errors="replace"))
    shutil.rmtree(folder, ignore_errors=True)
    return found


CHECKS = Path("build/gpu_check/checks")
TOOLS = ("memcheck", "racecheck", "synccheck", "initcheck")


def checks(run: Run, step: str, limit: float) -> Found:
    """The binary without torch, compiled and run plainly."""
    if shutil.which("nvcc") is None:
        return {"status": "unavailable", "why": "no nvcc on PATH"}
    (ROOT / CHECKS).parent.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + limit
    sources = [*sorted((ROOT / "csrc/checks").glob("*.cu")), *sorted((ROOT / "csrc/cuda").glob("*.cu"))]
    made = command(
        run.log,
        *("nvcc", "-O2", "-lineinfo", "-std=c++17", "-arch=native", "--threads=0", "-DD2K_CUDA"),
        *(["--dryrun", "-arch=sm_90"] if run.dry else []),
        *(f"-I{ROOT / 'csrc/include'}", *sources, *sorted((ROOT / "csrc/cpu").glob("*.cpp")), "-o", ROOT / CHECKS),
        limit=limit,
    )
    if made["status"] != "passed" or run.dry:
        return made
    return command(run.log, ROOT / CHECKS, limit=max(5.0, end - time.monotonic()))


def sanitizer(tool: str) -> Callable[[Run, str, float], Found]:
    """One of compute-sanitizer's tools on that binary, check by check; 'unavailable' where the machine refuses it."""

    def step(run: Run, name: str, limit: float) -> Found:
        found = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
        if not Path(found).exists():
            return {"status": "unavailable", "why": "compute-sanitizer is not installed"}
        if run.dry:
            return command(run.log, found, "--version", limit=limit)
        listed = command(run.log, ROOT / CHECKS, "--list", limit=30)
        if listed["status"] != "passed":
            return listed | {"why": f"there is no check binary: {listed['why']}"}
        end = time.monotonic() + limit
        every: dict[str, Found] = {}
        for check in listed["tail"].split():
            left = end - time.monotonic()
            if left < 3:
                every[check] = {"status": "not run", "why": "no time left"}
                continue
            one = command(run.log, found, f"--tool={tool}", "--error-exitcode=9", ROOT / CHECKS, check, limit=left)
            if one["status"] == "failed" and "SUMMARY" not in one["tail"]:
                return one | {"status": "unavailable", "why": one["tail"][-400:].strip(), "checks": every}
            every[check] = one
        bad = {check: one for check, one in every.items() if one["status"] != "passed"}
        if not bad:
            return {"status": "passed", "checks": every}
        first = next(iter(bad.values()))
        return {"status": first["status"], "why": f"{', '.join(bad)}: {first['why']}", "checks": every}

    return step


# What matters most first: the time may run out.
BENCHES = ("temporal_conv", "topk_pool", "head", "attention_pool", "localize", "condition_number", "pdmi")


def bench(path: Path, device: str = "cuda") -> Callable[[Run, str, float], Found]:
    """A benchmark file; its rows as they come."""

    def step(run: Run, name: str, limit: float) -> Found:
        before = len(rows_of(run.rows))
        raw = run.out / "benchmark.json"
        only = ["--collect-only"] if run.dry else [f"--benchmark-json={raw}"]
        found = pytest(
            *(run, name, limit, path, "-o", "python_files=bench_*.py", f"--device={'cpu' if run.dry else device}"),
            *("--benchmark-quiet", f"--rows={run.rows}", *only),
        )
        if raw.exists() and raw.stat().st_size:
            run.tree["machine"] = json.loads(raw.read_text()).get("machine_info")
        raw.unlink(missing_ok=True)
        found["rows"] = [{"row": row} for row in rows_of(run.rows)[before:]]
        return found

    return step


def rows_of(path: Path) -> list[Found]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def bench_files() -> list[Path]:
    """All but the step's, which is in the first part."""
    first = [ROOT / f"benchmarks/bench_{name}.py" for name in BENCHES]
    every = set((ROOT / "benchmarks").glob("bench_*.py"))
    return [*first, *sorted(every - {*first, ROOT / "benchmarks/bench_step.py"})]


Steps = dict[str, tuple[Callable[[Run, str, float], Found], float]]


def parts() -> list[Steps]:
    """The steps of each part with their time limits; the first part is useful alone."""
    ours = {path.name for path in (ROOT / "tests/gpu").glob("test_*.py")}
    first = ("test_context.py", "test_ops.py", "test_temporal_conv_gpu.py")
    missing = sorted(ours - {*first})
    triton = sorted(p.name for p in (ROOT / "tests/triton").glob("test_*.py") if p.name != "test_aot.py")
    benches = bench_files()
    built: Steps = {"build": (build, 240)}
    return [
        built
        | {
            "context": (tests("tests/gpu/test_context.py"), 90),
            "ops": (tests("tests/gpu/test_ops.py"), 150),
            "step": (bench(ROOT / "benchmarks/bench_step.py"), 120),
            "temporal_conv": (tests("tests/gpu/test_temporal_conv_gpu.py"), 180),
        },
        built
        | {f"gpu {name[5:-3]}": (tests(f"tests/gpu/{name}"), 120) for name in missing}
        | {"verify": (verify, 240)}
        | {f"triton {name[5:-3]}": (tests(f"tests/triton/{name}", collect=True), 150) for name in triton},
        {"checks": (checks, 240)}
        | {name: (sanitizer(name), 120) for name in TOOLS},
        built | {f"bench {p.stem[6:]}": (bench(p), 150) for p in benches[: len(BENCHES)]},
        built | {f"bench {p.stem[6:]}": (bench(p), 100) for p in benches[len(BENCHES) :]},
    ]


def join(files: Iterable[Path], into: Path) -> list[Path]:
    """Puts parts together, each GPU and each state of the sources apart; returns what was written.

    Raises:
        SystemExit: a part names no GPU.
    """
    apart: dict[tuple[str, str], list[Found]] = {}
    for path in files:
        tree = json.loads(path.read_text())
        if not tree.get("device"):
            raise SystemExit(f"gpu_check: {path} names no GPU: it is of a dry run or of a machine without one")
        hashes = json.dumps({name: entry["sha256"] for name, entry in tree["kernels"].items()}, sort_keys=True)
        apart.setdefault((tree["device"], hashes), []).append(tree)
    written = []
    into.mkdir(parents=True, exist_ok=True)
    for (device, _), trees in apart.items():
        whole = trees[0] | {"steps": {}}
        for tree in trees:
            whole |= {"machine": tree["machine"]} if tree.get("machine") else {}
            for name, step in tree["steps"].items():
                if name not in whole["steps"] or step["status"] != "not run":
                    whole["steps"][name] = step
        judge(whole["kernels"], tests_of(whole))
        start = f"{re.sub(r'[^a-z0-9]+', '-', device.lower()).strip('-')}-{whole['date']}"
        path = next(p for i in range(1, 1000) if not (p := into / f"{start}{f'-{i}' * (i > 1)}.json").exists())
        path.write_text(json.dumps(whole, indent=1) + "\n")
        written.append(path)
    return written


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, nargs="?", help="folder for gpu_check.json and what comes while it runs")
    parser.add_argument("--part", type=int, choices=range(1, len(parts()) + 1), help="one part alone (default: all)")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"for a part (default {SECONDS:.0f})")
    parser.add_argument("--steps", help="names of steps, by commas, of the parts chosen (default: all)")
    parser.add_argument("--dry-run", action="store_true", help="start every step, as far as it goes without a GPU")
    parser.add_argument("--join", type=Path, nargs="+", metavar="FILE", help="put parts' JSON files together")
    parser.add_argument("--into", type=Path, default=ROOT / "benchmarks/results", help="where --join writes")
    found = parser.parse_args(given)
    if (found.out is None) == (found.join is None):
        parser.error("give OUT, or --join FILE...")
    return found


def main(given: Sequence[str] | None = None) -> int:
    args = arguments(given)
    if args.join:
        for path in join(args.join, args.into):
            print(f"written: {path}")
        return 0
    chosen = parts() if args.part is None else [parts()[args.part - 1]]
    run = Run(args.out.resolve(), args.seconds * len(chosen) * (4 if args.dry_run else 1), args.dry_run)
    run.tree |= facts(run) | {"dry_run": args.dry_run}
    run.write()
    if run.tree["gpu"] is None and not args.dry_run:
        print("gpu_check: nvidia-smi sees no GPU; the steps below fail without one", file=sys.stderr)
    steps = {name: step for part in chosen for name, step in part.items()}
    if args.steps:
        if unknown := set(args.steps.split(",")) - steps.keys():
            raise SystemExit(f"gpu_check: no step {', '.join(sorted(unknown))}; there are {', '.join(steps)}")
        steps = {name: steps[name] for name in args.steps.split(",")}
    # Nothing counts when a kernel and torch do not share stream and context, so that is tried before all else.
    well = [run.step(name, step, most) for name, (step, most) in steps.items()]
    for name, entry in run.tree["kernels"].items():
        print(f"{name}: {'passed' if entry['passed'] else 'not verified'}")
    print(f"written: {run.out / 'gpu_check.json'}")
    return 0 if all(well) else 1


if __name__ == "__main__":
    sys.exit(main())
