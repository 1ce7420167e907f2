"""Every op has a benchmark, and the benchmarks run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from d2kernels import backends

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "python_files=bench_*.py"]


def run(*arguments):
    return subprocess.run([*COMMAND, *arguments], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize("op", backends.OPS)
def test_every_op_has_one(op):
    assert (ROOT / "benchmarks" / f"bench_{op}.py").is_file()


def test_one_runs_from_end_to_end(tmp_path):
    out = tmp_path / "bench.json"
    bench = ("benchmarks/bench_lowest_attention.py", "-k", "THUMOS")
    lines = tmp_path / "rows.jsonl"
    done = run(*bench, "--device=cpu", "--budget=0.05", f"--benchmark-json={out}", f"--rows={lines}")
    assert done.returncode == 0, done.stdout + done.stderr
    tree = json.loads(out.read_text())
    (row,) = (b["extra_info"]["row"] for b in tree["benchmarks"])
    assert row["status"] == "ok" and row["seconds"]["median"] > 0
    assert all(p["status"] == "ok" and p["ratio"]["median"] > 0 for p in row["peers"]) and row["peers"]
    assert [json.loads(line)["op"] for line in lines.read_text().splitlines()] == ["lowest_attention"]
    assert tree["machine_info"]["d2k"]["ceilings"]["copy"] > 0


def test_a_missing_gpu_is_said():
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = run("benchmarks/bench_lowest_attention.py", "--device=cuda")
    assert done.returncode == 2 and "torch sees no GPU" in done.stdout + done.stderr
