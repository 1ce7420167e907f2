"""Kernels compile with no GPU: registers, shared memory and SASS of the target shapes' forms."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(("op", "form"), [("temporal_conv", "conv bf16")])
def test_compiles_for_hopper_without_a_spill(op, form):
    # Another process: a kernel that is interpreted cannot be compiled.
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "scripts/aot.py", "--op", op, "--arch", "90", "--form", form]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(f"  {op} ") == 3
