"""A planted slow-down is caught against another revision, and nothing else is."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import compare
import pytest

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"
PACKAGE = """
import time
def op():
    time.sleep({op})
def same():
    time.sleep(0.03)
"""
BENCH = """
import planted
from harness import Side
def test_op(contest):
    contest(op="op", work="w", ours=Side("a", planted.op, checked=False), oracle=None, memory=False)
def test_same(contest):
    contest(op="same", work="w", ours=Side("a", planted.same, checked=False), oracle=None, memory=False)
"""
# Of an op that the older revision lacks.
NEW_BENCH = """
import added
from harness import Side
def test_new(contest):
    contest(op="new", work="w", ours=Side("a", added.op, checked=False), oracle=None, memory=False)
"""


@pytest.fixture
def tree(tmp_path):
    """A repository whose HEAD has a fast op, and whose working tree a slow one."""
    root = tmp_path / "tree"
    left_out = shutil.ignore_patterns("bench_*", "plots", "results", "__*")
    shutil.copytree(BENCHMARKS, root / "benchmarks", ignore=left_out)
    (root / "d2kernels/verify").mkdir(parents=True)  # what says whether an output is right comes with the benchmarks
    shutil.copy(ROOT / "d2kernels/verify/compare.py", root / "d2kernels/verify")
    (root / "benchmarks/bench_planted.py").write_text(BENCH)
    (root / "planted.py").write_text(PACKAGE.format(op=0.03))
    (root / "pytest.ini").write_text("[pytest]\n")
    git = ["git", "-C", str(root), "-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "fast"]):
        subprocess.run([*git, *command], check=True)
    (root / "planted.py").write_text(PACKAGE.format(op=0.09))
    (root / "added.py").write_text(PACKAGE.format(op=0.01))
    (root / "benchmarks/bench_added.py").write_text(NEW_BENCH)
    return root


def test_a_planted_slow_down_is_named(tree):
    text, slower = compare.compare(tree, "HEAD", 2, ["--budget=0.3", "--device=cpu"], tree / "benchmarks")
    assert slower == ["op, w, forward, float32"], text
    (line,) = (line for line in text.splitlines() if "REGRESSED" in line)
    assert line.startswith("op, w") and "same, w" in text
    (line,) = (line for line in text.splitlines() if "only in one" in line)
    assert line.startswith("new, w")


def test_an_unknown_revision_is_an_error(tree, tmp_path):
    with pytest.raises(SystemExit, match="BASE='nowhere' is no revision"):
        compare.checkout(tree, "nowhere", tmp_path / "base")


def test_noise_is_no_regression():
    assert not compare.regressed([1.0, 1.3, 1.1], [1.25, 1.4, 1.35])  # within the other's spread
    assert not compare.regressed([1.00, 1.01, 1.02], [1.05, 1.06, 1.07])  # too little to matter
    assert compare.regressed([1.00, 1.01, 1.02], [1.2, 1.21, 1.25])
    assert not compare.regressed([1.2, 1.21, 1.25], [1.00, 1.01, 1.02])


def test_what_only_one_side_has_is_said():
    text, slower = compare.table({"a": [1.0], "b": [1.0]}, {"a": [1.0], "c": [1.0]})
    assert not slower and text.count("only in one of the two") == 2
