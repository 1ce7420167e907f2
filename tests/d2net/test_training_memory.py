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
    held = [torch.empty(1 << 20).fill_(1) for _ in range(12)]
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not keep_freed(), reason="no glibc")
def test_a_steps_memory_serves_the_next_one():
    def faults(way):
        done = subprocess.run([sys.executable, "-c", FAULTS, way], capture_output=True, text=True, check=True)
        return int(done.stdout)

    kept = faults("keep")
    # What lies at the heap's end, a matter of chance, may keep the rest there: one of five processes shows it.
    assert kept < 1000 and any(faults("give back") > 10 * max(kept, 100) for _ in range(5))
