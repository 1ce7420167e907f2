"""What glibc keeps of freed memory from step to step."""

from __future__ import annotations

import subprocess
import sys

import pytest

from d2net.training.memory import keep_freed

FAULTS = """
import resource, sys, torch
from d2net.training.memory import keep_freed
if sys.argv[1] == "keep":
    assert keep_freed()
def step():
    held = [torch.empty(10 << 20).fill_(1) for _ in range(3)]  # above what glibc ever keeps by itself
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not keep_freed(), reason="no glibc")
def test_a_steps_memory_serves_the_next_one():
    faults = {}
    for way in ("keep", "give back"):
        done = subprocess.run([sys.executable, "-c", FAULTS, way], capture_output=True, text=True, check=True)
        faults[way] = int(done.stdout)
    assert faults["keep"] * 10 < faults["give back"]
