"""The native kernels' threads beside torch's: same bits on any number of them, and none lost in a fork."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import d2kernels as d2k

FORKED = """
import os, signal, torch, d2kernels as d2k
torch.set_num_threads(4)
x = torch.randn(4000, 512)
batch = d2k.Ragged(x, torch.tensor([0, 1500, 1500, 4000]))
attention = torch.rand(4000)
x.sum()
want = d2k.attention_pool(batch, attention).embedding
pid = os.fork()
if pid == 0:
    signal.alarm(30)
    same = torch.equal(d2k.attention_pool(batch, attention).embedding, want)
    os._exit(0 if same else 1)
print(os.waitpid(pid, 0)[1], torch.equal(d2k.attention_pool(batch, attention).embedding, want))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="forking a process with threads is for Linux")
def test_a_forked_child_computes_on():
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=120)
    assert done.stdout == "0 True\n", done.stderr[-2000:]


@pytest.mark.skipif(not d2k.backends.can_run("attention_pool", "native"), reason="csrc is not built")
def test_same_bits_on_any_number_of_threads():
    x, attention = torch.randn(5000, 300), torch.rand(5000, 2)
    batch = d2k.Ragged(x, torch.tensor([0, 10, 4000, 4000, 5000]))
    before = torch.get_num_threads()
    made = []
    try:
        for threads in (1, 2, 7, 2, 1):
            torch.set_num_threads(threads)
            with d2k.backends.use("native"):
                score = d2k.foreground_score(batch, x[0]).values
                made.append([*d2k.attention_pool(batch, attention), d2k.topk_pool(batch), score])
    finally:
        torch.set_num_threads(before)
    for other in made[1:]:
        assert all(torch.equal(a, b) for a, b in zip(made[0], other, strict=True))
