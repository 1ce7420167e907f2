"""Native kernels and torch share device, context and current stream; nothing else is worth testing until they do."""

from __future__ import annotations

import pytest
import torch

import d2kernels as d2k

pytestmark = pytest.mark.gpu
OFFSETS = [0, 1 << 20]


def runs(scores):
    with d2k.backends.use("native", "connected_components"):
        return d2k.connected_components(scores, [0.5], offsets=torch.tensor(OFFSETS, device="cuda"))


def test_a_kernel_waits_for_what_torch_queued_before_it():
    scores = torch.zeros(OFFSETS[-1], device="cuda")
    assert runs(scores).start.numel() == 0
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        torch.cuda._sleep(200_000_000)  # about 0.1 s, in which a kernel on another stream would still see zeros
        scores[100:200] = 1
        found = runs(scores)
        shifted = found.start + 1  # and torch waits for the kernel
    torch.cuda.synchronize()
    assert (found.start.tolist(), found.end.tolist(), shifted.tolist()) == ([100], [200], [101])


def test_memory_is_of_the_same_context():
    scores = torch.rand(OFFSETS[-1], device="cuda")
    want = d2k.connected_components(scores.cpu(), [0.5], offsets=torch.tensor(OFFSETS))
    assert all(torch.equal(a.cpu(), b) for a, b in zip(runs(scores), want, strict=True))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_the_tensor_says_which_device():
    with torch.cuda.device(0):
        found = runs(torch.ones(OFFSETS[-1], device="cuda:1"))
    assert found.start.device.index == 1 and found.end.tolist() == OFFSETS[1:]
