"""Times this tree against another revision: the same benchmarks, in turn, and which of them became slower.

Both packages are timed by this tree's benchmark files, ours alone, several runs of each in alternation. A benchmark has
regressed when its fastest run is slower than the other revision's slowest, and the median by more than a tenth.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import rows as of
import torch

ROOT = Path(__file__).resolve().parents[1]
TOLERATED = 1.1
Runs = dict[str, list[float]]  # benchmark to the seconds of each run


def checkout(root: Path, revision: str, folder: Path) -> Path:
    """The revision's tree, its extension compiled in place where it has one.

    Raises:
        SystemExit: no such revision, or it does not build.
    """
    known = subprocess.run(
        ["git", "-C", str(root), "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}"],
        capture_output=True,
        text=True,
    )
    if known.returncode:
        raise SystemExit(f"compare: BASE={revision!r} is no revision of this repository; see git log")
    folder.mkdir(parents=True)
    archive = subprocess.run(["git", "-C", str(root), "archive", known.stdout.strip()], capture_output=True, check=True)
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive.stdout, check=True)
    if (folder / "setup.py").exists():
        wanted = "auto" if torch.cuda.is_available() else "cpu"  # kernels that nothing here runs take minutes
        done = subprocess.run(
            [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"],
            cwd=folder,
            env={"D2K_BUILD": wanted, **os.environ, "PYTHONPATH": str(folder / "scripts")},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise SystemExit(f"compare: {revision} does not build:\n{(done.stdout + done.stderr)[-2000:]}")
    return folder


def run(tree: Path, benches: Path, json: Path, arguments: list[str]) -> None:
    """The benchmarks in `benches`, with the packages of `tree`."""
    paths = [str(tree), str(tree / "python")]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", str(benches), "-q", "-p", "no:cacheprovider", "--no-peers"),
            "--continue-on-collection-errors",  # the other revision may lack an op
            *("-o", "python_files=bench_*.py", "--benchmark-quiet", f"--benchmark-json={json}", *arguments),
        ],
        cwd=tree,  # `python -m` looks for packages in the current folder first
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if not json.exists() or not json.stat().st_size:
        raise SystemExit(f"compare: the benchmarks of {tree} gave nothing:\n{done.stdout[-2000:]}")
    if done.returncode:
        print(f"compare: some benchmarks of {tree} failed and are left out:\n{done.stdout[-800:]}", file=sys.stderr)


def collect(json: Path, into: Runs) -> None:
    for row in of.read(json)[1]:
        took = of.best(row)
        if took is not None:
            into[of.name(row)].append(took)


def ratio(before: list[float], after: list[float]) -> float:
    return statistics.median(after) / statistics.median(before)


def regressed(before: list[float], after: list[float]) -> bool:
    """Slower beyond the spread of the runs."""
    return ratio(before, after) > TOLERATED and min(after) > max(before)


def table(before: Runs, after: Runs) -> tuple[str, list[str]]:
    """A line for each benchmark that both have, the slowest first, and the names of those that regressed."""
    names = sorted(before.keys() & after.keys(), key=lambda n: -ratio(before[n], after[n]))
    slower = [n for n in names if regressed(before[n], after[n])]
    lines = []
    for name in names:
        old, new = (of.seconds(statistics.median(runs[name])) for runs in (before, after))
        mark = "  REGRESSED" if name in slower else ""
        lines.append(f"{name:70} {old:>9} -> {new:>9} {ratio(before[name], after[name]):6.2f}×{mark}")
    lines += [f"{name:70} only in one of the two" for name in sorted(before.keys() ^ after.keys())]
    return "\n".join(lines), slower


def compare(root: Path, revision: str, runs: int, arguments: list[str], benches: Path) -> tuple[str, list[str]]:
    before: Runs = defaultdict(list)
    after: Runs = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        base = checkout(root, revision, Path(folder, "base"))
        for i in range(runs):
            for tree, into in ((base, before), (root, after)):
                json = Path(folder, f"{i}-{tree.name}.json")
                run(tree, benches, json, arguments)
                collect(json, into)
    return table(before, after)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], epilog="Other arguments go to pytest.")
    parser.add_argument("base", help="git revision")
    parser.add_argument("--runs", type=int, default=3, help="of each side (default 3)")
    given, rest = parser.parse_known_args(arguments)
    if importlib.util.find_spec("pytest_benchmark") is None:
        raise SystemExit("compare: pytest-benchmark is not installed; pip install 'd2kernels[bench]'")
    text, slower = compare(ROOT, given.base, given.runs, rest, ROOT / "benchmarks")
    print(text)
    print(f"{len(slower)} regressed" if slower else "nothing regressed")
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
