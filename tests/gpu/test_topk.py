"""topk_pool's CUDA kernel against the CPU's, to the bit where the result is exact."""

from __future__ import annotations

import pytest
import torch

from d2kernels import backends
from d2kernels.ops.topk_pool import schema

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not backends.can_run("topk_pool", "native", "cuda"), reason="no compiled CUDA kernels"),
]
LENGTHS = torch.tensor([1, 0, 33, 750, 6001, 2, 25000])  # the last are too long for shared memory
K = torch.tensor([1, 1, 5, 94, 751, 10**6, 25000])
FLOATS = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


@pytest.fixture(autouse=True)
def native():
    with backends.use("native", "topk_pool"):
        yield


def problem(kind, classes, dtype, seed=0):
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), (LENGTHS + 3).cumsum(0)])
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(int(offsets[-1]), classes, generator=generator, dtype=torch.float64)
    if kind == "tied":
        x = (x * 2).round() / 2
    elif kind == "special":
        pick = torch.randint(0, 40, x.shape, generator=generator)
        for i, value in enumerate((float("nan"), float("inf"), -float("inf"), 0.0, -0.0)):
            x = x.masked_fill(pick == i, value)
    return x.to(dtype), offsets, LENGTHS, K


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("classes", [1, 4, 20, 31])
@pytest.mark.parametrize("kind", ["random", "tied", "special"])
def test_equals_the_cpu(kind, classes, dtype):
    arguments = problem(kind, classes, dtype)
    want = schema.topk_pool(*arguments)
    on_device = [a.cuda() for a in arguments]
    got = [t.cpu() for t in schema.topk_pool(*on_device)]
    for g, w in zip(got[1:], want[1:], strict=True):
        assert torch.equal(g.isnan(), w.isnan()) and torch.equal(g.nan_to_num(), w.nan_to_num())
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(got[0], want[0], rtol=4 * eps, atol=4 * eps, equal_nan=True)
    grad = torch.randn(want[0].shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    want_x = schema.topk_pool_backward(grad, *arguments, *want[1:])
    got_x = schema.topk_pool_backward(grad.cuda(), *on_device, *(w.cuda() for w in want[1:])).cpu()
    torch.testing.assert_close(got_x, want_x, rtol=2 * eps, atol=0, equal_nan=True)


def test_replays_in_a_graph():
    arguments = [a.cuda() for a in problem("random", 20, torch.float32)]
    grad = torch.randn(len(LENGTHS), 20, device="cuda")

    def run():
        out = schema.topk_pool(*arguments)
        return *out, schema.topk_pool_backward(grad, *arguments, *out[1:])

    want = run()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run()
    graph.replay()
    assert all(torch.equal(a, b) for a, b in zip(captured, want, strict=True))
    fresh = problem("random", 20, torch.float32, seed=5)[0]
    arguments[0].copy_(fresh)
    graph.replay()
    again = [t.clone() for t in captured]
    assert all(torch.equal(a, b) for a, b in zip(again, run(), strict=True))


@pytest.mark.parametrize("starts", [[0, 10**9], [-(10**9), 20], [10**12, -(10**12), 10], [15, 10, 5, 0]])
def test_bad_offsets_touch_no_foreign_memory(starts):
    x, offsets = torch.ones(20, 3, device="cuda"), torch.tensor(starts, device="cuda")
    lengths = torch.full((len(starts) - 1,), 10**9, device="cuda")
    saved = schema.topk_pool(x, offsets, lengths, lengths * 5)
    grad = schema.topk_pool_backward(saved[0], x, offsets, lengths, lengths * 5, *saved[1:])
    torch.cuda.synchronize()
    assert grad.isfinite().all()
