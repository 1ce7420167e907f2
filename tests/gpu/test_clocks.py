"""The benchmarks' GPU clocks."""

from __future__ import annotations

import pytest
import timing
import torch

pytestmark = pytest.mark.gpu


def test_events_see_a_kernels_time_and_a_graph_replays_it():
    x = torch.randn(4096, 4096, device="cuda")
    runs = [lambda: x + 1, lambda: x @ x]
    add, product = (sorted(seconds)[len(seconds) // 2] for seconds in timing.Events(0.2).interleaved(runs))
    assert 1e-6 < add < product < 1
    replay = timing.graphed(runs[1])
    assert torch.equal(replay(), x @ x)


def test_what_synchronises_cannot_be_captured():
    x = torch.ones(3, device="cuda")
    with pytest.raises(RuntimeError):
        timing.graphed(lambda: x.sum().item())
    torch.cuda.synchronize()
    assert float((x + 1).sum()) == 6


def test_what_runs_on_the_cpu_has_no_graph():
    with pytest.raises(RuntimeError, match="nothing of it runs on the GPU"):
        timing.graphed(lambda: 1)


def test_peak_memory():
    assert timing.peak_memory(lambda: torch.empty(1 << 22, device="cuda"), torch.device("cuda")) >= 4 << 22
