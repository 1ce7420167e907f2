"""The emulated GPU of tests/gpuemu reports every planted defect, and nothing in clean kernels."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOOL = ROOT / "tests/gpuemu"


@pytest.mark.slow
def test_planted_defects_are_reported():
    for variable, tool in (("NVCC", "nvcc"), ("CXX", "g++")):
        if not shutil.which(os.environ.get(variable, tool)):
            pytest.skip(f"no {tool} on PATH; set {variable}")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, TOOL / "selftest/run.py", "--cache", ROOT / "build/gpuemu"],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "33 cases, 0 wrong" in done.stdout and "2 xfailed" in done.stdout, done.stdout
